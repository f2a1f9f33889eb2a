"""Ways around the limits of the sandbox, tried for real; its filter of system calls, step by step."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tamis.errors import InputError
from tamis.evaluation.sandbox import Limits, Outcome, check_sandbox, run_tests
from tamis.evaluation.sandbox_filter import refusals

PATIENT = Limits(seconds=120.0)


@pytest.fixture(scope="module")
def sandbox() -> None:
    try:
        check_sandbox()
    except InputError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


def run(text: str, limits: Limits = PATIENT) -> Outcome:
    return run_tests([textwrap.dedent(text)], limits)[0]


# ---- memory that nobody could count ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    "text",
    [
        "os.memfd_create('m')",
        "mmap.mmap(-1, 1 << 20)",
        "open('/dev/zero')",
        "check(libc.shmget(0, 1 << 20, 0o1600))",
        "check(libc.msgget(0, 0o1600))",
        "check(libc.semget(0, 1, 0o1600))",
    ],
)
def test_there_is_no_memory_outside_of_what_is_counted(text: str) -> None:
    assert run(f"""
        import ctypes, mmap, os
        libc = ctypes.CDLL(None, use_errno=True)
        def check(result):
            if result < 0:
                raise OSError(ctypes.get_errno(), '')
        try:
            {text}
            raise RuntimeError('allowed')
        except (PermissionError, FileNotFoundError):
            pass
    """) == Outcome(True, "passed")


@pytest.mark.usefixtures("sandbox")
def test_memory_of_ones_own_and_of_files_can_be_mapped() -> None:
    assert run("""
        import mmap
        private = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        private.write(b'x' * (1 << 20))
        with open('f', 'w+b') as file:
            file.truncate(4096)
            mmap.mmap(file.fileno(), 4096)[:2] = b'ab'
        assert open('f', 'rb').read(2) == b'ab'
    """) == Outcome(True, "passed")


# ---- namespaces, keyrings, files that a program closes ---------------------------------------------------------------


@pytest.mark.usefixtures("sandbox")
def test_there_are_no_further_namespaces_and_no_keyring() -> None:
    assert run("""
        import ctypes, platform, socket
        libc = ctypes.CDLL(None, use_errno=True)
        for flags in (0x10000000, 0x10000000 | 0x20000, 0x20000, 0x40000000):
            assert libc.unshare(flags) == -1 and ctypes.get_errno() == 1, flags
        buffer = ctypes.create_string_buffer(99)
        keyctl = {'x86_64': 250}.get(platform.machine(), 219)
        assert libc.syscall(keyctl, 6, -3, buffer, 99) == -1 and ctypes.get_errno() == 1
        try:
            socket.socket(40, socket.SOCK_STREAM)  # AF_VSOCK
            raise RuntimeError('a socket')
        except OSError:
            pass
        socket.socket().close()
    """) == Outcome(True, "passed")


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(("end", "reason"), [("", "passed"), ("\nassert 0", "assertion failed")])
@pytest.mark.parametrize("first", [0, 3])
def test_a_program_may_close_every_file(first: int, end: str, reason: str) -> None:
    assert run(f"import os; os.closerange({first}, 64){end}").reason == reason


@pytest.mark.usefixtures("sandbox")
def test_a_program_has_no_file_through_which_to_tell() -> None:
    assert run("""
        import os
        for number in range(3, 64):
            try:
                os.fstat(number)
                raise RuntimeError(number)
            except OSError:
                pass
    """) == Outcome(True, "passed")


@pytest.mark.usefixtures("sandbox")
def test_a_very_long_reason_is_cut() -> None:
    outcome = run("""
        E = type('E' * 10_000, (Exception,), {'__str__': lambda self: 1 / 0})
        raise E
    """)
    assert outcome.reason.startswith("error: EEE")
    assert len(outcome.reason) <= 200


@pytest.mark.usefixtures("sandbox")
def test_threads_and_processes_work() -> None:
    assert run("""
        import multiprocessing, threading
        context = multiprocessing.get_context('fork')
        def half(n):
            return n / 2
        with context.Pool(2) as pool:
            assert pool.map(half, [4, 5]) == [2, 2.5]
        found = []
        thread = threading.Thread(target=found.append, args=(1,))
        thread.start()
        thread.join()
        assert found == [1]
    """) == Outcome(True, "passed")


# ---- wherever Python lies --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("place", ["/home/u/py", "/var/lib/py", "/tmp/py"])
def test_python_may_lie_anywhere(place: str, tmp_path: Path) -> None:
    """In a mount namespace where this Python lies elsewhere: over /home, say, a folder of ours is mounted."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare of util-linux")
    top = "/" + place.split("/")[1]
    inside = tmp_path / place.removeprefix(top + "/")
    inside.mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    name = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    if not name.exists():
        pytest.skip(f"this Python has no {name}")
    if any(Path(path).resolve().is_relative_to(top) for path in sys.path if path):
        pytest.skip(f"tamis itself or its libraries lie below {top}, which this covers")
    code = (
        "import sys; from tamis.evaluation.sandbox import *; print(sys.base_prefix, run_tests(sys.argv[1:])[0].reason)"
    )
    program = f"import os\nassert os.listdir({top!r}) == [{place.split('/')[2]!r}], os.listdir({top!r})"
    script = 'mount --bind "$1" "$2" && mount --rbind "$3" "$4" && shift 4 && exec "$@"'
    user = ["--user", "--map-root-user"] if os.getuid() else []
    wrapped = ["unshare", *user, "--mount", "sh", "-c", script, "-", sys.base_prefix, str(inside), str(tmp_path), top]
    python = ["env", f"PYTHONPATH={':'.join(path for path in sys.path if path)}", f"{place}/bin/{name.name}"]
    done = subprocess.run([*wrapped, *python, "-c", code, program], capture_output=True, text=True, check=False)
    if "unshare: " in done.stderr or "mount: " in done.stderr:
        pytest.skip(f"mounts cannot be made here: {done.stderr}")
    assert done.stdout == f"{place} passed\n", done.stderr


