"""Namespaces, capabilities and filters from inside a sandbox: thin calls into the C library.

Standard library only, like all of pedrl that is inside a sandbox.
"""

import ctypes
import os
import struct
from typing import Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWCGROUP: Final = 0x0200_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWPID: Final = 0x2000_0000
# None of mounts: nothing in a job can mount, and what it wrote is unmounted before the next job.
PER_JOB: Final = CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID
CAP_KILL: Final = 1 << 5
CAP_SETGID: Final = 1 << 6
CAP_SETUID: Final = 1 << 7
MNT_DETACH: Final = 2
MS_NOSUID_NODEV: Final = 2 | 4
MS_NOATIME: Final = 1024
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_MODE_FILTER: Final = 2
_SYS_OPENAT2: Final = ctypes.c_long(437)  # on every architecture
_AT_FDCWD: Final = ctypes.c_int(-100)
_OPEN_HOW: Final = struct.Struct("<QQQ")  # flags, mode, resolve
_RESOLVE_NO_MAGICLINKS: Final = 2
_RESOLVE_BENEATH: Final = 8
_F_GETPIPE_SZ: Final = 1032
_CAPABILITY_VERSION_3: Final = 0x2008_0522

_libc: Final = ctypes.CDLL(None, use_errno=True)
# Bound here: looking a symbol up touches ninety pages, and each job would do it again.
_prctl, _capset, _unshare, _setns = _libc.prctl, _libc.capset, _libc.unshare, _libc.setns
_fcntl: Final = _libc.fcntl
_CAPABILITIES_OF_SELF: Final = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES: Final = bytes(24)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def prctl(option: int, value: int) -> None:
    """Set one attribute of this process.

    Raises:
        OSError: the kernel refused.
    """
    _check(_prctl(option, value, 0, 0, 0), f"prctl {option}")


def unshare(flags: int) -> None:
    """Move this process, or for pid namespaces its future children, into fresh namespaces.

    Raises:
        OSError: the kernel refused.
    """
    _check(_unshare(flags), "unshare")


def enter_pid_namespace(pidfd: int) -> None:
    """Start future children in the pid namespace of another process.

    Raises:
        OSError: the kernel refused.
    """
    _check(_setns(pidfd, CLONE_NEWPID), "setns")


def mount_fresh(folder: str, size: int) -> None:
    """Cover ``folder`` with an empty tmpfs of ``size`` bytes.

    Raises:
        OSError: the kernel refused.
    """
    options = f"size={size},mode=1777".encode()
    flags = MS_NOSUID_NODEV | MS_NOATIME
    result = _libc.mount(b"tmpfs", folder.encode(), b"tmpfs", flags, options)
    _check(result, f"mount {folder}")


def unmount(folder: str) -> None:
    """Take the uppermost mount off ``folder``, whoever still uses it.

    Raises:
        OSError: the kernel refused.
    """
    _check(_libc.umount2(folder.encode(), MNT_DETACH), f"umount {folder}")


def drop_capabilities() -> None:
    """Give up every capability, for good: no program that is run can bring one back.

    Raises:
        OSError: the kernel refused.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _check(_capset(_CAPABILITIES_OF_SELF, _NO_CAPABILITIES), "capset")


def keep_capabilities(kept: int) -> None:
    """Give up every capability but ``kept``, a set of bits below 32.

    Raises:
        OSError: the kernel refused.
    """
    data = struct.pack("<6I", kept, kept, 0, 0, 0, 0)  # effective, permitted, inheritable; high
    _check(_capset(_CAPABILITIES_OF_SELF, data), "capset")


def open_beneath(path: str, flags: int, mode: int = 0) -> int:
    """Open ``path``, which neither leads out of the working folder nor over a link that does.

    Raises:
        OSError: as of ``os.open``; EXDEV where the way leads out.
    """
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path)
    fd: int = _libc.syscall(_SYS_OPENAT2, _AT_FDCWD, name, how, ctypes.c_size_t(len(how)))
    if fd < 0:
        _check(fd, f"open {path}")
    return fd


class Filter:
    """A seccomp program, ready to be applied by one call.

    Args:
        program: an array of ``struct sock_filter``.
    """

    def __init__(self, program: bytes) -> None:
        self._program = _Program(len(program) // 8, program)
        self._address = ctypes.byref(self._program)

    def apply(self) -> None:
        """Filter the calls of this process and its children, on top of what they are under.

        Needs CAP_SYS_ADMIN, or ``drop_capabilities`` before.

        Raises:
            OSError: the kernel refused.
        """
        _check(_prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, self._address, 0, 0), "seccomp")


def pipe_bytes(fd: int) -> int:
    """How much a pipe holds.

    Raises:
        OSError: not a pipe.
    """
    size: int = _fcntl(fd, _F_GETPIPE_SZ)
    if size < 0:
        _check(size, "fcntl F_GETPIPE_SZ")
    return size


def new_pipe_bytes() -> int:
    """How much a new pipe holds."""
    fds = os.pipe()
    try:
        return pipe_bytes(fds[0])
    finally:
        for fd in fds:
            os.close(fd)


def release_free_memory() -> None:
    """Hand free memory back to the kernel: it is not worth a fork's trouble."""
    if hasattr(_libc, "malloc_trim"):  # of glibc
        _libc.malloc_trim(0)
