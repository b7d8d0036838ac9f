"""The ``unsafe-local`` backend: the same fork server with limits and no isolation at all."""

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from pedrl_sandbox.encoding import settings, solver_files
from pedrl_sandbox.errors import IsolationUnavailableError
from pedrl_sandbox.packages import Packages
from pedrl_sandbox.room import JOBS, Room
from pedrl_sandbox.warm import WarmSandbox
from pedrl_sandbox.worker import DEATH_S, ProcessWorker, Spawn

WARNING: Final = (
    "pedrl: warning: --sandbox unsafe-local runs model-written code as you, with your files and "
    "your network\n"
)


class LocalWorker(ProcessWorker):
    """A fork server whose jobs would outlive it: no namespace ends with it."""

    def kill(self) -> None:
        """As ``ProcessWorker``, but what runs goes first."""
        with contextlib.suppress(ProcessLookupError):
            # Stopped, the fork server starts nothing more, and still adopts every orphan.
            os.killpg(self.pid, signal.SIGSTOP)
        end = time.monotonic() + DEATH_S
        while (jobs := _below(self.pid)) and time.monotonic() < end:
            for pid in jobs:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        super().kill()


def _below(group: int) -> list[int]:
    """The living descendants of a process group that are not in it."""
    parents: dict[int, int] = {}
    inside, dead = set(), set()
    for folder in Path("/proc").iterdir():
        try:
            pid = int(folder.name)
            state, parent, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except (ValueError, OSError):  # no process, or one that has just ended
            continue
        parents[pid] = int(parent)
        if int(its_group) == group:
            inside.add(pid)
        if state in "ZX":
            dead.add(pid)
    below = set(inside)
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(below - inside - dead)


class UnsafeLocalSandbox(WarmSandbox):
    """Runs submissions as the current user. It says so on standard error, once."""

    _warned = False

    def __init__(
        self,
        *,
        workers: int = 1,
        retries: int = 2,
        packages: Packages | None = None,
        room: Room = JOBS,
    ) -> None:
        if sys.platform != "linux":
            raise IsolationUnavailableError(
                f"sandbox 'unsafe-local' needs Linux (pidfd, subreaper), not {sys.platform}"
            )
        if not UnsafeLocalSandbox._warned:
            UnsafeLocalSandbox._warned = True
            sys.stderr.write(WARNING)
        self._packages, self._room = packages, room
        super().__init__(
            "unsafe-local",
            lambda core: LocalWorker(self._make_spawn(core), core),
            workers=workers,
            retries=retries,
        )

    def _make_spawn(self, core: int | None) -> Spawn:
        scratch = tempfile.TemporaryDirectory(prefix="pedrl-", ignore_cleanup_errors=True)
        solver, work = Path(scratch.name, "solver"), Path(scratch.name, "work")
        solver.mkdir()
        work.mkdir()
        for name, content in solver_files().items():
            (solver / name).write_bytes(content)
        python = getattr(sys, "_base_executable", sys.executable)
        (solver / "bin").mkdir()
        for name in ("python", "python3"):
            (solver / "bin" / name).symlink_to(python)
        shown = Path(scratch.name, "packages")
        shown.mkdir()
        for name, folder in self._packages.folders.items() if self._packages else ():
            (shown / name).symlink_to(folder)
        preload = self._packages.preload if self._packages else ()
        argv = [python, "-I", "-S", "-B", "-X", "utf8", str(solver / "supervisor.py")]
        told = settings(
            "shared",
            [str(work)],
            room=self._room,
            packages=str(shown),
            preload=preload,
            core=core,
        )
        argv.append(told)
        return Spawn(argv, scratch=scratch)
