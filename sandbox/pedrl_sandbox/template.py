"""The template inside a sandbox: a warm interpreter whose only work is to be forked.

The supervisor (``supervisor.py``) tells it of a job over a socket, with the job's pipes beside the
message. The template forks, makes the next job's namespaces meanwhile, waits, kills and reaps
whatever the job left, and says how it ended. It never reads a byte of a job: its children do.

It does little on purpose. Each page that it writes between two forks is copied once more.
"""

import contextlib
import gc
import importlib
import io
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn, TextIO

from pedrl_sandbox import commands, confine, wire
from pedrl_sandbox.replies import REPLY_FD as REPLY_FD
from pedrl_sandbox.submission import child_main, set_common_limits, warm_up

ORDER: Final = struct.Struct("<BI5I")  # flags as in wire, length of the body, wire.LIMITS
STARTED: Final = struct.Struct("<ii")  # ids to kill for an early end, and of the main process
ENDED: Final = struct.Struct("<iQ?")  # exit code or minus signal, CPU µs, workspace is clean
# Imported before the first fork, since submissions often do: then it costs them nothing.
PRELOADED: Final = (
    *("bisect", "collections", "copy", "functools", "heapq", "itertools", "json", "math"),
    *("operator", "re", "string", "typing"),
)
ENVIRONMENT: Final = {"LD_LIBRARY_PATH", "PYTHONHASHSEED", "PWD", "LC_CTYPE"}
GC_THRESHOLD: Final = 10_000  # a job of ours never comes to a collection, nor does a small program
WAIT_ALL: Final = 0x40000000  # __WALL: also children that do not end with SIGCHLD
MAX_LEFT_BEHIND: Final = 500  # files; a job that leaves more costs a new sandbox
HERE: Final = os.path.dirname(__file__)  # noqa: PTH120
INIT: Final = f"{HERE}/init"  # these two are there where they are to be used
FILTER: Final = f"{HERE}/filter"
_FDS: Final = struct.Struct("3i")
_CMSG_BYTES: Final = socket.CMSG_SPACE(_FDS.size)


class Namespaces:
    """Every job gets namespaces and workspaces of its own.

    Those of the next job are made while one runs: on another core, they cost it no time.

    Args:
        folders: the workspaces, each a mount point.
        size: of each workspace, in bytes.
    """

    def __init__(self, folders: list[str], size: int) -> None:
        self._folders, self._size = folders, size
        self._self = os.pidfd_open(os.getpid())
        self._has_init = os.path.exists(INIT)  # noqa: PTH110
        self._init = 0
        confine.unshare(confine.CLONE_NEWNS)
        self._untouched = {folder: self._mount(folder) for folder in folders}
        os.chdir("/")  # whatever has a workspace for its own folder keeps the files in it alive
        self._filter = _filter()
        self.prepare()

    def prepare(self) -> None:
        """Make what the next job will run in."""
        confine.enter_pid_namespace(self._self)
        confine.unshare(confine.PER_JOB)
        if self._has_init:
            self._init = os.posix_spawn(INIT, ["init"], {})
            pidfd = os.pidfd_open(self._init)
            confine.enter_pid_namespace(pidfd)
            os.close(pidfd)

    def nproc(self, processes: int) -> int:
        """The limit that lets a job have ``processes``: ours count too, and two inits."""
        return processes + (4 if self._has_init else 2)

    def confine_child(self) -> None:
        """Give up everything, in the forked child."""
        os.chdir(self._folders[0])
        confine.drop_capabilities()
        if self._filter is not None:
            self._filter.apply()

    def root_of(self, main: int) -> int:
        """The process whose death ends the job ``main``."""
        return self._init or main

    def end(self, main: int, root: int) -> tuple[int, int]:
        """Wait for ``main``, let nothing of the job live; its exit code and CPU µs."""
        _, status, usage = os.wait4(main, WAIT_ALL)
        if root != main:
            os.kill(root, signal.SIGKILL)  # and the kernel kills the rest of the namespace
            os.wait4(root, WAIT_ALL)
        return os.waitstatus_to_exitcode(status), _cpu_us(usage.ru_utime + usage.ru_stime)

    def clean(self) -> bool:
        """Give the next job empty workspaces that are as if no job had ever seen them."""
        for folder in self._folders:
            if _attributes(folder) != self._untouched[folder]:
                confine.unmount(folder)
                self._untouched[folder] = self._mount(folder)
        return True

    def _mount(self, folder: str) -> tuple[object, ...]:
        confine.mount_fresh(folder, self._size)  # what the supervisor sees stays empty
        return _attributes(folder)


