"""`pedrl tasks validate`: proof that a suite's verifier accepts what is right and nothing else.

Every reference must pass, again and again, with more sandboxes at work than there are CPUs; stubs
and mutants of the reference must fail, and so must cheats where the tests are programs; the rest is
read from the tasks. Left out: any proof that a mutant which passes is a bug at all. A folder suite
may argue in ``equivalent.toml`` that it is not, and then must do so about all that pass.
"""

import difflib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, get_args

from pedrl_env.records import Split, Submission, Task, Verdict
from pedrl_env.suite import Suite, SuiteInfo
from pedrl_env.verifier import Verifier
from pedrl_experiments.tasks_cheats import cheats_for, graded_by, tried
from pedrl_experiments.tasks_programs import (
    Body,
    odd_limits,
    plain_program,
    references,
    shown_tests,
    shows_reference,
    stub,
)
from pedrl_experiments.tasks_validation import Survivor, Validation
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.importers.asserts import parse
from pedrl_tasks.mutation import Mutant, mutants

CHUNK: Final = 256
LOAD: Final = 2  # sandboxes per CPU
# A mutant that never ends costs its whole CPU limit. So each task gets ENOUGH times the first of
# these in which its references are done; where none is, what the task allows.
BRIEF_S: Final = (0.025, 0.1, 0.4, 1.6)
ENOUGH: Final = 5

Advance = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is run.

    Attributes:
        repeats: runs of every reference.
        mutants: at most, per task; 0 for all that there are.
        score: least share of mutants that must fail.
        sandbox: backend.
        seed: of the choice of mutants.
    """

    repeats: int = 3
    mutants: int = 10
    score: float = 0.8
    sandbox: str = "zygote"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.mutants < 0 or not 0 <= self.score <= 1:
            raise PedrlError(
                f"repeats must be at least 1 ({self.repeats}), mutants at least 0 "
                f"({self.mutants}) and score from 0 to 1 ({self.score})"
            )


def validate(
    suite: Suite, tasks: Sequence[Task], settings: Settings, advance: Advance
) -> Validation:
    """Read tasks, and run their references, stubs and mutants.

    Args:
        suite: for what it says about itself.
        tasks: those of it that are looked at.
        settings: how much is run.
        advance: is told what is being run, how much of it is done, and of how much.

    Raises:
        PedrlError: there are no tasks, or the tests of one do not run at all.
        IsolationUnavailableError: the sandbox does not work on this machine.
    """
    if not tasks:
        raise PedrlError(f"suite {suite.name!r} has no tasks to validate")
    start = time.monotonic()
    info = getattr(suite, "info", None)
    info = info if isinstance(info, SuiteInfo) else None
    found = Validation(
        suite.name,
        info,
        {split: sum(task.split == split for task in tasks) for split in get_args(Split)},
        refused={item.id: item.reason for item in getattr(suite, "refused", ())},
        programs={task.id: how for task in tasks if (how := graded_by(task))},
    )
    _compare(found, tasks)
    readable = [task for task in tasks if _readable(found, task)]
    workers = LOAD * len(os.sched_getaffinity(0))
    with _long_numbers(), Verifier(settings.sandbox, cache=False, workers=workers) as verifier:
        run = _Runner(verifier, found, advance)
        sound = _references(run, readable, settings.repeats)
        _stubs(run, sound)
        _buggy(run, sound, suite)
        _cheats(run, sound)
        _mutants(run, sound, suite, settings)
        found.executions = verifier.stats.executions
    if found.lost:
        found.complain("suite", f"{found.lost} verdicts could not be had: see `pedrl doctor`")
    found.seconds = time.monotonic() - start
    return found


def _compare(found: Validation, tasks: Sequence[Task]) -> None:
    """Complain about tasks that are at odds with each other, and a suite that says too little."""
    if found.info is None:
        found.complain("suite", "does not say its licence and source: give it an `info`, SuiteInfo")
    ids: set[str] = set()
    firsts: dict[tuple[str, str], Task] = {}
    for task in tasks:
        if task.id in ids:
            found.complain(task.id, "is there twice: ids must be unique")
        ids.add(task.id)
        for kind, value in (("prompt", task.prompt), ("family", task.tags.get("family", ""))):
            first = firsts.setdefault((kind, value), task)
            if value and first.split != task.split:
                found.complain(
                    task.id,
                    f"is in split {task.split}, and {first.id} of the same {kind} in "
                    f"{first.split}: put both into one split",
                )


def _readable(found: Validation, task: Task) -> bool:
    """Complain about what one task says; whether its programs can be run."""
    if odd := odd_limits(task):
        found.complain(task.id, f"{odd}: correct it")
    if not references(task):
        found.complain(task.id, "has no reference solution, so nothing can be proven: add one")
        return False
    try:
        if shows_reference(task):
            found.complain(task.id, "the prompt shows the reference: reword it")
        shown = shown_tests(task)
        parse(plain_program(task)[0])
    except SyntaxError as error:
        found.complain(task.id, f"reference or tests are no Python: line {error.lineno}")
        return False
    if shown:
        found.shown[task.id] = shown
        if not (found.info and found.info.shown):
            found.complain(
                task.id,
                f"the prompt shows the call and the value of hidden test {shown[0]}: change one of "
                "the two (or say in `info.shown` why it is so)",
            )
    return True


@contextmanager
def _long_numbers() -> Iterator[None]:
    """Let programs be written whose numbers have more digits than Python writes by default."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


