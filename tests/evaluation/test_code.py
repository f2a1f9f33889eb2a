"""Programs that misbehave, run for real: what they can reach is looked at from outside."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tamis.errors import InputError
from tamis.evaluation.code import Limits, Outcome, check_sandbox, program, run_tests

PATIENT = Limits(seconds=120.0)  # other tests may keep every processor busy
HEAD = 'import math\n\n\ndef half(n):\n    """Half of n."""\n'
PROMPT = f"Complete the function.\n\n```python\n{HEAD}```"
TEST = "def check(candidate):\n    assert candidate(4) == 2\n    assert candidate(5) == 2.5\n"


@pytest.fixture(autouse=True, scope="session")
def _sandbox() -> None:
    try:
        check_sandbox()
    except InputError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


def run(text: str, limits: Limits = PATIENT) -> Outcome:
    return run_tests([text], limits)[0]


# ---- what a reply becomes ------------------------------------------------------------------------------------------

FENCE = "`" * 3
BODY = "    if n % 2 == 0:\n        return n // 2\n    return math.fsum([n]) / 2\n"
WHOLE = f"def half(n):\n{BODY}"
REPLIES = {
    "fenced": f"```python\n{HEAD}{BODY}```",
    "fenced without imports": f"Here it is:\n\n```\n{WHOLE}```\n\nIt's (nearly",
    "fence in a list": "1. So:\n" + re.sub("^", "   ", f"```python\n{WHOLE}```", flags=re.MULTILINE),
    "fence left open": f"```python\n{WHOLE}",
    "second block": f"First\n```\npip install half\n```\nthen\n```python\n{WHOLE}```",
    "bare": f"import math\n{WHOLE}",
    "bare in prose": f"Sure, here is the function:\n\n{WHOLE}\nThis isn't hard (is it",
    "with helpers": f"def two():\n    return 2\n\n{WHOLE.replace('n // 2', 'n // two()')}",
    "continuation": BODY,
    "continuation, stripped": BODY.strip(),
    "continuation, dedented": re.sub("^    ", "", BODY, flags=re.MULTILINE),
    "continuation, fenced": f"```python\n{BODY}```",
    "continuation and prose": f"{BODY}\nThat's all (",
    "CRLF": f"```python\r\n{WHOLE}```".replace("\n", "\r\n"),
    "lambda": "```python\nhalf = lambda n: n / 2\n```",
    "future": f"```python\nfrom __future__ import annotations\n{WHOLE}```",
    "constant, bare": f"TWO = 2\n{WHOLE.replace('n // 2', 'n // TWO')}",
    "tuple of values": "```python\ntwo, half = 2, lambda n: n / two\n```",
    "annotated": "```python\nfrom typing import Any\nhalf: Any = lambda n: n / 2\n```",
    "import in a block": f"```\nimport re as r\n```\nThen\n```\n{WHOLE.replace('math.', 'r and math.')}```",
    "helper in a block": "```python\ndef two():\n    return 2\n```\n```python\ndef half(n):\n    return n / two()\n```",
    "draft": f"```python\ndef half(n):\n    return n // 2\nprint(half(5))\n```\nCorrected:\n```python\n{WHOLE}```",
    "draft, bare": f"def half(n):\n    return n // 2\n\nCorrected:\n\n{WHOLE}",
    "use first": f"```python\nhalf = half\nprint(half(4))\n```\n```python\n{WHOLE}```",
    "use after": f"{WHOLE}\nSo:\n```python\nhalf(4)\n```",
    "fence in a docstring": f'```python\ndef half(n):\n    """Say\n    ```\n    half(4)\n    ```\n    """\n{BODY}```',
    "fence on the last line": "```python\ndef half(n):\n    return n / 2```\nSo.",
    "fence after prose": f"Here: ```python\n{WHOLE}```",
    "other fences": f"~~~~python\n{WHOLE}~~~~",
    "prose like code": f"from what we see:\nclass of problems: easy\nimport nothing so that\n\n{WHOLE}",
    "head again": f"{WHOLE}\nThe next one.\n\n{HEAD}",
    "a thousand terms": f"```\nx = {'+'.join(['1'] * 900)}\n```\n```\n{WHOLE}```",
    "main block": f"```python\n{WHOLE}\nif __name__ == '__main__':\n    print(half(int(input())))\n```",
}


def test_replies_in_every_shape_pass() -> None:
    outcomes = run_tests([program(PROMPT, reply, TEST, "half") for reply in REPLIES.values()], PATIENT)
    assert dict(zip(REPLIES, outcomes, strict=True)) == dict.fromkeys(REPLIES, Outcome(True, "passed"))


PROMPTS = {
    "bare": HEAD,
    "in prose": f"Complete the function below.\n\n{HEAD}",
    "indented in prose": "Write `half`:\n\n    import math\n    def half(n):\n        '''Half.'''\n\nDo it well (",
    "without docstring": f"Go on:\n{FENCE}\nimport math\ndef half(n):\n{FENCE}",
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_head_in_every_shape_is_found(prompt: str) -> None:
    replies = [WHOLE, BODY, f"```python\n{WHOLE}```", BODY.strip()]
    outcomes = run_tests([program(PROMPTS[prompt], reply, TEST, "half") for reply in replies], PATIENT)
    assert outcomes == [Outcome(True, "passed")] * len(replies)


def test_a_prompt_without_a_head() -> None:
    prompt = "Write a function half, so that assert half(4) == 2 holds."
    replies = ["half = lambda n: n / 2", "    def half(n):\n        return n / 2\n", f"import math\n{WHOLE}"]
    outcomes = run_tests([program(prompt, reply, TEST, "half") for reply in [*replies, BODY]], PATIENT)
    assert [outcome.passed for outcome in outcomes] == [True, True, True, False]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "assertion failed"),
        ("I would rather not.", "error: SyntaxError: "),
        (WHOLE.replace("/ 2", "/ 3"), "assertion failed"),
        ("    return n / 2\n\ndef check(candidate): pass", "passed"),
        ("    return n / 3\n\ndef check(candidate): pass", "assertion failed"),
        ("```python\ndef third(n):\n    return n / 2\n```", "assertion failed"),
        ("```python\ndef half(n:\n    return n / 2\n```", "error: SyntaxError: "),
        ("```python\ndef half(n):\n    return helper(n)\n```", "error: NameError: name 'helper' is not defined"),
        ("```python\ndef half(n):\n    return n / 2\n'''\n```", "error: SyntaxError: "),
        (WHOLE + "raise SystemExit(0)", "left before its tests were done"),
        ("(" * 5000, "error: SyntaxError: "),
        ("x\0", "error: SyntaxError: "),
    ],
)
def test_replies_by_what_they_are_worth(reply: str, reason: str) -> None:
    outcome = run(program(PROMPT, reply, TEST, "half"))
    assert outcome.reason.startswith(reason)
    assert outcome.passed == (reason == "passed")


def _real_rows(shared: Path) -> list[dict[str, Any]]:
    files = [shared / "data" / "targets" / "code" / name for name in ("dev.jsonl", "test.jsonl")]
    if not all(file.exists() for file in files):
        pytest.skip("the code target is not at hand")
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def _programs(rows: list[dict[str, Any]], reply: Callable[[dict[str, Any]], str]) -> list[str]:
    return [
        program(row["messages"][0]["content"], reply(row), row["meta"]["test"], row["meta"]["entry_point"])
        for row in rows
    ]


def test_every_reference_of_the_real_target_passes(shared: Path) -> None:
    rows = _real_rows(shared)
    assert len(rows) == 164
    outcomes = run_tests(_programs(rows, lambda row: row["messages"][1]["content"]), PATIENT)
    assert {row["id"]: o.reason for row, o in zip(rows, outcomes, strict=True) if not o.passed} == {}


def test_no_reference_with_a_broken_body_passes(shared: Path) -> None:
    rows = _real_rows(shared)

    def broken(row: dict[str, Any]) -> str:
        head = row["messages"][0]["content"].split("```python\n")[1].split("```")[0].rstrip()
        text: str = row["messages"][1]["content"]
        assert head in text
        return text.replace(head, head + "\n    return None")

    outcomes = run_tests(_programs(rows, broken), PATIENT)
    assert {row["id"]: o.reason for row, o in zip(rows, outcomes, strict=True) if o.passed} == {}


# ---- success is not to be had otherwise ----------------------------------------------------------------------------

WRITE_ALL = "import os\nfor fd in range(64):\n    try: os.write(fd, b'passed\\n')\n    except OSError: pass\n"


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "import os; os._exit(0)",
        "print('passed'); import os; os._exit(0)",
        WRITE_ALL + "os._exit(0)",
        "import os\nif os.fork(): os._exit(0)",
        "import os\nif os.fork(): raise SystemExit",
        "import threading, os; threading.Thread(target=lambda: os._exit(0)).start()\nwhile True: pass",
    ],
)
def test_leaving_early_is_no_success(text: str) -> None:
    assert run(text) == Outcome(False, "left before its tests were done")


def test_what_a_program_overwrites_is_its_own_affair() -> None:
    text = "import os, builtins, sys\nos.write = os._exit = os.getpid = builtins.print = None\nsys.stdout.close()"
    assert run(text) == Outcome(True, "passed")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import os; os.killpg(0, 9)", "killed by SIGKILL"),
        ("def f(): f()\nf()", "error: RecursionError: maximum recursion depth exceeded"),
        ("raise ValueError('a\\nb' + 'c' * 1000)", "error: ValueError: a b" + "c" * 178),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "error: E"),
        ("raise ValueError('\\udcff')", "error: ValueError: ?"),
        ("input()", "error: EOFError: EOF when reading a line"),
        ("def f(:", "error: SyntaxError: invalid syntax (candidate.py, line 1)"),
        ("import subprocess; subprocess.run(['/bin/sh', '-c', 'true'])", "error: FileNotFoundError: [Errno 2] "),
    ],
)
def test_how_it_ended(text: str, reason: str) -> None:
    outcome = run(text)
    assert outcome.reason.startswith(reason)
    assert len(outcome.reason) <= 200
    assert not outcome.passed


# ---- time, memory, processes, files --------------------------------------------------------------------------------


def test_an_endless_loop_is_ended() -> None:
    began = time.monotonic()
    assert run("while True: pass", Limits(seconds=1.0)) == Outcome(False, "timed out")
    assert time.monotonic() - began < 60


def test_one_process_that_eats_memory() -> None:
    assert run("x = bytearray(1 << 34)") == Outcome(False, "out of memory")
    eats = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    assert run(eats, Limits(seconds=120.0, memory_bytes=200 << 20)) == Outcome(False, "out of memory")


def test_many_processes_that_eat_memory_together() -> None:
    text = "import os, time\nfor _ in range(6):\n    if not os.fork(): break\nx = b'x' * (80 << 20)\ntime.sleep(600)"
    assert run(text, Limits(seconds=120.0, memory_bytes=200 << 20)) == Outcome(False, "out of memory")


def test_files_are_limited_in_size_and_number() -> None:
    fill = "for n in range(99): open(f'f{n}', 'wb').write(bytes(1 << 19))"
    assert run(fill, Limits(seconds=120.0, file_bytes=4 << 20)).reason.startswith("error: OSError: [Errno 28]")
    assert run("open('f', 'wb').write(bytes(17 << 20))").reason.startswith("error: OSError: [Errno 27]")
    assert run("for n in range(300): open(f'f{n}', 'w')").reason.startswith("error: OSError: [Errno 28]")
    assert run("open('f', 'w').write('kept'); assert open('/tmp/f').read() == 'kept'").passed


NAMED = "import ctypes, os, time\nctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\n"  # PR_SET_NAME


def _named(name: str) -> int:
    return sum(process.info["name"] == name for process in psutil.process_iter(["name"]))


def _watched(text: str, limits: Limits) -> tuple[Outcome, int, int]:
    """Outcome of a program, the most processes it was seen to have, and those left of it."""
    name = f"t{uuid.uuid4().hex[:12]}"
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(NAMED.format(name=name) + text, limits)))
    thread.start()
    most = 0
    while thread.is_alive():
        most = max(most, _named(name))
        time.sleep(0.01)
    return outcomes[0], most, _named(name)


def test_a_fork_bomb_is_bounded_and_ended() -> None:
    bomb = "while True:\n    try: os.fork()\n    except OSError: pass"
    outcome, most, left = _watched(bomb, Limits(seconds=4.0, n_processes=12))
    assert outcome == Outcome(False, "timed out")
    assert 1 < most <= 12
    assert left == 0


@pytest.mark.parametrize("end", ["time.sleep(3)", "time.sleep(999)"])
def test_daemons_end_with_their_program(end: str) -> None:
    daemon = "if not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(999)\n    os._exit(0)\nos.wait()\n"
    outcome, most, left = _watched(daemon + end, Limits(seconds=10.0))
    assert outcome.reason == ("passed" if end == "time.sleep(3)" else "timed out")
    assert most >= 2
    assert left == 0


def test_nothing_is_left_where_the_caller_dies() -> None:
    name = f"t{uuid.uuid4().hex[:12]}"
    text = NAMED.format(name=name) + "if not os.fork(): os.setsid()\ntime.sleep(999)"
    code = "from tamis.evaluation.code import *; import sys; run_tests([sys.argv[1]] * 2, Limits(seconds=300.0))"
    caller = subprocess.Popen([sys.executable, "-c", code, text])
    deadline = time.monotonic() + 120
    while _named(name) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _named(name) == 4
    caller.kill()
    caller.wait()
    while _named(name) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _named(name) == 0


def test_endless_output_is_thrown_away(capfd: pytest.CaptureFixture[str]) -> None:
    before = psutil.Process().memory_info().rss
    text = "import sys\nwhile True:\n    print('x' * 100_000)\n    print('y' * 100_000, file=sys.stderr)"
    assert run(text, Limits(seconds=2.0)) == Outcome(False, "timed out")
    assert psutil.Process().memory_info().rss - before < 50 << 20
    assert capfd.readouterr() == ("", "")


# ---- what is outside -----------------------------------------------------------------------------------------------


def test_nothing_outside_is_written_read_or_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.txt").write_text("secret")
    tmp_path.chmod(0o777)
    (tmp_path / "kept.txt").chmod(0o666)
    mark = uuid.uuid4().hex
    places = [tmp_path, Path("/tmp"), Path.home(), Path.cwd(), Path("/"), Path("/usr/lib"), Path(os.__file__).parent]
    text = f"""
