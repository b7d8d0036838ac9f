"""Check programs that only compare answers, turned into calls and what must hold of the values.

Asking a submission one call at a time costs two sandboxes and many turns for each submission. A
check is therefore run once with unknown answers (``recorder.py``, in the checker). Where that shows
what it compares, submissions are asked all its calls at once, and judged here.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pedrl_env.checking import Questions, check_source
from pedrl_env.grading import judge_cases
from pedrl_env.records import Case, CheckProgram, Verdict
from pedrl_sandbox import Call, EncodedCalls, Job, JobLimits, JobResult, Outcome, encode_calls, wire

_RECORDER: Final = Path(__file__).with_name("recorder.py").read_text()
_LIMITS: Final = JobLimits(cpu_s=5.0, wall_s=20.0, memory_mb=1024, output_bytes=1 << 24)
_OPERATORS: Final[Mapping[str, Callable[..., Any]]] = {
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "sub")},
    "abs": abs,
}
_ERRORS: Final = (ArithmeticError, AttributeError, TypeError, ValueError)  # of plain values


@dataclass(frozen=True, slots=True)
class Recording:
    """What a check program asks.

    Attributes:
        calls: encoded.
        decisions: for each call, what must hold once it is answered: expressions over the values
            up to it, with the truth that each must have.
    """

    calls: EncodedCalls
    decisions: tuple[tuple[tuple[Any, bool], ...], ...]

    def judge(self, result: JobResult) -> Verdict:
        """The verdict on what came back; each call is a test."""
        values = result.outcomes
        accepted = [
            all(_holds(expression, wanted, values) for expression, wanted in of)
            for of in self.decisions[: len(values)]
        ]
        return judge_cases([_CALL] * len(self.decisions), result, accepted)


_CALL: Final = Case((), None, predicate="in the check program")


def recorder_job(tests: CheckProgram, name: str) -> Job:
    """What the checker runs to record a check program."""
    return Job(_RECORDER, "record", [(check_source(tests), name)], _LIMITS)


def read_recording(result: JobResult) -> Recording | Questions | None:
    """What it answered; None where submissions must be asked one call at a time."""
    if result.status != "ok" or result.outcomes[0].kind != "value" or not result.outcomes[0].value:
        return None
    calls, decided = result.outcomes[0].value
    if not calls:
        return None
    encoded = encode_calls([Call(args, kwargs) if kwargs else args for args, kwargs in calls])
    if decided is None:
        lines = tuple(wire.dumps(wire.pack_call(args, kwargs)) for args, kwargs in calls)
        return Questions(lines, encoded)
    decisions: list[list[tuple[Any, bool]]] = [[] for _ in calls]
    for expression, wanted in decided:
        decisions[_last_call(expression)].append((expression, wanted))
    return Recording(encoded, tuple(map(tuple, decisions)))


def _last_call(expression: Sequence[Any]) -> int:
    """The last call that an expression is about."""
    if expression[0] == "call":
        return int(expression[1])
    return -1 if expression[0] == "value" else max(map(_last_call, expression[1:]))


def _holds(expression: Sequence[Any], wanted: bool, outcomes: Sequence[Outcome]) -> bool:
    try:
        return bool(_value(expression, outcomes)) is wanted
    except _ERRORS:  # the check would have raised it
        return False


def _value(expression: Sequence[Any], outcomes: Sequence[Outcome]) -> Any:
    kind, *rest = expression
    if kind == "value":
        return rest[0]
    if kind == "call":
        outcome = outcomes[rest[0]]
        if outcome.kind != "value":
            raise ValueError(wire.NOT_PLAIN)  # judged as such, at its own call
        return outcome.value
    return _OPERATORS[kind](*(_value(item, outcomes) for item in rest))