class OtherUser:
    """Jobs share the template's namespaces, but run as a user that runs nothing else there.

    The template must be root with CAP_SETUID and CAP_SETGID, to become that user, and CAP_KILL. All
    but it and process 1 is of the job, so one call kills the job, however fast it forks.

    Args:
        folders: the workspaces.
        uid: whom jobs run as.
    """

    def __init__(self, folders: list[str], uid: int) -> None:
        self._folders, self._uid = folders, uid
        confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
        os.chdir(folders[0])
        self._filter = _filter()

    def prepare(self) -> None:
        """Nothing has to be made."""

    def nproc(self, processes: int) -> int:
        """The limit that lets a job have ``processes``: nobody else counts for this user."""
        return processes

    def confine_child(self) -> None:
        """Give up everything, in the forked child."""
        os.setgroups([])
        os.setresgid(self._uid, self._uid, self._uid)
        os.setresuid(self._uid, self._uid, self._uid)
        confine.drop_capabilities()
        if self._filter is not None:
            self._filter.apply()

    def root_of(self, main: int) -> int:
        """The process whose death ends the job ``main``; what it started is killed after it."""
        return main

    def end(self, main: int, root: int) -> tuple[int, int]:
        """Wait for ``main``, let nothing of the job live; its exit code and CPU µs of all."""
        return _reap(main, lambda: os.kill(-1, signal.SIGKILL))

    def clean(self) -> bool:
        """Empty the workspaces; False when the job left what is not quickly removed."""
        clean = all(map(_is_empty, self._folders))
        if not clean:
            os.seteuid(self._uid)  # root without its capabilities could not
            try:
                clean = _wipe_all(self._folders)
            finally:
                os.seteuid(0)
        for folder in self._folders:
            os.utime(folder, (0, 0))  # when the job wrote is all that it could leave
        return clean


class Subreaper:
    """Jobs share the template's namespaces and user; orphans become its children, and are killed.

    Args:
        folders: the workspaces.
    """

    def __init__(self, folders: list[str]) -> None:
        self._folders = folders
        self._children = f"/proc/self/task/{os.getpid()}/children"
        confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
        os.chdir(folders[0])

    def prepare(self) -> None:
        """Nothing has to be made."""

    def nproc(self, processes: int) -> int:
        """No limit: it would count all that the user runs."""
        return 0

    def confine_child(self) -> None:
        """Die with the template, which cannot kill a job any more when it is killed itself."""
        confine.prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL)

    def root_of(self, main: int) -> int:
        """The process whose death ends the job ``main``; what it started is killed after it."""
        return main

    def end(self, main: int, root: int) -> tuple[int, int]:
        """Wait for ``main``, let nothing of the job live; its exit code and CPU µs of all."""
        return _reap(main, self._kill_children)

    def _kill_children(self) -> None:
        with open(self._children) as listed:  # noqa: PTH123
            for orphan in listed.read().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(orphan), signal.SIGKILL)

    def clean(self) -> bool:
        """Empty the workspaces; False when the job left what is not quickly removed."""
        return _wipe_all(self._folders)


Jobs = Namespaces | OtherUser | Subreaper


