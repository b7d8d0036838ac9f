"""What all submissions to a task share, made once; a task that cannot be graded is refused here."""

import builtins
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, get_args

from pedrl_env.grading import case_call
from pedrl_env.grading_pytest import check_modules
from pedrl_env.records import (
    Case,
    CheckProgram,
    Comparison,
    Limits,
    OutputComparison,
    PytestProgram,
    ScriptCase,
    Task,
)
from pedrl_sandbox import EncodedCalls, PedrlError, encode_calls, unknown_name, wire

MAX_ITEMS: Final = 100_000
MAX_STDIN_BYTES: Final = 8 << 20  # half of a workspace


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task, ready for submissions.

    Attributes:
        task: as it came.
        fingerprint: of everything that a verdict depends on besides the program.
        calls: of a function task with cases, encoded.
        predicates: whether any case has one.
    """

    task: Task
    fingerprint: bytes
    calls: EncodedCalls | None
    predicates: bool = False


def prepare(task: Task) -> Prepared:
    """Check a task's tests and encode what is sent for every submission.

    Raises:
        PedrlError: they are missing, contradict each other, or are not plain data.
    """
    tests, calls, predicates = task.tests, None, False
    cases: list[bytes] = []
    if isinstance(tests, CheckProgram):
        content: list[Any] = ["check", tests.preamble, tests.source]
    elif isinstance(tests, PytestProgram):
        _check_pytest(task, tests)
        content = ["pytest", sorted(tests.files.items()), tests.modules]
    elif not tests:
        raise PedrlError(f"task {task.id!r} has no tests, so nothing could be verified")
    elif len({type(test) for test in tests}) > 1:
        raise PedrlError(f"task {task.id!r} mixes cases of functions and of scripts")
    else:
        content = [type(tests[0]).__name__]
        mixed: Sequence[Case | ScriptCase] = tests
        cases = [_case(f"task {task.id!r}, test {n}", test) for n, test in enumerate(mixed, 1)]
        if called := [test for test in mixed if isinstance(test, Case)]:
            calls = encode_calls([case_call(case) for case in called], plain=True)
            predicates = any(case.predicate for case in called)
    limits = [getattr(task.limits, name) for name in Limits.__slots__]
    content += [task.id, task.entry_point, limits, sorted(task.files.items())]
    try:
        lines = [wire.encode(item) for item in content]
    except wire.WireError as error:
        raise PedrlError(f"the files or tests of task {task.id!r} are {error}") from error
    return Prepared(task, hashlib.sha256(b"\n".join(lines + cases)).digest(), calls, predicates)


def _case(where: str, case: Case | ScriptCase) -> bytes:
    """The fields of one case, checked and encoded."""
    if not (math.isfinite(case.tolerance) and case.tolerance >= 0):
        raise PedrlError(f"{where}: the tolerance must be a number from 0 on, not {case.tolerance}")
    known: Sequence[str]
    if isinstance(case, Case):
        known = get_args(Comparison)
        _check_case(where, case)
    else:
        known = get_args(OutputComparison)
    if case.comparison not in known:
        raise unknown_name(f"comparison of {where}", case.comparison, known)
    fields = {name: getattr(case, name) for name in type(case).__slots__}
    if isinstance(case, Case):
        fields["kwargs"] = dict(case.kwargs)
    else:  # which may be longer than a value that crosses
        fields |= {"stdin": _digest(where, case.stdin), "stdout": _digest(where, case.stdout)}
    try:
        return wire.encode(fields)
    except wire.WireError as error:
        raise PedrlError(f"{where} is {error}") from error


def _digest(where: str, text: str) -> str:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise PedrlError(f"{where}: stdin or stdout is not valid Unicode text") from error
    if len(data) > MAX_STDIN_BYTES:
        raise PedrlError(f"{where}: stdin or stdout is longer than {MAX_STDIN_BYTES >> 20} MiB")
    return hashlib.sha256(data).hexdigest()


def _check_case(where: str, case: Case) -> None:
    error = getattr(builtins, case.raises, None) if case.raises else Exception
    if not (isinstance(error, type) and issubclass(error, BaseException)):
        known = [name for name, item in vars(builtins).items() if isinstance(item, type)]
        raise unknown_name(f"exception of {where}", case.raises, known)
    if case.raises == "MemoryError":
        raise PedrlError(f"{where}: MemoryError always means that the memory limit was passed")
    if case.raises and case.predicate:
        raise PedrlError(f"{where}: a call that raises has no value for the predicate")
    if not 0 <= case.items <= MAX_ITEMS:
        raise PedrlError(f"{where}: items must be from 0 to {MAX_ITEMS}, not {case.items}")
    if case.predicate:
        try:
            compile(case.predicate, "<predicate>", "exec")
        except (SyntaxError, ValueError) as problem:
            raise PedrlError(f"{where}: the predicate does not compile: {problem}") from problem


def _check_pytest(task: Task, tests: PytestProgram) -> None:
    if not tests.files:
        raise PedrlError(f"task {task.id!r} has no tests, so nothing could be verified")
    for name in (*tests.files, *task.files):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise PedrlError(f"task {task.id!r}: the file {name!r} is not inside the workspace")
    check_modules(task, tests)
