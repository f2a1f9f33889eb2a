"""System calls that a program in the sandbox is refused: a seccomp filter, made here, put in place by `sandbox_child`.

Refused are memory that no process need keep mapped, so that nobody can count it (memfd_create, memfd_secret, shared
anonymous mappings, System V IPC, message queues, io_uring), keyrings, further user namespaces, and sockets of virtual
machines, which network namespaces do not hold. https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import errno
import platform
import struct

from tamis.errors import InputError

_CALLS = {  # number on x86_64, and on machines that count as Linux's asm-generic does
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "mmap": (9, 222),
}
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1), "riscv64": (0xC00000F3, 1)}  # AUDIT_ARCH_…
_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000  # the latter with an error number in its low bits
_NEWUSER, _AF_VSOCK, _SHARED_ANONYMOUS = 0x10000000, 40, 0x21
_X32 = 0x40000000


def refusals(machine: str | None = None) -> bytes:
    """The filter, an array of `struct sock_filter`. InputError for a machine whose numbers of calls are not known."""
    machine = platform.machine() if machine is None else machine
    if machine not in _MACHINES:
        raise InputError(f"no sandbox for generated code on {machine}: expected one of {', '.join(_MACHINES)}")
    architecture, column = _MACHINES[machine]
    call = {name: numbers[column] for name, numbers in _CALLS.items()}
    refuse = (_RETURN, 0, 0, _REFUSE | errno.EPERM)
    steps = [(_LOAD, 0, 0, 4), (_IF_EQUAL, 1, 0, architecture), refuse]
    steps += [(_LOAD, 0, 0, 0), (_IF_AT_LEAST, 0, 1, _X32), refuse]
    for name, argument, mask, value in (
        ("clone", 0, _NEWUSER, _NEWUSER),
        ("socket", 0, 0xFFFFFFFF, _AF_VSOCK),
        ("mmap", 3, _SHARED_ANONYMOUS, _SHARED_ANONYMOUS),
    ):
        steps += [(_IF_EQUAL, 0, 5, call.pop(name)), (_LOAD, 0, 0, 16 + 8 * argument), (_AND, 0, 0, mask)]
        steps += [(_IF_EQUAL, 0, 1, value), refuse, (_RETURN, 0, 0, _ALLOW)]
    # Its flags lie in memory, where a filter cannot look; the C library then takes clone
    steps += [(_IF_EQUAL, 0, 1, call.pop("clone3")), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    for number in call.values():
        steps += [(_IF_EQUAL, 0, 1, number), refuse]
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, (_RETURN, 0, 0, _ALLOW)])