def main(control: socket.socket, jobs: Jobs, null: int) -> NoReturn:
    """Fork one child for each order, until the supervisor is gone."""
    own = _process_cpu_us()
    while True:
        data, ancillary, _, _ = control.recvmsg(ORDER.size, _CMSG_BYTES, socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        flags, length, *limits = ORDER.unpack(data)
        out, reply, request = _FDS.unpack(ancillary[0][2])
        try:
            main = os.fork()
        except OSError:
            main = -1
        if main == 0:
            try:
                os.setsid()  # a signal to a process group passes every namespace
                jobs.confine_child()
                interactive = bool(flags & wire.INTERACTIVE)
                body = _read_body(request, length)
                fds = (null, out, reply, request if interactive else -1)
                child_main(body, tuple(limits), fds, jobs.nproc(limits[3]))
                os._exit(0)
            except BaseException:
                with contextlib.suppress(OSError):  # it is already there, and closed
                    os.dup2(out, 2)
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        root = jobs.root_of(main)
        control.send(STARTED.pack(root, main))
        if main < 0:
            os._exit(1)  # out of processes here: the next sandbox may have better luck
        os.close(out)
        os.close(reply)
        os.close(request)
        try:
            jobs.prepare()
        except OSError:  # there is no next job here, but this one's answer counts
            prepared = False
        else:
            prepared = True
        code, cpu_us = jobs.end(main, root)
        clean = prepared and (bool(flags & wire.KEEP) or jobs.clean())
        now = _process_cpu_us()
        control.send(ENDED.pack(code, cpu_us + now - own, clean))
        own = now
        if not prepared:
            os._exit(1)


def warm(null: int, packages: str, preload: list[str], limits: tuple[int, int]) -> None:
    """What the forked children inherit: modules, a quiet heap, bound symbols."""
    for name in set(os.environ) - ENVIRONMENT:  # set for this process, not for the jobs
        del os.environ[name]
    # Not buffered: what was printed survives a timeout, and nothing is left to flush.
    sys.stdout, sys.stderr = _unbuffered(1), _unbuffered(2)
    sys.argv[:] = [""]
    sys.path[:] = [entry for entry in sys.path if not entry.startswith("/pedrl")]
    sys.path.insert(0, "")
    if packages:
        sys.path.append(packages)
        commands.ENVIRONMENT["PYTHONPATH"] = packages
    for name in (*PRELOADED, *preload):
        importlib.import_module(name)
    set_common_limits(*limits)
    warm_up(null)
    gc.collect()
    gc.freeze()
    confine.release_free_memory()
    gc.set_threshold(GC_THRESHOLD)


def _unbuffered(fd: int) -> TextIO:
    raw = os.fdopen(fd, "wb", buffering=0, closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace", write_through=True)


def _process_cpu_us() -> int:
    return time.process_time_ns() // 1000


def _cpu_us(seconds: float) -> int:
    return int(seconds * 1e6)


def _filter() -> confine.Filter | None:
    if not os.path.exists(FILTER):  # noqa: PTH110
        return None
    with open(FILTER, "rb") as file:  # noqa: PTH123
        return confine.Filter(file.read())


def _read_body(fd: int, size: int) -> bytes:
    body = os.read(fd, size)
    while len(body) < size:
        more = os.read(fd, size - len(body))
        if not more:
            os._exit(1)  # the supervisor is gone
        body += more
    return body


def _reap(main: int, kill_rest: Callable[[], None]) -> tuple[int, int]:
    """Wait for ``main``, then for all others, killed; the exit code of it and CPU µs of all."""
    _, status, usage = os.wait4(main, WAIT_ALL)
    seconds = usage.ru_utime + usage.ru_stime
    while True:
        try:
            pid, _, usage = os.wait4(-1, WAIT_ALL | os.WNOHANG)
            if pid == 0:
                kill_rest()
                _, _, usage = os.wait4(-1, WAIT_ALL)
        except ChildProcessError:  # orphans become children, so there is nobody, not a daemon
            return os.waitstatus_to_exitcode(status), _cpu_us(seconds)
        seconds += usage.ru_utime + usage.ru_stime


def _attributes(folder: str) -> tuple[object, ...]:
    """All that a job can change of a folder. A tmpfs counts what lies in it in its size."""
    found = os.stat(folder)  # noqa: PTH116
    times = found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns
    return found.st_mode, found.st_nlink, found.st_size, times, os.listxattr(folder)


def _is_empty(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _wipe_all(folders: list[str]) -> bool:
    try:
        return all(_is_empty(folder) or _wipe(folder) for folder in folders)
    except OSError:  # closed to us, or a path too long: hostile, so not worth another try
        return False


def _wipe(top: str) -> bool:
    """Empty one folder, following no links; False, early, when too much lies in it."""
    files: list[str] = []
    folders: list[str] = []
    pending = [top]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if len(files) + len(folders) == MAX_LEFT_BEHIND:
                    return False
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    pending.append(entry.path)
                else:
                    files.append(entry.path)
    for path in files:
        os.unlink(path)  # noqa: PTH108
    for path in reversed(folders):  # a folder is always listed before what lies in it
        os.rmdir(path)  # noqa: PTH106
    return True


assert REPLY_FD == 3, "the template keeps /dev/null there"
