"""A seccomp filter as classic BPF, written by hand: no library is needed to build it.

A deny list: everything that could reach the kernel's rarely used corners, another process, or state
that outlives a job. Each job is under it before it reads its program.
"""

import platform
import struct
from collections.abc import Set
from typing import Final

_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EACCES = 1, 38, 13
_NR, _ARCH, _ARG0 = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000
# CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}
_NEW_NAMESPACES: Final = 0x7E020080

_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (x86_64, aarch64); None where the architecture has no such call
DENIED: Final[dict[str, tuple[int | None, int | None]]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "unshare": (272, 97),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "personality": (135, 92),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "fanotify_init": (300, 262),
    # The fork server has the uid of the job: nothing may change how it is scheduled or placed.
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # Memory that no address space shows, so RLIMIT_AS does not see it.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # System V and POSIX queues, shared memory and semaphores outlive the process that made them.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}
# What makes namespaces and workspaces; a job lacks the capability for them as well.
_TEMPLATE: Final = frozenset({"mount", "umount2", "setns", "unshare"})
_CLONE3: Final = 435
_CLONE: Final = (56, 220)
_SOCKET: Final = (41, 198)
_PRLIMIT64: Final = (302, 261)
_AF_UNIX: Final = 1
_LEAF: Final = 8  # calls that are compared one by one


def _op(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, true, false, value)


def supported(machine: str | None = None) -> bool:
    """Whether this architecture's call numbers are known."""
    return (machine or platform.machine()) in _AUDIT


def number(name: str) -> int:
    """The number of a denied call on this machine; KeyError when it has none."""
    found = DENIED[name][0 if platform.machine() == "x86_64" else 1]
    if found is None:
        raise KeyError(name)
    return found


def program(machine: str | None = None) -> bytes:
    """The filter as an array of ``struct sock_filter``.

    Args:
        machine: ``x86_64`` or ``aarch64``; this machine when None.

    Raises:
        KeyError: the architecture is not known; ask ``supported`` first.
    """
    return _program(machine or platform.machine(), set(DENIED), conditions=True)


def layers(machine: str | None = None) -> tuple[bytes, bytes]:
    """The same filter as two: of the template and all that it starts, and of its jobs alone.

    The kernel translates a filter for each process that takes it on, so what can be inherited is.

    Args:
        machine: as of ``program``.

    Raises:
        KeyError: as of ``program``.
    """
    machine = machine or platform.machine()
    inherited = _program(machine, set(DENIED) - _TEMPLATE, conditions=True)
    return inherited, _program(machine, _TEMPLATE, conditions=False)


def _program(machine: str, names: Set[str], *, conditions: bool) -> bytes:
    """A filter of the calls ``names``, and of those that are refused by their arguments."""
    column = 0 if machine == "x86_64" else 1
    code = [
        _op(_LD, _ARCH),
        _op(_JEQ, _AUDIT[machine], true=1),
        _op(_RET, _KILL),
        _op(_LD, _NR),
    ]
    if machine == "x86_64":  # the x32 numbers would slip past the list
        code += [_op(_JGE, _X32, false=1), _op(_RET, _ERRNO | _ENOSYS)]
    if conditions:
        # clone3 hides its flags in memory; without it, the C library falls back to clone.
        code += [_op(_JEQ, _CLONE3, false=1), _op(_RET, _ERRNO | _ENOSYS)]
        code += _on_argument(_CLONE[column], _op(_JSET, _NEW_NAMESPACES, false=1), _EPERM)
        # Only AF_UNIX, which asyncio and socketpair need: no packet leaves, not even on loopback.
        code += _on_argument(_SOCKET[column], _op(_JEQ, _AF_UNIX, true=1), _EACCES)
        # prlimit on oneself alone: the limits of the fork server are not the job's to lower.
        code += _on_argument(_PRLIMIT64[column], _op(_JEQ, 0, true=1), _EPERM)
    return b"".join(
        code + _search(sorted(call for name in names if (call := DENIED[name][column])))
    )


def _search(calls: list[int]) -> list[bytes]:
    """Refuse ``calls``, which are sorted, and allow all others.

    A tree: the kernel runs a filter for every call there is when a job takes it on.
    """
    if len(calls) > _LEAF:
        left, right = _search(calls[: len(calls) // 2]), calls[len(calls) // 2 :]
        return [_op(_JGE, right[0], true=len(left)), *left, *_search(right)]
    tests = [_op(_JEQ, call, true=len(calls) - index) for index, call in enumerate(calls)]
    return [*tests, _op(_RET, _ALLOW), _op(_RET, _ERRNO | _EPERM)]


def _on_argument(call: int, test: bytes, errno: int) -> list[bytes]:
    """Refuse ``call`` unless ``test`` on the low half of argument 0 skips the refusal."""
    return [
        _op(_JEQ, call, false=4),
        _op(_LD, _ARG0),
        test,
        _op(_RET, _ERRNO | errno),
        _op(_RET, _ALLOW),
    ]
