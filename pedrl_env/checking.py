"""Run a trusted check program against a submission that it never shares a process with.

Asked one call at a time, a submission costs two sandboxes and many turns between them. Nearly every
check asks the same, whatever it is told (``recorder.asked``): then a submission is asked all of it
at once, and the check hears all its answers at once. Where the check asks something else after all,
the submission is asked one call at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pedrl_env.records import CheckProgram, Status, Task, Verdict
from pedrl_sandbox import (
    CheckJob,
    EncodedCalls,
    Job,
    JobLimits,
    JobResult,
    JobRunner,
    Outcome,
    Session,
    wire,
)
from pedrl_sandbox.answers import error_name, read_outcome

# The check itself gets more than the submission: a hostile value must not make it fail for time.
CHECK_CPU_S: Final = 10.0
CHECK_MEMORY_MB: Final = 1024


@dataclass(frozen=True, slots=True)
class Questions:
    """What a check program asks, whatever it is told.

    Attributes:
        lines: its calls, as its candidate writes them.
        calls: the same, for a submission.
    """

    lines: tuple[bytes, ...]
    calls: EncodedCalls

    def rehearsal(self, task: Task, solved: JobResult) -> CheckJob:
        """The check, told what a submission answered."""
        assert isinstance(task.tests, CheckProgram)
        answers = solved.outcomes[: _heard(solved.outcomes)]
        exchanges = [
            (line, "v", outcome.value) if outcome.kind == "value" else (line, "e", outcome.note)
            for line, outcome in zip(self.lines, answers, strict=False)
        ]
        limits = _check_limits(task.limits.wall_s)
        return CheckJob(check_source(task.tests), task.entry_point, limits, exchanges=exchanges)

    def verdict(self, solved: JobResult, checked: JobResult) -> Verdict | None:
        """What both say together; None where the submission must be asked while the check runs.

        Args:
            solved: what a submission answered.
            checked: how its rehearsal ended.
        """
        match checked.outcomes:
            case (Outcome("value", ["passed"]),) if solved.status == "ok":
                return _verdict("passed", "")
            case (Outcome("value", ["failed", name]),):
                return _verdict("failed", f"the check raised {error_name(name)}")
            case (Outcome("value", ["more"]),):
                return self._cut_off(solved)
        return None

    def _cut_off(self, solved: JobResult) -> Verdict | None:
        """Where the check waits for an answer that did not come."""
        heard = _heard(solved.outcomes)
        if heard == len(self.lines):
            return None
        if heard < len(solved.outcomes) and (fault := _fault(solved.outcomes[heard])):
            return _verdict(*fault)
        if solved.status == "ok" or solved.status == "infra_error":
            return None
        return _verdict(solved.status, solved.detail)


def run_check(
    solvers: JobRunner, checkers: JobRunner, job: Job, tests: CheckProgram
) -> tuple[Verdict, float]:
    """Run ``check(candidate)`` with a ``candidate`` that asks the solver for every answer.

    Args:
        solvers: where the submission runs.
        checkers: where the check runs; another sandbox, so that nothing is shared.
        job: the submission, without calls.
        tests: trusted source.

    Returns:
        The verdict, out of one test, and the CPU seconds of both processes.
    """
    limits = _check_limits(job.limits.wall_s)
    checker = checkers.session(CheckJob(check_source(tests), job.entry_point, limits))
    try:
        solver = solvers.session(job)
        try:
            status, detail = _relay(checker, solver)
        finally:
            solved = solver.close()
    finally:
        checked = checker.close()
    if status is None:
        status, detail = _early_end(checked, solved)
    return _verdict(status, detail), solved.cpu_s + checked.cpu_s


def check_source(tests: CheckProgram) -> str:
    """The whole program of a check."""
    return f"{tests.preamble}\n{tests.source}"


def _check_limits(wall_s: float) -> JobLimits:
    """Of a check whose submission may take ``wall_s``."""
    return JobLimits(CHECK_CPU_S, wall_s + CHECK_CPU_S, CHECK_MEMORY_MB, output_bytes=1 << 24)


def _verdict(status: Status, detail: str) -> Verdict:
    passed = int(status == "passed")
    return Verdict(status, float(passed), passed, 1, detail)


def _relay(checker: Session, solver: Session) -> tuple[Status | None, str]:
    """Carry calls and answers until the check is decided; None when one side ended before that."""
    while True:
        match checker.hear():
            case ["v", None]:
                return "passed", ""
            case ["x", name]:
                return "failed", f"the check raised {error_name(name)}"
            case ["c", call]:
                solver.tell(call)
            case _:
                return None, ""
        try:
            answer = solver.hear()
        except wire.WireError as error:
            return "malformed", str(error)
        if answer is None:
            return None, ""
        if isinstance(answer, list) and answer[:1] == ["x"]:
            name = error_name(answer[-1])
            return ("oom" if name == "MemoryError" else "failed"), f"raised {name}"
        outcome = read_outcome(answer)
        if fault := _fault(outcome):
            return fault
        if outcome.kind == "raised":
            checker.tell(["e", outcome.note])
            continue
        try:  # packed anew: the check reads only what this side understood
            checker.tell(["v", wire.pack(outcome.value)])
        except wire.WireError as error:  # there are larger ways to write a value than ours
            return "malformed", str(error)


def _fault(outcome: Outcome) -> tuple[Status, str] | None:
    """The end of a check, where an answer is none that it can hear."""
    if outcome.kind == "malformed":
        return "malformed", outcome.note
    return ("oom", "raised MemoryError") if outcome.note == "MemoryError" else None


def _heard(outcomes: Sequence[Outcome]) -> int:
    """How many answers a check hears, up to the first that ends it."""
    faults = (index for index, outcome in enumerate(outcomes) if _fault(outcome))
    return next(faults, len(outcomes))


def _early_end(checked: JobResult, solved: JobResult) -> tuple[Status, str]:
    if "infra_error" in (checked.status, solved.status):
        return "infra_error", checked.detail or solved.detail
    if solved.status != "ok":
        return solved.status, solved.detail
    if checked.status != "ok":
        return "timeout", f"the check did not finish: {checked.detail}"
    return "failed", "ended without answering every call"
