"""`repair`: mend a function with one bug, made from any suite of functions with references.

The prompt shows the buggy program, one call that goes wrong, and the function's first line again: a
submission writes the body. The bug is a mutant of the reference that fails at least two cases of
its task, and not all where that can be had; the shortest of these is shown, and is no hidden test
any more. The form is that of HumanEvalFix (Muennighoff et al., arXiv:2308.07124). Left out: tasks
whose tests are programs, bugs that never end, and mutants that fail by a missing name alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from pedrl_env.records import Privileged, Split, Task
from pedrl_env.registry import make_suite
from pedrl_env.suite import Dial, SuiteInfo, all_tasks
from pedrl_sandbox.errors import PedrlError, unknown_name
from pedrl_tasks.buggy import BEHIND, buggy_program
from pedrl_tasks.importers.files import Refused
from pedrl_tasks.repair_bugs import (
    Bug,
    Origin,
    UnbreakableError,
    call_text,
    find_bugs,
    origin,
    right,
)

DIALS = ("source", "seed", "per_task", "backend")


class Repair:
    """Bugs in the references of another suite; each is in the split of the task that it is of.

    Which mutants will do is found by running them when tasks are first asked for, and remembered.

    Args:
        source: the suite, by name or path.
        seed: of the choice of bugs; the same seed gives the same tasks.
        per_task: bugs of one task, at most.
        backend: sandbox in which mutants are tried.
        unknown: every other dial is refused.

    Attributes:
        refused: tasks of the source that give no bug, and why; known once tasks were asked for.

    Raises:
        PedrlError: a dial is unknown or makes no sense, or the source cannot be made.
    """

    name = "repair"
    buggy = staticmethod(buggy_program)
    info: SuiteInfo = SuiteInfo(
        name="repair",
        title="Repair: one bug in a function of another suite",
        licence="that of the source",
        citation="that of the source",
        source="source=SUITE",
        splits={split: f"bugs in the {split} tasks of the source" for split in get_args(Split)},
    )

    def __init__(
        self,
        source: Dial = "starter",
        seed: Dial = 0,
        per_task: Dial = 1,
        backend: Dial = "zygote",
        **unknown: Dial,
    ) -> None:
        for dial in unknown:
            raise unknown_name("dial of suite 'repair':", dial, DIALS)
        if type(seed) is not int or type(per_task) is not int or per_task < 1:
            raise PedrlError(
                f"suite 'repair': seed and per_task must be whole numbers, and per_task at least "
                f"1, not {seed!r} and {per_task!r}"
            )
        self._source = make_suite(str(source))
        self._choice = seed, per_task, str(backend)
        self._tasks: Mapping[Split, Sequence[Task]] | None = None
        self.refused: tuple[Refused, ...] = ()
        of = getattr(self._source, "info", None)
        if isinstance(of, SuiteInfo):
            self.info = replace(
                of, name=self.name, title=f"Repair of {of.title}", source=f"mutants of {source}",
                splits=type(self).info.splits, unproven={},
            )  # fmt: skip

    def tasks(self, split: Split) -> Sequence[Task]:
        """The bugs in the tasks of a split, in the order of these."""
        if self._tasks is None:
            self._tasks = self._build()
        return self._tasks[split]

    def style(self, text: str) -> str | None:
        """None: no styles are told apart here."""
        return None

    def _build(self) -> Mapping[Split, Sequence[Task]]:
        origins: list[Origin] = []
        refused: list[Refused] = []
        for task in all_tasks(self._source):
            try:
                origins.append(origin(task))
            except UnbreakableError as error:
                refused.append(Refused(self._id(task), str(error)))
        bugs = find_bugs(origins, *self._choice)
        tasks: dict[Split, list[Task]] = {split: [] for split in get_args(Split)}
        for one in origins:
            found = bugs[one.task.id]
            if not found:
                reason = "none of its mutants that were tried fails two of its cases"
                refused.append(Refused(self._id(one.task), reason))
            for number, bug in enumerate(found, 1):
                name = f"{self._id(one.task)}-{number}"
                tasks[one.task.split].append(_task(name, one, bug))
        self.refused = tuple(refused)
        return tasks

    def _id(self, task: Task) -> str:
        return f"{self.name}/{task.id.rpartition('/')[2]}"


def _task(name: str, one: Origin, bug: Bug) -> Task:
    shown = one.cases[bug.case]
    hidden = tuple(case for index, case in enumerate(one.cases) if index != bug.case)
    call, program = call_text(one.task.entry_point, shown), bug.program.rstrip()
    prompt = (
        f"{program}{BEHIND}function above has a bug: {call} {bug.says}, but {right(shown)}.\n"
        f"# The corrected function:\n{one.head}"
    )
    lines = [f"{call_text(one.task.entry_point, case)} {right(case)}" for case in hidden]
    return replace(
        one.task,
        id=name,
        prompt=prompt,
        tests=hidden,
        privileged=Privileged(
            solution=one.body, tests="\n".join(lines), notes=bug.note, derivation=one.body
        ),
        tags={**one.task.tags, "operator": bug.operator},
    )
