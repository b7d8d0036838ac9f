"""Verification while its caller goes on: the same verdicts, and nothing left running."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pedrl_env import Privileged, Task, Verifier
from pedrl_sandbox import IsolationUnavailableError, Job, JobResult, PedrlError
from pedrl_sandbox.registry import SANDBOXES

RIGHT = "    return x + 3\n"
WRONG = "    return x\n"
SLEEPY = f"    import time; time.sleep(60)\n{RIGHT}"
PATIENCE_S = 20.0  # on a busy machine; a job that sleeps has 30


def children(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def sandboxes() -> set[int]:
    return children(os.getpid())


def processes() -> set[int]:
    """All that runs in sandboxes."""
    found: set[int] = set()
    new = sandboxes()
    while new:
        found |= new
        new = {child for pid in new for child in children(pid)}
    return found


def eventually(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


class Broken:
    """A sandbox that does not start."""

    name = "broken"

    def __init__(self, *, workers: int = 1, retries: int = 2) -> None:
        pass

    def run_batch(self, jobs: Sequence[Job]) -> list[JobResult]:
        raise IsolationUnavailableError("sandbox 'broken' does not start here")

    def close(self) -> None:
        pass


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Verifier]:
    monkeypatch.setitem(SANDBOXES, "broken", f"{__name__}:Broken")
    with Verifier("broken", workers=1) as verifier:
        yield verifier


def test_it_runs_while_the_caller_does_something_else(verifier: Verifier, task: Task) -> None:
    with verifier.stream() as stream:
        stream.submit(task, RIGHT)
        assert eventually(lambda: len(verifier.cache_state()) == 1)  # and nobody has waited yet
        stream.submit(task, WRONG)
        assert eventually(lambda: len(verifier.cache_state()) == 2)
        before = verifier.stats.wall_s
        assert [verdict.reward for verdict in stream.verdicts()] == [1.0, 0.0]
        assert verifier.stats.wall_s - before < 0.1  # they were there
        assert verifier.stats.cpu_s > 0


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_time_changes_neither_verdicts_nor_what_is_run(
    task: Task, check_task: Task, pause_s: float
) -> None:
    known = [(task, WRONG)]
    submissions = [(task, RIGHT), (task, WRONG), (check_task, "    return x * x\n"), (task, RIGHT)]
    submissions += [(task, f"{task.prompt}{RIGHT}"), (check_task, WRONG), (task, "    retur\n")]
    submissions += [(task, f"    return {n} + x\n") for n in range(20)] + [(task, WRONG)]
    with Verifier(workers=1) as one, Verifier(workers=2) as other:
        for verifier in (one, other):
            verifier.verify_batch(known)
        whole = one.verify_batch(submissions)
        with other.stream() as stream:
            for task_of, action in submissions:
                stream.submit(task_of, action)
                time.sleep(pause_s)
            assert stream.verdicts() == whole
        assert [verdict.reward for verdict in whole[:7]] == [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
        assert sum(verdict.reward for verdict in whole[7:]) == 1.0
        for verifier in (one, other):
            assert (verifier.stats.executions, verifier.stats.cache_hits) == (25, 4)
        assert one.cache_state() == other.cache_state()


def test_left_early_it_kills_what_runs_and_forgets_the_rest(task: Task) -> None:
    others = processes()
    busy: set[int] = set()

    def leave_early() -> None:
        with verifier.stream() as stream:
            for number in range(50):
                stream.submit(task, f"{SLEEPY}# {number}\n")
            time.sleep(1.0)  # it is asleep by now
            busy.update(processes() - others)
            raise KeyError

    with Verifier(workers=1) as verifier:
        start = time.monotonic()
        with pytest.raises(KeyError):
            leave_early()
        assert time.monotonic() - start < PATIENCE_S
        assert busy
        assert not busy & processes()
        assert verifier.cache_state() == []
        verdicts = verifier.verify_batch([(task, WRONG), (task, RIGHT)])
        assert [verdict.reward for verdict in verdicts] == [0.0, 1.0]


@pytest.mark.parametrize("checked", [False, True])
def test_an_interrupt_reaches_the_caller_at_once_and_nothing_is_left(
    task: Task, check_task: Task, checked: bool
) -> None:
    others = processes()
    busy: set[int] = set()
    over = threading.Event()

    def interrupt() -> None:
        if eventually(lambda: verifier.stats.executions == 1) and not over.wait(1.0):
            busy.update(processes() - others)  # it is asleep by now
            os.kill(os.getpid(), signal.SIGINT)

    with Verifier(workers=1) as verifier:
        thread = threading.Thread(target=interrupt)
        thread.start()
        start = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                verifier.verify(check_task if checked else task, SLEEPY)
        finally:
            over.set()
            thread.join()
        assert time.monotonic() - start < PATIENCE_S
        assert busy
        assert not busy & processes()
        assert verifier.verify(task, RIGHT).reward == 1.0
        assert verifier.verify(check_task, "    return x * x\n").reward == 1.0


def test_a_sandbox_that_does_not_start_is_told_to_whoever_submits(
    broken: Verifier, task: Task
) -> None:
    with pytest.raises(IsolationUnavailableError, match="'broken' does not start"):
        broken.verify(task, RIGHT)

    def submit_and_never_wait() -> None:
        with broken.stream() as stream:
            end = time.monotonic() + PATIENCE_S
            while time.monotonic() < end:
                stream.submit(task, RIGHT)
                time.sleep(0.01)

    with pytest.raises(IsolationUnavailableError, match="'broken' does not start"):
        submit_and_never_wait()


def test_a_task_without_tests_is_refused_where_it_is_submitted(verifier: Verifier) -> None:
    empty = Task("t/empty", "def f(x):\n", "f", (), Privileged(), "train")
    with verifier.stream() as stream, pytest.raises(PedrlError, match="'t/empty' has no tests"):
        stream.submit(empty, RIGHT)


def test_a_sandbox_outlives_the_thread_that_first_used_it(verifier: Verifier, task: Task) -> None:
    thread = threading.Thread(target=verifier.verify, args=(task, RIGHT))
    thread.start()
    thread.join()
    before = sandboxes()
    assert verifier.verify(task, WRONG).status == "failed"
    assert sandboxes() == before
    assert verifier.stats.infra_errors == 0


def test_closing_ends_the_thread_and_a_closed_verifier_starts_again(task: Task) -> None:
    def owners() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("pedrl-owner")]

    before, running = owners(), sandboxes()
    verifier = Verifier(workers=1)
    assert owners() == before
    for action in (RIGHT, WRONG):
        verifier.verify(task, action)
        assert len(owners()) == len(before) + 1
        verifier.close()
        assert owners() == before
        assert sandboxes() <= running
    verifier.close()


def test_a_fork_has_a_thread_and_sandboxes_of_its_own(verifier: Verifier, task: Task) -> None:
    verifier.verify(task, RIGHT)
    before = sandboxes()
    pid = os.fork()
    if pid == 0:
        fine = verifier.verify(task, WRONG).status == "failed"
        verifier.close()
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert verifier.verify(task, WRONG).status == "failed"
    assert sandboxes() == before