# ---- the filter ------------------------------------------------------------------------------------------------------


def _decided(steps: bytes, data: bytes) -> int:
    """What a filter returns for a `struct seccomp_data`."""
    place, value = 0, 0
    while True:
        code, if_true, if_false, k = struct.unpack_from("=HBBI", steps, 8 * place)
        place += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:
            value &= k
        else:
            holds = {0x15: value == k, 0x35: value >= k}[code]
            place += if_true if holds else if_false


def _call(number: int, *arguments: int, architecture: int) -> bytes:
    return struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))


@pytest.mark.parametrize(
    ("machine", "architecture", "numbers"),
    [("x86_64", 0xC000003E, (0, 319, 272, 56, 435, 41, 9)), ("aarch64", 0xC00000B7, (63, 279, 97, 220, 435, 198, 222))],
)
def test_what_the_filter_refuses(machine: str, architecture: int, numbers: tuple[int, ...]) -> None:
    read, memfd_create, unshare, clone, clone3, socket, mmap = numbers
    steps = refusals(machine)
    allowed, refused = 0x7FFF0000, 0x00050000 | errno.EPERM
    for expected, number, *arguments in [
        (allowed, read, 3),
        (refused, memfd_create),
        (refused, unshare, 0x10000000),
        (allowed, clone, 0x11),
        (refused, clone, 0x10000011),
        (0x00050000 | errno.ENOSYS, clone3),
        (allowed, socket, 2),
        (refused, socket, 40),
        (refused, socket, (7 << 32) | 40),  # the kernel looks at 32 bits
        (allowed, mmap, 0, 4096, 3, 0x22),
        (allowed, mmap, 0, 4096, 3, 0x01),
        (refused, mmap, 0, 4096, 3, 0x21),
        (refused, mmap, 0, 4096, 3, 0x23),
        (refused, 0x40000000 + read),
    ]:
        assert _decided(steps, _call(number, *arguments, architecture=architecture)) == expected, (number, arguments)
    assert _decided(steps, _call(read, architecture=0x40000003)) == refused  # calls of 32 bits


def test_a_machine_whose_calls_are_not_known_has_no_sandbox() -> None:
    with pytest.raises(InputError, match="no sandbox for generated code on vax: expected one of x86_64, aarch64"):
        refusals("vax")
