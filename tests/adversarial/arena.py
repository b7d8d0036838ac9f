"""One real sandbox, checked for damage after every attack."""

import time

import pytest

from pedrl_experiments.bench.census import descendants
from pedrl_sandbox import Job, JobLimits, JobResult, JobRunner
from pedrl_sandbox.attacks import Attack, attacks, attempt
from pedrl_sandbox.attacks.records import NEIGHBOUR


def each(*families: str) -> pytest.MarkDecorator:
    """Run a test with every attack of some families."""
    chosen = attacks(*families)
    names = [f"{attack.family}: {attack.name}" for attack in chosen]
    return pytest.mark.parametrize("attack", chosen, ids=names)


class Arena:
    """Runs attacks and proves that nothing of them is left.

    Args:
        sandbox: where.
        ahead: whether it makes the next job's child beside a job.
    """

    def __init__(self, sandbox: JobRunner, *, ahead: bool) -> None:
        self.sandbox = sandbox
        self._ahead = ahead
        assert sandbox.run_batch([NEIGHBOUR])[0].status == "ok"
        time.sleep(0.1)
        self._at_rest = len(self.processes())

    def endures(self, attack: Attack) -> JobResult:
        """Prove that ``attack`` is stopped and harms no other job; how it ended."""
        finding = attempt(self.sandbox, attack)
        assert finding.stopped, finding.how
        return finding.result

    def run(self, program: str, *args: object, cpu_s: float = 1.0) -> JobResult:
        """How one program ends."""
        limits = JobLimits(cpu_s, 30.0, memory_mb=256, processes=4, output_bytes=1 << 16)
        return self.sandbox.run_batch([Job(program, "f", (args,), limits)])[0]

    def returned(self, program: str, *args: object, cpu_s: float = 1.0) -> object:
        """What one program returns."""
        result = self.run(program, *args, cpu_s=cpu_s)
        assert result.status == "ok", result
        assert result.outcomes[0].kind == "value", result
        return result.outcomes[0].value

    def counts(self, processes: int) -> set[int]:
        """How many a job may come to that may have so many: two more, where it is quick."""
        return {processes, processes + 1, processes + 2} if self._ahead else {processes}

    def processes(self) -> set[int]:
        """What runs for this sandbox."""
        found: set[int] = set()
        for worker in self.sandbox._idle:  # type: ignore[attr-defined]
            found |= descendants(worker.pid)
        return found

    def servers(self) -> set[int]:
        """The processes that outlive jobs: one that is there at two moments between two jobs."""
        before = self.processes()
        assert self.sandbox.run_batch([NEIGHBOUR])[0].status == "ok"
        return before & self.processes()

    def settled(self) -> bool:
        """Whether no more runs than before any attack, very soon."""
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            if len(self.processes()) == self._at_rest:
                return True
            time.sleep(0.01)
        return False
