"""Bugs for `repair`: which mutants of a reference fail tests, found by running them once.

What was found is kept in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``), in a file
named by the hash of everything that it depends on.
"""

import ast
import hashlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pedrl_env.grading import PASSED, jobs, judge_cases
from pedrl_env.grading_prepare import Prepared, prepare
from pedrl_env.records import Case, Task
from pedrl_env.verifier import assemble, default_workers
from pedrl_sandbox import JobResult, PedrlError, make_sandbox
from pedrl_tasks.importers.asserts import parse
from pedrl_tasks.mutation import Mutant, mutants

VERSION: Final = 2  # of the way bugs are chosen
TRIES: Final = 12  # mutants that are drawn for each bug that is wanted
CPU_S: Final = 0.5  # a mutant that needs more is not chosen
WIDEST: Final = 120  # characters of a call or value in a prompt
# A name that an edit removed: the message alone says what to mend, so it is no bug to look for.
NAMELESS: Final = ("NameError", "UnboundLocalError")


class UnbreakableError(Exception):
    """A task that gives no bug; its text is the reason."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A task whose reference can be broken.

    Attributes:
        cases: its hidden tests.
        program: its reference in plain style, whole.
        first_line, last_line: where in the program that function is.
        head: the first lines of the function, up to its docstring.
        body: the rest of it, behind the docstring.
    """

    task: Task
    cases: tuple[Case, ...]
    program: str
    first_line: int
    last_line: int
    head: str
    body: str


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug.

    Attributes:
        program: the whole buggy program.
        operator: of `mutation.OPERATORS`.
        note: where the edit is and what it was.
        case: index of the failing case to show.
        says: what the function does in that case: ``returned 3`` or ``raised KeyError``.
    """

    program: str
    operator: str
    note: str
    case: int
    says: str


def origin(task: Task) -> Origin:
    """Take a task apart.

    Raises:
        UnbreakableError: its tests are no cases, or its reference does not write the function that
            they call.
    """
    tests = task.tests if isinstance(task.tests, tuple) else ()
    cases = tuple(case for case in tests if isinstance(case, Case) and not case.predicate)
    if not cases or len(cases) < len(tests) or task.literal:
        raise UnbreakableError("its tests are no cases with expected values")
    text = task.privileged.derivation or task.privileged.solution
    program = assemble(task, text)
    first_line = 1 if program == text else task.prompt.count("\n") + 1
    lines = program.splitlines()
    for node in parse(program).body:
        if isinstance(node, ast.FunctionDef) and node.name == task.entry_point:
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            end = node.end_lineno or 0
            if end < first_line or not body or node.body[0].lineno == node.lineno:
                break
            start = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            head = "\n".join(lines[start - 1 : node.body[0].lineno - 1])
            code = "\n".join(lines[body[0].lineno - 1 : end])
            return Origin(task, cases, program, start, end, f"{head}\n", f"{code}\n")
    raise UnbreakableError("its reference does not write the function that the tests call")


def find_bugs(
    origins: Sequence[Origin], seed: int, per_task: int, backend: str
) -> dict[str, list[Bug]]:
    """At most ``per_task`` bugs of every task, the same ones for the same seed.

    Args:
        origins: what is to be broken.
        seed: of the order in which mutants are tried.
        per_task: how many are wanted.
        backend: sandbox that runs the mutants, if the answer is not known already.

    Returns:
        Task id -> its bugs; none where no mutant that was tried qualifies.

    Raises:
        PedrlError: the cache cannot be read or written.
        IsolationUnavailableError: the sandbox does not work on this machine.
    """
    tries = {one.task.id: _brief(one.task) for one in origins}
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(f"{VERSION} {python} {seed} {per_task}".encode())
    for one in origins:
        digest.update(tries[one.task.id].fingerprint + one.program.encode())
    file = _cache_folder() / f"{digest.hexdigest()}.json"
    if file.exists():
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
            return {task: [Bug(**bug) for bug in bugs] for task, bugs in plain.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise PedrlError(f"{file} is damaged: remove it ({error})") from error
    found = _search(origins, tries, seed, per_task, backend)
    _write(file, {task: [asdict(bug) for bug in bugs] for task, bugs in found.items()})
    return found


def _brief(task: Task) -> Prepared:
    cpu_s = min(CPU_S, task.limits.cpu_s)
    return prepare(replace(task, limits=replace(task.limits, cpu_s=cpu_s)))


def _search(
    origins: Sequence[Origin],
    tries: Mapping[str, Prepared],
    seed: int,
    per_task: int,
    backend: str,
) -> dict[str, list[Bug]]:
    """Run mutants of every task, a few at a time, until it has its bugs or no mutant is left.

    Bugs that fail every case stand in where no others are found.
    """
    found: dict[str, list[Bug]] = {one.task.id: [] for one in origins}
    crude: dict[str, list[Bug]] = {one.task.id: [] for one in origins}
    drawn = {one.task.id: _drawn(one, seed, per_task) for one in origins}
    with make_sandbox(backend, workers=default_workers()) as sandbox:
        while batch := [
            (one, mutant)
            for one in origins
            if len(found[one.task.id]) < per_task
            for mutant in islice(drawn[one.task.id], per_task + 1)
        ]:
            prepared = [tries[one.task.id] for one, _ in batch]
            results = sandbox.run_batch(
                [
                    job
                    for known, (_, mutant) in zip(prepared, batch, strict=True)
                    for job in jobs(known.task, mutant.source, known.calls)
                ]
            )
            for (one, mutant), result in zip(batch, results, strict=True):
                if result.status == "infra_error":
                    raise PedrlError(f"sandbox {backend!r} does not work here: {result.detail}")
                _sort(one, mutant, result, found[one.task.id], crude[one.task.id])
    return {task: [*bugs, *crude[task]][:per_task] for task, bugs in found.items()}


def _drawn(one: Origin, seed: int, per_task: int) -> Iterator[Mutant]:
    """Mutants in an order of chance that is the same for the same seed."""
    number = int.from_bytes(hashlib.sha256(f"{seed}/{one.task.id}".encode()).digest()[:8])
    drawn = mutants(one.program, TRIES * per_task, number, one.first_line)
    found = [mutant for mutant in drawn if mutant.line <= one.last_line]
    random.Random(number).shuffle(found)
    return iter(found)


def _sort(
    one: Origin, mutant: Mutant, result: JobResult, found: list[Bug], crude: list[Bug]
) -> None:
    """Add a mutant to the bugs, if it fails two cases, or to the crude ones, if it fails all.

    One that only misses a name is neither.
    """
    if result.status != "ok":
        return
    results = judge_cases(one.cases, result).results
    failing = [index for index, status in enumerate(results) if status != PASSED]
    outcomes = [result.outcomes[index] for index in failing]
    if all(outcome.kind == "raised" and outcome.note in NAMELESS for outcome in outcomes):
        return
    if len(failing) >= 2 and (bug := _bug(one, mutant, result, failing)):
        (crude if len(failing) == len(results) else found).append(bug)


def _bug(one: Origin, mutant: Mutant, result: JobResult, failing: Sequence[int]) -> Bug | None:
    """The bug that a mutant is; the shortest failing case is shown, and there must be one."""
    widths: dict[int, int] = {}
    for index in failing:
        case, outcome = one.cases[index], result.outcomes[index]
        texts = (call_text(one.task.entry_point, case), right(case), plain_text(outcome.value))
        special = case.items or case.stdout is not None or case.arguments is not None
        if outcome.kind != "malformed" and not special and max(map(len, texts)) <= WIDEST:
            widths[index] = sum(map(len, texts))
    if not widths:
        return None
    index = min(widths, key=lambda item: (widths[item], item))
    outcome = result.outcomes[index]
    says = f"returned {plain_text(outcome.value)}"
    if outcome.kind == "raised":
        says = f"raised {outcome.note}"
    note = f"line {mutant.line}: {mutant.description}"
    return Bug(mutant.source, mutant.operator, note, index, says)


def call_text(name: str, case: Case) -> str:
    """The call of a case, as source."""
    named = [f"{key}={plain_text(value)}" for key, value in case.kwargs.items()]
    return f"{name}({', '.join([*map(plain_text, case.args), *named])})"


def right(case: Case) -> str:
    """What a case expects, as a clause."""
    return (
        f"should raise {case.raises}"
        if case.raises
        else f"should return {plain_text(case.expected)}"
    )


def plain_text(value: Any) -> str:
    """``repr`` of plain data, but the same in every process: sets are sorted."""
    kind, many = type(value), (list, tuple, set, frozenset)
    if kind is dict:
        pairs = [f"{plain_text(key)}: {plain_text(item)}" for key, item in value.items()]
        return f"{{{', '.join(pairs)}}}"
    if kind not in many or not value:
        return repr(value)
    items = [plain_text(item) for item in value]
    if kind is list:
        return f"[{', '.join(items)}]"
    if kind is tuple:
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    text = f"{{{', '.join(sorted(items))}}}"
    return text if kind is set else f"frozenset({text})"


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "pedrl" / "repair"


def _write(file: Path, plain: Mapping[str, Any]) -> None:
    """Write all of it or nothing: other processes may want the same file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, encoding="utf-8", delete=False
        ) as partial:
            json.dump(plain, partial)
        Path(partial.name).replace(file)
    except OSError as error:
        raise PedrlError(
            f"cannot write to {file.parent}: {error.strerror}; set XDG_CACHE_HOME to a folder that "
            "can be written to"
        ) from error
