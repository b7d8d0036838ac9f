"""Run submissions in sandboxes and judge them: every kind of tests, one batch where possible."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from typing import Final

from pedrl_env.checking import Questions, run_check
from pedrl_env.grading import Accepted, ask_predicates, job_limits, jobs, judge_cases, judge_scripts
from pedrl_env.grading_prepare import Prepared
from pedrl_env.grading_pytest import run_pytest
from pedrl_env.owner import Owner
from pedrl_env.recording import Recording, read_recording, recorder_job
from pedrl_env.records import CheckProgram, PytestProgram, Verdict
from pedrl_sandbox import Job, JobResult, JobRunner, Packages, checker_packages, make_sandbox
from pedrl_sandbox.answers import KILLED

RETRIES: Final = 2  # of a session whose sandbox died; a batch has retries of its own

Graded = tuple[Verdict, float]


class Grader:
    """Owns the sandboxes: submissions in one, trusted programs in another, and those of lanes.

    Args:
        sandbox: name of a sandbox; each starts when it is first needed.
        workers: submissions that run side by side in a batch, and tests that ask as they go.

    Raises:
        PedrlError: the sandbox is not known.
        IsolationUnavailableError: it cannot work on this machine.
    """

    def __init__(self, sandbox: str, workers: int) -> None:
        self._solver = make_sandbox(sandbox, workers=workers)
        self._checker = make_sandbox(sandbox, workers=workers)
        self._lanes = [Lane(sandbox) for _ in range(workers)]
        self._recordings: dict[bytes, Recording | Questions | None] = {}

    @property
    def owners(self) -> list[Owner]:
        """The threads of the lanes."""
        return [lane.owner for lane in self._lanes]

    def grade(self, submissions: Sequence[tuple[Prepared, str]]) -> list[Graded]:
        """Judge every submission, a task with its program.

        Returns:
            A verdict and the CPU seconds spent in sandboxes for each, in order.

        Raises:
            PedrlError: the tests of a task do not run at all.
            IsolationUnavailableError: a sandbox does not start here.
        """
        graded: dict[int, Graded] = {}
        batched: dict[int, tuple[Prepared, str]] = {}
        asking: deque[tuple[int, Prepared, str]] = deque()
        self._record([prepared for prepared, _ in submissions])
        for index, (prepared, program) in enumerate(submissions):
            asks = isinstance(prepared.task.tests, CheckProgram | PytestProgram)
            if asks and not self._recordings.get(prepared.fingerprint):
                asking.append((index, prepared, program))
            else:
                batched[index] = prepared, program
        with self._asking(asking, graded):
            answered = self._batch(batched)
        undecided = [index for index, (verdict, _) in answered.items() if verdict is None]
        with self._asking(deque((index, *batched[index]) for index in undecided), graded):
            pass
        for index, (verdict, cpu_s) in answered.items():
            if verdict is not None:
                graded[index] = verdict, cpu_s
            else:
                graded[index] = graded[index][0], graded[index][1] + cpu_s
        return [graded[index] for index in range(len(submissions))]

    @contextmanager
    def _asking(
        self, asking: deque[tuple[int, Prepared, str]], graded: dict[int, Graded]
    ) -> Iterator[None]:
        """Have the lanes judge what waits in ``asking``; none goes on behind this."""
        lanes = self._lanes[: len(asking)]
        runs = [lane.owner.submit(partial(lane.work, asking, graded)) for lane in lanes]
        try:
            yield
        finally:
            wait(runs)
        for run in runs:
            run.result()

    def _record(self, asked: Sequence[Prepared]) -> None:
        """Learn of each check program what it asks, once."""
        new: dict[bytes, Job] = {}
        for prepared in asked:
            tests = prepared.task.tests
            if isinstance(tests, CheckProgram) and prepared.fingerprint not in self._recordings:
                new[prepared.fingerprint] = recorder_job(tests, prepared.task.entry_point)
        results = self._checker.run_batch(list(new.values()))
        for fingerprint, result in zip(new, results, strict=True):
            if result.status != "infra_error":  # else another time
                self._recordings[fingerprint] = read_recording(result)

    def _batch(
        self, submissions: dict[int, tuple[Prepared, str]]
    ) -> dict[int, tuple[Verdict | None, float]]:
        """What can be asked all at once: all the jobs of all submissions.

        Returns:
            No verdict where a submission must be asked one call at a time after all.
        """
        recorded = {
            index: found
            for index, (prepared, _) in submissions.items()
            if (found := self._recordings.get(prepared.fingerprint))
        }
        planned = {
            index: jobs(
                prepared.task,
                program,
                recorded[index].calls if index in recorded else prepared.calls,
            )
            for index, (prepared, program) in submissions.items()
        }
        answers = iter(self._solver.run_batch([job for row in planned.values() for job in row]))
        results = {index: [next(answers) for _ in row] for index, row in planned.items()}
        accepted = self._predicates(submissions, results)
        graded = self._rehearse(
            [
                (index, submissions[index][0], found, results[index][0])
                for index, found in recorded.items()
                if isinstance(found, Questions)
            ]
        )
        for index, (prepared, _) in submissions.items():
            cpu_s = sum(result.cpu_s for result in results[index])
            cases = prepared.task.tests
            if index in graded:
                continue
            if isinstance(found := recorded.get(index), Recording):
                graded[index] = found.judge(results[index][0]), cpu_s
                continue
            if prepared.calls is None:
                graded[index] = judge_scripts(cases, results[index]), cpu_s  # type: ignore[arg-type]
                continue
            said = accepted.get(index)
            if said is not None and said.trouble is not None:
                graded[index] = said.trouble, cpu_s + said.cpu_s
                continue
            values = None if said is None else said.values
            verdict = judge_cases(cases, results[index][0], values)  # type: ignore[arg-type]
            graded[index] = verdict, cpu_s + (said.cpu_s if said else 0.0)
        return graded

    def _rehearse(
        self, solved: Sequence[tuple[int, Prepared, Questions, JobResult]]
    ) -> dict[int, tuple[Verdict | None, float]]:
        """The verdicts of check programs on answers that are there."""
        told = [questions.rehearsal(prepared.task, run) for _, prepared, questions, run in solved]
        checked = self._checker.run_batch(told)
        return {
            index: (questions.verdict(run, check), run.cpu_s + check.cpu_s)
            for (index, _, questions, run), check in zip(solved, checked, strict=True)
        }

    def _predicates(
        self, submissions: dict[int, tuple[Prepared, str]], results: dict[int, list[JobResult]]
    ) -> dict[int, Accepted]:
        """What the predicates say of the submissions whose tasks have any."""
        asked = {
            index: (prepared.task, prepared.task.tests, results[index][0])
            for index, (prepared, _) in submissions.items()
            if prepared.predicates
        }
        if not asked:
            return {}
        answers = ask_predicates(self._checker, list(asked.values()))  # type: ignore[arg-type]
        return dict(zip(asked, answers, strict=True))

    def reset(self) -> None:
        """End the sandboxes; what is graded next starts new ones."""
        for lane in self._lanes:
            lane.reset()
        self._solver.close()
        self._checker.close()

    def close(self) -> None:
        """End the sandboxes and the lanes."""
        for lane in self._lanes:
            lane.owner.close()
        self.reset()


class Lane:
    """A thread with sandboxes of its own, for tests that ask for one answer after the other.

    Args:
        sandbox: name of a sandbox; each starts when it is first needed.
    """

    def __init__(self, sandbox: str) -> None:
        self.owner = Owner()
        self._name = sandbox
        self._solver, self._checker = make_sandbox(sandbox), make_sandbox(sandbox)
        self._pytest: JobRunner | None = None

    def work(self, asking: deque[tuple[int, Prepared, str]], graded: dict[int, Graded]) -> None:
        """Judge what waits in ``asking``, until nothing does."""
        while True:
            try:
                index, prepared, program = asking.popleft()
            except IndexError:
                return
            try:
                graded[index] = self._judge(prepared, program)
            except BaseException:
                asking.clear()
                raise

    def _judge(self, prepared: Prepared, program: str) -> Graded:
        task, cpu_s = prepared.task, 0.0
        for _ in range(1 + RETRIES):
            if isinstance(task.tests, PytestProgram):
                verdict, used = run_pytest(self._solver, self._pytest_checker(), task, program)
            else:
                limits, files = job_limits(task.limits), dict(task.files)
                job = Job(program, task.entry_point, (), limits, files)
                assert isinstance(task.tests, CheckProgram)
                verdict, used = run_check(self._solver, self._checker, job, task.tests)
            cpu_s += used
            if verdict.status != "infra_error" and verdict.detail != KILLED:
                break
        return verdict, cpu_s

    def _pytest_checker(self) -> JobRunner:
        if self._pytest is None:
            packages = Packages(checker_packages(), ("pedrl_sandbox.grader",))
            self._pytest = make_sandbox(self._name, packages=packages)
        return self._pytest

    def reset(self) -> None:
        """End the sandboxes."""
        for sandbox in (self._solver, self._checker, self._pytest):
            if sandbox is not None:
                sandbox.close()
