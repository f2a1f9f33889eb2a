"""What runs inside the sandbox of `tamis.evaluation.sandbox`: a script of its own, standard library only.

Three processes: this one builds the walls and waits; its child is process 1 of a pid namespace, with whose end the
kernel ends everything in it; that one's child runs the program and leaves word of its end in memory that both share:
a program may close every file, and has none through which it could tell. Nothing here is for use from outside.
"""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_SETATTR = 1, 2, 4, -100, 0x8000, 442
_MNT_DETACH, _PDEATHSIG, _NO_NEW_PRIVS, _CAPABILITIES_3 = 2, 1, 38, 0x20080522
_NOBODY, _INSIDE = 65534, 1000
_SECCOMP, _WITH_FILTER = 22, 2
_ROOT = "/tmp"  # the new root is mounted over it, in this mount namespace only


def main() -> None:
    """Read the job from stdin, build the sandbox, run the program, leave with the status that it left with."""
    job = json.load(sys.stdin)
    pipe = job["report"]
    last_word = mmap.mmap(-1, 4096)  # the filter refuses it later on

    def report(reason: str) -> None:
        data = reason.encode(errors="replace")[:4096]
        last_word[: len(data)] = data

    try:
        _build(job)
    except (OSError, AttributeError) as error:  # the latter for what the C library lacks
        os.write(pipe, f"no sandbox: {error}".encode())
        sys.exit(1)
    ends = (signal.SIGTERM, signal.SIGCHLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    init = os.fork()
    if not init:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
        _die_with_parent(None)
        candidate = os.fork()
        if not candidate:
            _limit(job)
            os.write(pipe, b"started\n")
            os.close(pipe)
            _run(job["program"], report)
        while True:  # process 1 also collects orphans
            pid, status = os.wait()
            if pid == candidate:
                os.write(pipe, last_word[:].rstrip(b"\0"))
                os._exit(_code(status))
    if signal.sigwait(ends) == signal.SIGTERM:
        os.kill(init, signal.SIGKILL)
    os._exit(_code(os.waitpid(init, 0)[1]))  # it is gone only after everything in its namespace


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _call(name: str, *arguments: Any) -> None:
    """A function of the C library by name; OSError where it fails."""
    if getattr(_LIBC, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


_LIBC = ctypes.CDLL(None, use_errno=True)


def _build(job: dict[str, Any]) -> None:
    """Namespaces of users, processes, mounts, network and IPC; a root of its own; no capability left."""
    _unshare()
    _mount_root(job)
    os.setresgid(_INSIDE, _INSIDE, _INSIDE)
    os.setresuid(_INSIDE, _INSIDE, _INSIDE)
    _die_with_parent(job["parent"])
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    _call("capset", header, none)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    _filter(bytes.fromhex(job["filter"]))


def _filter(steps: bytes) -> None:
    """Put a seccomp filter over this process and all that it starts."""
    array = ctypes.create_string_buffer(steps, len(steps))
    program = struct.pack("HP", len(steps) // 8, ctypes.addressof(array))  # struct sock_fprog
    try:
        _call("prctl", _SECCOMP, ctypes.c_ulong(_WITH_FILTER), program, 0, 0)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (seccomp filters, CONFIG_SECCOMP_FILTER)") from None


def _unshare() -> None:
    """New namespaces, in which user 1000 is who we are, or nobody where we are root: RLIMIT_NPROC never binds root.

    Only somebody outside may map a user that we are not, so that a child stays outside for that long.
    """
    uid, gid, pid = os.getuid(), os.getgid(), os.getpid()
    maps = [f"{_INSIDE} {uid} 1", f"{_INSIDE} {gid} 1"]
    as_nobody = uid == 0 and _is_mapped(_NOBODY)
    if as_nobody:
        maps = [f"0 {mine} 1\n{_INSIDE} {_NOBODY} 1" for mine in (uid, gid)]
        os.setgroups([])
    done, go = os.pipe()
    outside = os.fork() if as_nobody else None
    if outside == 0:
        os.close(go)
        os.read(done, 1)
        _write_maps(pid, maps)
        os._exit(0)
    _call("unshare", _NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC)
    os.close(go)
    os.close(done)
    if outside is None:
        Path("/proc/self/setgroups").write_text("deny")
        _write_maps(pid, maps)
    elif os.waitpid(outside, 0)[1]:
        raise OSError(errno.EPERM, "user 65534 cannot be mapped into the user namespace")
    with contextlib.suppress(OSError):  # where it is read-only, the filter alone refuses further ones
        Path("/proc/sys/user/max_user_namespaces").write_text("0")


def _is_mapped(uid: int) -> bool:
    """Whether a user exists where we are; in a container of somebody without privileges, root is often the only one."""
    lines = [map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(first <= uid < first + count for first, _, count in lines)


def _write_maps(pid: int, maps: list[str]) -> None:
    for kind, text in zip(("uid", "gid"), maps, strict=True):
        Path(f"/proc/{pid}/{kind}_map").write_text(text)


def _die_with_parent(parent: int | None) -> None:
    _call("prctl", _PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    try:
        _call("mount", *encoded, ctypes.c_ulong(flags), None if options is None else options.encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({target})") from None


def _mount_root(job: dict[str, Any]) -> None:
    """A root of libraries, read-only, and an empty /tmp of limited size; the old root is gone."""
    paths = [path for path in map(Path, job["visible"]) if path.exists()]
    links = [path for path in paths if path.is_symlink() and path.parent == Path("/")]  # /lib is often usr/lib
    # Opened before something is mounted over them
    sources = {path: os.open(path, os.O_PATH) for path in paths if path not in links}
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", _ROOT, "tmpfs", _MS_NOSUID, "size=1m,mode=755")
    Path(_ROOT, "tmp").mkdir()  # first, for a Python that lies in /tmp
    options = f"size={job['file_bytes']},nr_inodes={job['n_files']},mode=700,uid={_INSIDE},gid={_INSIDE}"
    _mount("tmpfs", f"{_ROOT}/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    for path in links:
        Path(f"{_ROOT}{path}").symlink_to(path.readlink())
    for path, descriptor in sources.items():
        if not sources.keys().isdisjoint(path.parents):
            os.close(descriptor)
            continue
        target = Path(f"{_ROOT}{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            target.mkdir()
        else:
            target.touch()
        _mount(f"/proc/self/fd/{descriptor}", str(target), None, _MS_BIND | _MS_REC)
        _protect(str(target), 0 if path.parent == Path("/dev") else _ATTR_NODEV)
        os.close(descriptor)
    Path(f"{_ROOT}/dev/shm").symlink_to("/tmp")  # semaphores of multiprocessing are files there
    os.chdir(_ROOT)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    _protect("/", _ATTR_NODEV, recursive=False)
    os.chdir("/tmp")


def _protect(path: str, attributes: int, recursive: bool = True) -> None:
    """Read-only, without set-user-id, with everything mounted below."""
    wanted = (ctypes.c_uint64 * 4)(_ATTR_RDONLY | _ATTR_NOSUID | attributes, 0, 0, 0)
    number, place, flags = ctypes.c_long(_MOUNT_SETATTR), ctypes.c_int(_AT_FDCWD), _AT_RECURSIVE if recursive else 0
    try:
        _call("syscall", number, place, path.encode(), ctypes.c_uint(flags), wanted, ctypes.c_size_t(32))
    except OSError as error:
        raise OSError(error.errno, f"mount_setattr, of Linux 5.12: {error.strerror} ({path})") from None


def _limit(job: dict[str, Any]) -> None:
    os.setsid()  # or killing its own process group would end the processes above it too
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, job["memory_bytes"]),
        (resource.RLIMIT_FSIZE, job["file_bytes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, job["n_processes"] + 2),  # the two processes above are counted
    ):
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _run(text: str, report: Callable[[str], None]) -> None:
    """Run the program as a module and report how it ended; the process ends here."""
    module = types.ModuleType("candidate")  # not __main__: what stands under `if __name__ == ...` is no function
    sys.modules["candidate"] = module
    sys.argv = ["candidate"]
    process, own, leave = os.getpid(), os.getpid, os._exit
    try:
        exec(compile(text, "candidate.py", "exec"), module.__dict__)
        reason = "passed"
    except AssertionError:
        reason = "assertion failed"
    except MemoryError:
        reason = "out of memory"
    except SystemExit:
        reason = "left before its tests were done"
    except BaseException as error:  # noqa: BLE001 whatever it raised is what is told
        reason = f"error: {type(error).__name__}"[:200]
        with contextlib.suppress(BaseException):  # an error may fail to say what it is
            reason = " ".join(f"{reason}: {error}".split())[:200]
    if own() == process:  # a fork that came to the end as well has no say
        report(reason)
    leave(0)


if __name__ == "__main__":
    main()
