"""A suite whose every secret is a canary, and a sandbox that writes down what it is given."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pedrl_env.records import Case, Privileged, Split, Task
from pedrl_sandbox.bwrap import ZygoteSandbox
from pedrl_sandbox.jobs import BatchJob, JobResult

CANARIES = {
    field: f"Canary{number}Of{field.capitalize()}Zq"
    for number, field in enumerate(("solution", "tests", "notes", "feedback", "derivation"))
}


class CanarySuite:
    """Tasks that nearly any text solves: it continues a comment, so teachers get imitated too."""

    name = "canary"

    def tasks(self, split: Split) -> Sequence[Task]:
        """Six tasks per split."""
        return [
            Task(
                id=f"canary/{split}-{number}",
                prompt=f"def f(x):\n    return x + {number}\n\n\n# double, add three: ",
                entry_point="f",
                tests=(Case((1,), 1 + number),),
                privileged=Privileged(
                    solution=f"def f(x):\n    return x + {number}  # {CANARIES['solution']}\n",
                    tests=f"f(1) == {1 + number}  {CANARIES['tests']}",
                    notes=f"{CANARIES['notes']}: x + {number}",
                    feedback=f"raised {CANARIES['feedback']}",
                    derivation=f"    return x  # {CANARIES['derivation']}\n",
                ),
                split=split,
            )
            for number in range(6)
        ]

    def style(self, text: str) -> str | None:
        """No notion of style."""
        return None


class RecordingSandbox(ZygoteSandbox):
    """The real sandbox; keeps a copy of everything that goes into it."""

    jobs: ClassVar[list[str]] = []

    def run_batch(self, jobs: Sequence[BatchJob]) -> list[JobResult]:
        """Run jobs and remember them."""
        self.jobs.extend(repr(job) for job in jobs)
        return super().run_batch(jobs)


def canaries_in(text: Any) -> list[str]:
    """The secrets that a text, or bytes, tells."""
    raw = text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogatepass")
    return [field for field, canary in CANARIES.items() if canary.encode() in raw]