import os, shutil
for place in {[str(place) for place in places]}:
    try:
        open(os.path.join(place, {mark!r}), 'w').write('x')
        assert place == '/tmp', place
    except OSError:
        pass
for act in (os.remove, open, os.listdir):
    try:
        act({str(tmp_path / "kept.txt")!r})
        raise RuntimeError(act)
    except OSError:
        pass
shutil.rmtree({str(tmp_path)!r}, ignore_errors=True)
shutil.rmtree(os.path.dirname(os.__file__), ignore_errors=True)
import wave
"""
    assert run(text) == Outcome(True, "passed")
    assert [place for place in places if (place / mark).exists()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert (tmp_path / "kept.txt").read_text() == "secret"
    assert Path(os.__file__).exists()


def test_walls_cannot_be_taken_down() -> None:
    text = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
remount = lambda: libc.mount(b'none', b'/', None, ctypes.c_ulong(32 | 4096), None)
assert remount() == -1 and ctypes.get_errno() == 1
assert libc.umount2(os.path.dirname(os.__file__).encode(), 2) == -1
libc.unshare(0x10020000)
assert remount() == -1
for uid in (0, 65534):
    try:
        os.setuid(uid)
        raise RuntimeError(uid)
    except OSError:
        pass
"""
    assert run(text) == Outcome(True, "passed")


