"""Parts are killed, or run out, in the middle of a run: its verdicts are the same."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pedrl_env import Case, CheckProgram, Privileged, Task, Verifier
from pedrl_sandbox.cgroup import ROOT
from tests.running import children, jobs_of, servers

FAULTS_A_RUN = 2  # as many as one job may be tried again
CASES = (Case((2,), 4), Case((3,), 9))
# What it compares is only known once it has asked, so it is asked call by call.
CHECK = CheckProgram("def check(f):\n    assert str(f(2)) == '4'\n    assert str(f(3)) == '9'\n")
FILL = (
    "import time\n"
    "def f(x):\n"
    "    try:\n"
    "        with open('full', 'wb') as file:\n"
    "            while True: file.write(bytes(1 << 20))\n"
    "    except OSError:\n"
    "        time.sleep(0.05)\n"
    "        return x * x\n"
)
ANSWERS = ("return x * x", "return x + x", "raise ValueError", "return [0] * 10 ** 10")


def task_of(tests: tuple[Case, ...] | CheckProgram) -> Task:
    return Task("faults/0", "p", "f", tests, Privileged("def f(x): return x * x"), "test")


def submissions(count: int) -> list[tuple[Task, str]]:
    tasks, found = (task_of(CASES), task_of(CHECK)), []
    for number in range(count):
        slow = "import time; time.sleep(0.03)"
        answer = ANSWERS[number % len(ANSWERS)]
        program = f"def f(x):\n    {slow}\n    {answer}\n" if number % 9 else FILL
        found.append((tasks[number % 7 == 0], f"{program}# {number}\n"))
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_supervisor(server: int) -> None:
    kill(server)


def kill_template(server: int) -> None:
    for template in children(server):
        kill(template)


def kill_job(server: int) -> None:
    for job in jobs_of(server):
        kill(job)


def exhaust_processes(server: int) -> None:
    """Let nothing more be started in the worker's cgroup."""
    for line in Path(f"/proc/{server}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        folder = ROOT / names / path.lstrip("/")
        if folder.name.startswith("pedrl-") and (folder / "pids.max").exists():
            (folder / "pids.max").write_text("1")
            return
    pytest.skip("no pids cgroup here")


@pytest.mark.parametrize(
    "fault", [kill_supervisor, kill_template, kill_job, exhaust_processes], ids=lambda f: f.__name__
)
def test_the_verdicts_of_a_run_are_the_same(fault: Callable[[int], None]) -> None:
    batch = submissions(120)
    with Verifier(workers=2, cache=False) as verifier:
        expected = verifier.verify_batch(batch)
        assert {verdict.status for verdict in expected} == {"passed", "failed", "oom"}
        over = threading.Event()
        hit: list[int] = []

        def harm() -> None:
            while not over.wait(0.25) and len(hit) < FAULTS_A_RUN:
                busy = [server for server in servers() if jobs_of(server)]
                for server in busy[:1]:
                    fault(server)
                    hit.append(server)

        thread = threading.Thread(target=harm)
        thread.start()
        try:
            verdicts = verifier.verify_batch(batch)
        finally:
            over.set()
            thread.join()
        assert hit
        assert verdicts == expected
        assert verifier.stats.infra_errors == 0