@dataclass(frozen=True, slots=True)
class _Runner:
    """Judges submissions in large batches and tells how far it is."""

    verifier: Verifier
    found: Validation
    advance: Advance

    def __call__(self, what: str, submissions: Sequence[Submission]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for start in range(0, len(submissions), CHUNK):
            self.advance(what, len(verdicts), len(submissions))
            verdicts += self.verifier.verify_batch(submissions[start : start + CHUNK])
        if submissions:
            self.advance(what, len(verdicts), len(submissions))
        self.found.lost += sum(not verdict.judged for verdict in verdicts)
        return verdicts


def _references(run: _Runner, tasks: Sequence[Task], repeats: int) -> list[Task]:
    """Run every reference ``repeats`` times.

    Returns:
        The tasks all of whose references pass, with limits that are enough for their mutants.
    """
    plan = [(task, text) for task in tasks for text in references(task)]
    verdicts = run("references", [pair for pair in plan for _ in range(repeats)])
    passing = {task.id: True for task in tasks}
    for number, (task, _) in enumerate(plan):
        passing[task.id] &= _passes(
            run.found, task, verdicts[number * repeats : (number + 1) * repeats]
        )
    sound = [task for task in tasks if passing[task.id]]
    run.found.oracle = len(sound)
    return _hurried(run, sound)


def _hurried(run: _Runner, tasks: Sequence[Task]) -> list[Task]:
    """The tasks, with as little CPU time as is enough for their references."""
    enough: dict[str, float] = {}
    for brief in BRIEF_S:
        waiting = [task for task in tasks if task.id not in enough]
        plan = [(_with_cpu(task, brief), text) for task in waiting for text in references(task)]
        verdicts = run(f"references in {brief} s", plan)
        pairs = zip(plan, verdicts, strict=True)
        slow = {task.id for (task, _), verdict in pairs if verdict.status != "passed"}
        enough |= {task.id: ENOUGH * brief for task in waiting if task.id not in slow}
    return [_with_cpu(task, enough.get(task.id, task.limits.cpu_s)) for task in tasks]


def _with_cpu(task: Task, cpu_s: float) -> Task:
    return replace(task, limits=replace(task.limits, cpu_s=min(cpu_s, task.limits.cpu_s)))


def _passes(found: Validation, task: Task, verdicts: Sequence[Verdict]) -> bool:
    """Whether every run of one reference passed; complain where one did not."""
    judged = [verdict for verdict in verdicts if verdict.judged]
    failed = [verdict for verdict in judged if verdict.status != "passed"]
    known = found.info.unproven if found.info else {}
    if failed and task.id in known:
        found.unproven[task.id] = known[task.id]
    elif failed and len(failed) == len(judged):
        last = failed[-1]
        found.complain(
            task.id, f"its reference does not pass ({last.status}: {last.detail}): mend one of them"
        )
    elif judged:
        found.runs += len(judged)
    if failed and len(failed) < len(judged):
        found.flaky[task.id] = found.flaky.get(task.id, 0) + len(failed)
        found.complain(
            task.id,
            f"its reference passed {len(judged) - len(failed)} of {len(judged)} runs "
            f"({failed[-1].status}: {failed[-1].detail}): raise its limits, or take chance out",
        )
    return bool(judged) and not failed


def _stubs(run: _Runner, tasks: Sequence[Task]) -> None:
    """Run every task's functions without a body."""
    plan = [(task, body, stub(task, body)) for task in tasks for body in get_args(Body)]
    verdicts = run("stubs", [(task, program) for task, _, program in plan])
    for (task, body, _), verdict in zip(plan, verdicts, strict=True):
        run.found.stubs += verdict.judged
        if verdict.status == "passed":
            run.found.stubs_passed += 1
            run.found.complain(
                task.id, f"functions with the body `{body}` pass: add a test that demands more"
            )


def _buggy(run: _Runner, tasks: Sequence[Task], suite: Suite) -> None:
    """Run the programs that prompts ask to mend."""
    buggy: Callable[[Task], str] | None = getattr(suite, "buggy", None)
    if buggy is None:
        return
    verdicts = run("buggy programs", [(task, buggy(task)) for task in tasks])
    for task, verdict in zip(tasks, verdicts, strict=True):
        run.found.buggy += verdict.judged
        if verdict.status == "passed":
            run.found.buggy_passed += 1
            run.found.complain(
                task.id, "the buggy program in its prompt passes: add a test that fails it"
            )


def _cheats(run: _Runner, tasks: Sequence[Task]) -> None:
    """Run programs that try to be rewarded for nothing, where the tests are programs too."""
    plan = [(task, *cheat) for task in tried(tasks) for cheat in cheats_for(task)]
    verdicts = run("cheats", [(task, program) for task, _, program in plan])
    for (task, name, _), verdict in zip(plan, verdicts, strict=True):
        run.found.cheats += verdict.judged
        if verdict.status == "passed":
            run.found.cheats_passed += 1
            run.found.complain(task.id, f"the cheat {name!r} passes: compare whole values")


Key = tuple[str, str, int, str]


def _mutants(run: _Runner, tasks: Sequence[Task], suite: Suite, settings: Settings) -> None:
    """Run mutants of every plain reference; those that pass must be argued to be no bugs."""
    found = run.found
    plan: list[tuple[Task, str, Mutant]] = []
    for task in tasks:
        program, first_line = plain_program(task)
        drawn = mutants(program, settings.mutants or None, settings.seed, first_line)
        plan += [(task, program, mutant) for mutant in drawn]
    argued: set[Key] = {
        (f"{suite.name}/{item.task}", item.operator, item.line, item.mutated)
        for item in getattr(suite, "equivalent", ())
    }
    wrong = {key for key in argued if not settings.mutants and key[0] in {t.id for t in tasks}}
    verdicts = run("mutants", [(task, mutant.source) for task, _, mutant in plan])
    for (task, program, mutant), verdict in zip(plan, verdicts, strict=True):
        survivor = _survivor(task, program, mutant)
        key = (task.id, mutant.operator, mutant.line, survivor.mutated)
        found.mutants += verdict.judged
        if verdict.status != "passed":
            wrong |= {key} & argued
        elif key in argued:
            found.equivalent += 1
            wrong.discard(key)
        else:
            found.survivors.append(survivor)
            if argued:
                found.complain(
                    task.id,
                    f"a mutant ({mutant.operator}, line {mutant.line}: {survivor.mutated!r}) "
                    "passes all tests: add one that it fails, or argue in equivalent.toml",
                )
    for task_id, operator, line, _ in sorted(wrong):
        found.complain(
            task_id,
            f"equivalent.toml argues about a mutant ({operator}, line {line}) that does not exist "
            "or fails a test: remove that entry",
        )
    score = found.mutation_score
    if score is not None and score < settings.score:
        found.complain(
            "suite",
            f"mutation score {score:.4f} is below {settings.score}: add tests that fail the "
            "survivors, or argue in equivalent.toml why they are no bugs",
        )


def _survivor(task: Task, program: str, mutant: Mutant) -> Survivor:
    before, after = program.splitlines(), mutant.source.splitlines()
    mutated = after[mutant.line - 1].strip() if mutant.line <= len(after) else ""
    diff = "\n".join(difflib.unified_diff(before, after, "reference", "mutant", "", "", 1, ""))
    return Survivor(task.id, mutant.operator, mutant.line, mutated, diff)