def test_no_server_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        assert run(connect).reason.startswith("error: OSError: [Errno 101]")
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
        socket.create_connection(("127.0.0.1", port), 5).close()  # from here it answers
        server.accept()[0].close()


def test_secrets_and_processes_of_the_caller_are_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    text = f"""
import os
assert set(os.environ) <= {{'HOME', 'LANG', 'LC_CTYPE'}}, os.environ
assert 'hunter2' not in str(os.environ)
assert not os.path.exists('/proc') and not os.path.exists('/etc/passwd')
assert not os.path.exists({str(Path.home() / ".bashrc")!r}) and os.listdir('.') == []
for pid in ({os.getpid()}, 999):
    try:
        os.kill(pid, 0)
        raise RuntimeError(pid)
    except ProcessLookupError:
        pass
for fd in range(3, 64):
    try:
        os.lseek(fd, 0, 0)
        raise RuntimeError(fd)  # a file
    except OSError:
        pass
"""
    assert run(text) == Outcome(True, "passed")


# ---- many, and none ------------------------------------------------------------------------------------------------


def test_outcomes_keep_the_order_of_the_programs() -> None:
    texts = [f"import time; time.sleep({0.3 if n % 3 else 0}); raise ValueError({n})" for n in range(9)]
    outcomes = run_tests(texts, PATIENT, workers=4)
    assert [outcome.reason for outcome in outcomes] == [f"error: ValueError: {n}" for n in range(9)]
    assert run_tests([]) == []


def test_an_interrupt_ends_what_runs() -> None:
    code = (
        "import signal; signal.signal(2, signal.default_int_handler); "  # a shell's background job ignores it
        "from tamis.evaluation.code import *; print('go', flush=True); run_tests(['while 1: pass'] * 9, Limits(300.0))"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    caller.stdout.readline()
    time.sleep(1)
    caller.send_signal(2)
    try:
        assert "KeyboardInterrupt" in caller.communicate(timeout=100)[1]
    finally:
        caller.kill()


def test_without_namespaces_nothing_runs() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare of util-linux")
    code = "from tamis.evaluation.code import *; run_tests(['pass'])"
    inner = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    forbid = ["unshare", "--user", "--map-root-user", "sh", "-c", inner, "-"]
    done = subprocess.run([*forbid, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "max_user_namespaces: " in done.stderr:
        pytest.skip(f"namespaces cannot be forbidden here: {done.stderr}")
    assert done.returncode == 1
    assert "InputError: no sandbox: [Errno 28] unshare: No space left on device; generated code runs " in done.stderr
