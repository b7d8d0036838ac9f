"""Runs inside the checker: what a check program asks of a submission, written down.

Its text is a program for a sandbox, so it imports the standard library alone. ``compared`` runs a
trusted ``check(candidate)`` whose candidate gives answers that are not known yet. Where the check
does nothing but compare them, it comes to its end, and each comparison is then shown to decide: had
it come out otherwise, the check would have failed there and then. So the check passes exactly if
every call is answered and every comparison comes out as written down. See ``recording.py``.

Of other checks, ``asked`` finds the calls that they make whatever they are told, by telling them
all sorts of things and letting no assertion fail. See ``checking.py``.
"""

import ast
import copy
import random
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any, Final

MOST: Final = 128  # calls, and decisions: each of these costs a run of the check
# With these, a check may depend on an answer that it never compared.
NODES: Final = (ast.Is, ast.IsNot, ast.Try, ast.TryStar, ast.With, ast.AsyncWith)
NAMES: Final = {"type", "id", "callable", "eval", "exec", "globals", "locals", "vars", "object"}
OPAQUE: Final = (
    *("iter", "next", "len", "getitem", "contains", "hash", "float", "int", "index", "complex"),
    *("str", "repr", "format", "bytes", "call", "enter", "reversed", "round", "trunc", "floor"),
    *("ceil", "add", "radd", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv"),
    *("mod", "rmod", "pow", "rpow", "neg", "pos", "invert", "and", "rand", "or", "ror", "xor"),
    *("rxor", "lshift", "rlshift", "rshift", "rrshift", "matmul", "rmatmul", "divmod", "rdivmod"),
)

ANSWERS: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    1,
    -3,
    2.5,
    "",
    "ab",
    [],
    [4, 1],
    (),
    (2,),
    {},
    {1: 2},
)

Expression = tuple[Any, ...]
Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


class OpaqueError(BaseException):
    """More was done with an answer than to compare it."""


class Run:
    """One run of a check.

    Args:
        path: how its first decisions come out; the others are true.
        last: whether to give up at whatever is asked after the last decision of ``path``.
    """

    def __init__(self, path: list[bool], *, last: bool = False) -> None:
        self.path, self.last = path, last
        self.calls: Calls = []
        self.decisions: list[Expression] = []
        self.opaque = False  # kept, since what is raised could be caught
        self.decided = False  # whether a decision is the last that happened

    def candidate(self, *args: Any, **kwargs: Any) -> "Unknown":
        """Stands for the submission."""
        self._count(self.calls)
        self.calls.append((copy.deepcopy(args), copy.deepcopy(kwargs)))
        self.decided = False
        return Unknown(self, ("call", len(self.calls) - 1))

    def decide(self, expression: Expression) -> bool:
        """How ``expression`` comes out in this run."""
        self._count(self.decisions)
        self.decisions.append(expression)
        self.decided = True
        index = len(self.decisions) - 1
        return self.path[index] if index < len(self.path) else True

    def _count(self, events: list[Any]) -> None:
        if len(events) == MOST or (self.last and len(self.decisions) == len(self.path)):
            self.give_up()

    def give_up(self) -> None:
        """Say that this check cannot be written down."""
        self.opaque = True
        raise OpaqueError

    def passes(self, code: CodeType, name: str) -> bool | None:
        """Run the check: whether it passed; None where it cannot be written down."""
        try:
            run_check(code, name, self.candidate)
        except Exception:
            return None if self.opaque or not self.decided else False
        except OpaqueError:
            return None
        return None if self.opaque else True


class Unknown:
    """An answer, or what is made of one by ``-``, ``abs`` and comparisons."""

    __slots__ = ("expression", "run")

    def __init__(self, run: Run, expression: Expression) -> None:
        object.__setattr__(self, "run", run)
        object.__setattr__(self, "expression", expression)

    def __bool__(self) -> bool:
        return _run(self).decide(_expression(self))

    def __abs__(self) -> "Unknown":
        return Unknown(_run(self), ("abs", _expression(self)))

    def __getattribute__(self, name: str) -> Any:
        _run(self).give_up()


def _run(unknown: Unknown) -> Run:
    return object.__getattribute__(unknown, "run")  # type: ignore[no-any-return]


def _expression(value: Any) -> Expression:
    if type(value) is Unknown:
        return object.__getattribute__(value, "expression")  # type: ignore[no-any-return]
    return "value", copy.deepcopy(value)


