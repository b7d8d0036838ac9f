"""Memory and process limits by cgroup, v1 or v2, where this user may create cgroups."""

import os
import re
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
_V1: Final = {"memory": "memory.limit_in_bytes", "pids": "pids.max"}
_V2: Final = {"memory": "memory.max", "pids": "pids.max"}


def _own_paths() -> dict[str, Path]:
    """Controller -> the cgroup folder of this process; ``""`` stands for v2."""
    found: dict[str, Path] = {}
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, names, path = line.split(":", 2)
        if names == "":
            for root in (ROOT, ROOT / "unified"):
                if (root / "cgroup.controllers").exists():
                    found[""] = root / path.lstrip("/")
        for name in names.split(","):
            if name in _V1:
                found[name] = ROOT / name / path.lstrip("/")
    return found


class Cgroups:
    """One cgroup per worker for each controller that can be had.

    Attributes:
        procs: the ``cgroup.procs`` files that a process writes its id to.
        missing: controller -> why it is not enforced.
    """

    def __init__(self, number: int) -> None:
        self.procs: list[str] = []
        self.missing: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        self._folders: list[Path] = []
        self._values: dict[str, int] = {}
        own = _own_paths()
        name = f"pedrl-{os.getpid()}-{number}-{time.monotonic_ns()}"
        for controller in _V1:
            self._create(controller, own, name)

    def _create(self, controller: str, own: dict[str, Path], name: str) -> None:
        if controller in own:
            parent, file = own[controller], _V1[controller]
        elif "" in own:
            parent, file = own[""], _V2[controller]
            enabled = parent / "cgroup.subtree_control"
            if not enabled.exists() or controller not in enabled.read_text().split():
                self.missing[controller] = f"cgroup v2 does not delegate {controller} to this user"
                return
        else:
            self.missing[controller] = f"no {controller} cgroup is mounted"
            return
        folder = parent / name
        try:
            _sweep(parent)
            if folder not in self._folders:
                folder.mkdir()
                self._folders.append(folder)
                self.procs.append(str(folder / "cgroup.procs"))
            if not os.access(folder / file, os.W_OK):
                raise PermissionError(f"{file} is not writable")
        except OSError as error:
            self.missing[controller] = f"cgroup not writable ({error.strerror or error})"
            return
        self._files[controller] = folder / file

    def allow(self, memory_mb: int, processes: int) -> None:
        """Raise the limits to at least this much; they never shrink under a running worker."""
        for controller, wanted in (("memory", memory_mb << 20), ("pids", processes)):
            file = self._files.get(controller)
            if file is not None and wanted > self._values.get(controller, 0):
                file.write_text(str(wanted))
                self._values[controller] = wanted

    def ran_out(self) -> bool:
        """Whether the kernel killed a process of this worker for memory."""
        file = self._files.get("memory")
        if file is None:
            return False
        name = "memory.events" if file.name == _V2["memory"] else "memory.oom_control"
        try:
            counts = dict(line.split() for line in file.with_name(name).read_text().splitlines())
        except OSError:  # an old kernel without the counter
            return False
        return int(counts.get("oom_kill", "0")) > 0

    def remove(self) -> None:
        """Remove the cgroups; the processes in them must be dead."""
        for folder in self._folders:
            for _ in range(500):  # the kernel counts a dead process out a little later
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)
        self._folders.clear()


def _sweep(parent: Path) -> None:
    """Remove what runs that were killed left behind."""
    for folder in parent.glob("pedrl-*"):
        match = re.fullmatch(r"pedrl-(\d+)-\d+-\d+", folder.name)
        if match and not Path("/proc", match[1]).exists():
            try:
                folder.rmdir()
            except OSError:  # still in use, or already gone
                continue
