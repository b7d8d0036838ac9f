"""How a template keeps its jobs apart: namespaces, another user, or nothing but a subreaper.

Standard library only, like all of pedrl that is inside a sandbox.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Final

from pedrl_sandbox import confine

WAIT_ALL: Final = 0x40000000  # __WALL: also children that do not end with SIGCHLD
MAX_LEFT_BEHIND: Final = 500  # files; a job that leaves more costs a new sandbox
HERE: Final = os.path.dirname(__file__)  # noqa: PTH120
INIT: Final = f"{HERE}/init"  # these are there where they are to be used
FILTER: Final = f"{HERE}/filter"
INHERITED: Final = f"{HERE}/inherited-filter"


class Namespaces:
    """Every job gets namespaces and workspaces of its own.

    Args:
        folders: the workspaces, each a mount point.
        size: of each workspace, in bytes.
        ahead: whether the next child is made while a job runs. On another core, that costs the job
            no time; on the same, it only costs: what two children share is copied for both.
    """

    def __init__(self, folders: list[str], size: int, *, ahead: bool) -> None:
        self._folders, self._size, self.ahead = folders, size, ahead
        self._self = os.pidfd_open(os.getpid())
        self._has_init = os.path.exists(INIT)  # noqa: PTH110
        self._init = 0
        confine.unshare(confine.CLONE_NEWNS)
        self._untouched = {folder: self._mount(folder) for folder in folders}
        os.chdir("/")  # whatever has a workspace for its own folder keeps the files in it alive
        self._filter = _filter()
        if self._filter is not None:  # the smaller part of two
            _read_filter(INHERITED).apply()

    def prepare(self) -> None:
        """Make what the next child will run in."""
        confine.enter_pid_namespace(self._self)
        confine.unshare(confine.PER_JOB)
        if self._has_init:
            self._init = os.posix_spawn(INIT, ["init"], {})
            pidfd = os.pidfd_open(self._init)
            confine.enter_pid_namespace(pidfd)
            os.close(pidfd)

    def nproc(self, processes: int) -> int:
        """The limit that lets a job have ``processes``: ours count too, inits, the next child.

        Until that has been made beside it, a job may so have two more.
        """
        return processes + 2 + self._has_init + self.ahead * (1 + self._has_init)

    def confine_child(self) -> None:
        """Give up everything, in the forked child."""
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

    ahead: Final = False  # killing all that a job left would kill the next one's child

    def __init__(self, folders: list[str], uid: int) -> None:
        self._folders, self._uid = folders, uid
        confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
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

    ahead: Final = False

    def __init__(self, folders: list[str]) -> None:
        self._folders = folders
        self._children = f"/proc/self/task/{os.getpid()}/children"
        confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)

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


def _cpu_us(seconds: float) -> int:
    return int(seconds * 1e6)


def _filter() -> confine.Filter | None:
    return _read_filter(FILTER) if os.path.exists(FILTER) else None  # noqa: PTH110


def _read_filter(path: str) -> confine.Filter:
    with open(path, "rb") as file:  # noqa: PTH123
        return confine.Filter(file.read())


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