def _binary(name: str, *, swapped: bool = False) -> Callable[[Unknown, Any], Unknown]:
    def method(self: Unknown, other: Any) -> Unknown:
        pair = _expression(self), _expression(other)
        return Unknown(_run(self), (name, *(reversed(pair) if swapped else pair)))

    return method


def _refuse(self: Unknown, *args: Any) -> None:
    _run(self).give_up()


for _name in ("eq", "ne", "lt", "le", "gt", "ge", "sub"):
    setattr(Unknown, f"__{_name}__", _binary(_name))
Unknown.__rsub__ = _binary("sub", swapped=True)  # type: ignore[attr-defined]
for _name in OPAQUE:
    setattr(Unknown, f"__{_name}__", _refuse)


def record(program: str, name: str) -> tuple[Calls, list[tuple[Expression, bool]] | None] | None:
    """The calls of a check program, and how each of its decisions has to come out.

    Args:
        program: trusted source that defines ``check(candidate)``.
        name: a global that stands for the candidate as well.

    Returns:
        No decisions where only a run with the answers can decide; None where a submission must be
        asked while the check runs.
    """
    found = compared(program, name)
    if found is not None:
        return found
    calls = asked(program, name)
    return None if calls is None else (calls, None)


def asked(program: str, name: str) -> Calls | None:
    """The calls that a check makes whatever it is told; None where it makes others, or too many.

    Where an answer ends a check before the others do, what it asked is the beginning of what it
    asks. What it asks for an answer that is not tried here may differ: its run will show that.
    """
    code = compile(Unfailing().visit(ast.parse(program)), "<check>", "exec", dont_inherit=True)
    whole: list[Calls] = []
    cut: list[Calls] = []
    for answer in ANSWERS:
        run = Told(answer)
        try:
            ended = run.ends(code, name)
        except OpaqueError:
            return None
        (whole if ended else cut).append(run.calls)
    if len(whole) < 2 or not whole[0]:
        return None
    same = {repr(calls) for calls in whole}  # 1, 1.0 and True are different arguments
    begun = all(repr(calls) == repr(whole[0][: len(calls)]) for calls in cut)
    return whole[0] if len(same) == 1 and begun else None


class Unfailing(ast.NodeTransformer):
    """Asserts nothing, and evaluates what was asserted, whatever becomes of it."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Replace one statement."""
        handler = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [ast.Pass()])
        found = ast.Try([ast.Expr(node.test)], [handler], [], [])
        return ast.fix_missing_locations(ast.copy_location(found, node))


class Told:
    """One run of a check that is told the same at every call.

    Args:
        answer: plain data.
    """

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls: Calls = []

    def candidate(self, *args: Any, **kwargs: Any) -> Any:
        """Stands for the submission."""
        if len(self.calls) == MOST:
            raise OpaqueError
        self.calls.append((copy.deepcopy(args), copy.deepcopy(kwargs)))
        return copy.deepcopy(self.answer)

    def ends(self, code: CodeType, name: str) -> bool:
        """Run the check: whether it came to its end."""
        try:
            run_check(code, name, self.candidate)
        except Exception:
            return False
        return True


def run_check(code: CodeType, name: str, candidate: Callable[..., Any]) -> None:
    """Run a check program with ``candidate``, drawing what it draws at random as ever."""
    random.seed(0)
    module = sys.modules["solution"] = ModuleType("solution")
    exec(code, module.__dict__)
    module.__dict__[name] = candidate
    module.__dict__["check"](candidate)


def compared(program: str, name: str) -> tuple[Calls, list[tuple[Expression, bool]]] | None:
    """As ``record``, of a check program that does nothing but compare answers; None of others."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, NODES) or (isinstance(node, ast.Name) and node.id in NAMES):
            return None
    code = compile(tree, "<check>", "exec", dont_inherit=True)
    path: list[bool] = []
    while not (passed := (run := Run(path)).passes(code, name)):
        index = len(run.decisions) - 1
        if passed is None or index < len(path):
            return None
        path = [*path, *[True] * (index - len(path)), False]  # `assert not candidate(x)`
    path += [True] * (len(run.decisions) - len(path))
    for index in range(len(path)):
        other = Run([*path[:index], not path[index]], last=True)
        if other.passes(code, name) is not False:
            return None
        same = other.calls == run.calls[: len(other.calls)]
        if not same or other.decisions != run.decisions[: index + 1]:
            return None  # it does not do the same thing twice
    return run.calls, list(zip(run.decisions, path, strict=True))
