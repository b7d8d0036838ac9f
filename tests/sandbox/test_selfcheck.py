"""A broken solver is noticed as such: it never fails a submission."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pedrl_sandbox
from pedrl_sandbox import IsolationUnavailableError, Job, JobRunner, make_sandbox
from pedrl_sandbox.bwrap import ZygoteSandbox
from pedrl_sandbox.worker import Spawn

ADD = Job("def f(x):\n    return x + 1\n", "f", ((1,),))
WITH_FILES = Job("def f(x):\n    return x + 1\n", "f", ((1,),), files={"a.txt": "x"})


class Edited(ZygoteSandbox):
    """Its solver reads otherwise from the ``since``-th start on."""

    def __init__(self, old: bytes, new: bytes, since: int = 0) -> None:
        self.old, self.new, self.left = old, new, since
        super().__init__()

    def _make_spawn(self, core: int | None) -> Spawn:
        spawn = super()._make_spawn(core)
        self.left -= 1
        if self.left >= 0:
            return spawn
        assert any(self.old in content for content in spawn.files)
        files = tuple(content.replace(self.old, self.new) for content in spawn.files)
        return Spawn(spawn.argv, files, cgroups=spawn.cgroups)


EDITS = {
    "wrong value": (b'return ["v", wire.pack(value)]', b'return ["v", wire.pack(0)]'),
    "wrong number": (b"return str(value) if", b"return str(value + 1) if"),
    "no exception": (b'say(["e", builtin_name(error)])', b'say(["v", None])'),
    "other tags": (b'{"t": [', b'{"T": ['),
    "other format": (b"line = wire.dumps(message)", b"line = repr(message).encode()"),
    "half an edit": (b"def say(", b"def said("),
    "not begun": (b"os.write(REPLY_FD, wire.BEGUN)", b"pass"),
    "no output": (b"os.dup2(out, 1)", b"os.dup2(null, 1)"),
}


@pytest.mark.parametrize(("old", "new"), EDITS.values(), ids=EDITS)
def test_a_broken_solver_never_gets_a_submission(old: bytes, new: bytes) -> None:
    with (
        Edited(old, new) as sandbox,
        pytest.raises(IsolationUnavailableError, match=r"a known job wrongly|does not start"),
    ):
        sandbox.run_batch([ADD])


def test_a_replacement_is_checked_too() -> None:
    with Edited(*EDITS["wrong value"], since=1) as sandbox:
        assert sandbox.run_batch([ADD])[0].status == "ok"
        os.killpg(sandbox._idle[0].pid, signal.SIGKILL)
        with pytest.raises(IsolationUnavailableError, match="answered a known job wrongly"):
            sandbox.run_batch([ADD])


def test_a_failure_before_the_program_is_an_infra_error() -> None:
    """Where only some jobs meet the fault, so that the known job does not."""
    with Edited(b'os.path.dirname(name) or "."', b"os.missing") as sandbox:
        results = sandbox.run_batch([ADD, WITH_FILES, ADD])
        assert [result.status for result in results] == ["ok", "infra_error", "ok"]
        assert "has no attribute 'missing'" in results[1].detail
        session = sandbox.session(WITH_FILES)
        assert session.hear() is None
        assert session.close().status == "infra_error"


@pytest.mark.parametrize("name", ["zygote", "unsafe-local"])
def test_edits_reach_no_process_that_has_begun(tmp_path: Path, name: str) -> None:
    package = tmp_path / "pedrl_sandbox"
    shutil.copytree(Path(str(pedrl_sandbox.__file__)).parent, package)
    program = (
        "import sys; from pathlib import Path\n"
        "from pedrl_sandbox import Job, make_sandbox\n"
        "import pedrl_sandbox\n"
        "assert str(pedrl_sandbox.__file__).startswith(sys.argv[1]), pedrl_sandbox.__file__\n"
        "sandbox, job = make_sandbox(sys.argv[2]), Job('f = abs', 'f', ((-1,),))\n"
        "assert sandbox.run_batch([job])[0].outcomes[0].value == 1\n"
        "sandbox.close()\n"
        "for file in ('supervisor.py', 'template.py', 'submission.py', 'wire.py', 'launch.py'):\n"
        "    Path(sys.argv[1], file).write_text('broken')\n"
        "assert sandbox.run_batch([job])[0].outcomes[0].value == 1\n"
        "sandbox.close()\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(package), name],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=True,
    )


EXCUSES: dict[str, Callable[[], str]] = {
    "exit": lambda: "import os\nos._exit(1)",
    "exit 0": lambda: "import os\nos._exit(0)",
    "kill": lambda: "import os\nos.kill(os.getpid(), 9)",
    "crash": lambda: "import os\nos.kill(os.getpid(), 11)",
    "closed pipe": lambda: "import os\nos.close(3)",
    "resized pipe": lambda: "import fcntl, os\nfcntl.fcntl(3, 1031, 4096)\nos._exit(1)",
    "traceback": lambda: "import os\nprint('ImportError: solver')\nos._exit(1)",
    "begun again": lambda: "import os\nos.write(3, b'+\\n')\nos._exit(1)",
    "patched": lambda: "import pedrl_sandbox.submission as s\ns.say = s.outcome = None",
    "limits": lambda: "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1, 1))",
    "syntax": lambda: "\x00 def f(",
    "long": lambda: "#" * (1 << 20) + "\n" + "x = 1\n" * 1000,
    "long and wide": lambda: "#" + "\U0001f600" * ((1 << 20) - 1),
    "surrogates": lambda: "#\ud800" * 1000,
    "deep": lambda: "(" * 100_000,
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[JobRunner]:
    with make_sandbox("zygote") as sandbox:
        yield sandbox


@pytest.mark.parametrize("program", [make() for make in EXCUSES.values()], ids=EXCUSES)
@pytest.mark.parametrize("memory_mb", [64, 256])
def test_no_program_can_excuse_itself(program: str, memory_mb: int, sandbox: JobRunner) -> None:
    limits = pedrl_sandbox.JobLimits(cpu_s=5.0, memory_mb=memory_mb)
    job = Job(program + "\ndef f(x):\n    return x + 1\n", "f", ((1,),), limits)
    assert sandbox.run_batch([job])[0].status != "infra_error"
