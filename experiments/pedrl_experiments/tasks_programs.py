"""What can be said of a task without running anything: its programs, its prompt, its limits.

`pedrl tasks validate` runs the programs and reports the rest.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Final, Literal

from pedrl_env.records import Case, CheckProgram, Limits, ScriptCase, Task
from pedrl_env.verifier import assemble
from pedrl_tasks.importers.asserts import parse

Body = Literal["pass", "return None"]
Function = ast.FunctionDef | ast.AsyncFunctionDef

SHORTEST: Final = 10  # a reference of fewer characters may stand in a prompt by chance
# Between a call and its value in a prompt: `f(1) == 2`, `f(1)  # 2`, `>>> f(1)` with 2 below.
BETWEEN: Final = r"(?:==|->|=>|=|→|➞|#|is|returns?|gives?|yields?|prints?|:|`)*"
SMALLEST: Final = Limits(0.05, 1.0, 32, 1, 1 << 10)
LARGEST: Final = Limits(120.0, 600.0, 8192, 256, 1 << 28)


def references(task: Task) -> list[str]:
    """The right answers that a task comes with: what a teacher sees, and the plain style."""
    found = (task.privileged.solution, task.privileged.derivation)
    return list(dict.fromkeys(text for text in found if text.strip()))


def plain_program(task: Task) -> tuple[str, int]:
    """The reference in plain style as a whole program, and the line where it begins.

    A literal stands for itself: it has no mutants, and its stubs are no literals.
    """
    text = task.privileged.derivation or task.privileged.solution
    program = text if task.literal else assemble(task, text)
    return program, 1 if program == text else task.prompt.count("\n") + 1


def stub(task: Task, body: Body) -> str:
    """The plain reference with ``body`` for the body of every function that it writes.

    A program without functions becomes ``pass``.

    Raises:
        SyntaxError: the reference is no Python.
    """
    program, first_line = plain_program(task)
    tree = parse(program)
    empty = parse(f"def f():\n    {body}").body[0]
    assert isinstance(empty, ast.FunctionDef)
    written = [
        node
        for node in ast.walk(tree)
        if isinstance(node, Function) and (node.end_lineno or 0) >= first_line
    ]
    for node in written:
        node.body = empty.body
    return f"{ast.unparse(tree)}\n" if written else "pass\n"


def shows_reference(task: Task) -> bool:
    """Whether the prompt holds the code of a reference, however it is indented.

    A literal is no code: that of CRUXEval's answers may stand anywhere.
    """
    if task.literal:
        return False
    prompt = f"{_lines(task.prompt)}\n"
    codes = [_lines(_code(task, text)) for text in references(task)]
    # A line that goes on is other code: `return x` is no part of `return x + 1`.
    return any(
        len(code) >= SHORTEST and re.search(rf"{re.escape(code)}(?=[\n`'\"])", prompt)
        for code in codes
    )


def _code(task: Task, text: str) -> str:
    """A reference without the head and the docstring of the function that it defines."""
    if assemble(task, text) != text:
        return text
    for node in parse(text).body:
        if isinstance(node, Function) and node.name == task.entry_point:
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            return "\n".join(text.splitlines()[body[0].lineno - 1 : node.end_lineno])
    return text


def _lines(text: str) -> str:
    """The lines that are not empty, with single spaces."""
    return "\n".join(line for item in text.splitlines() if (line := " ".join(item.split())))


def shown_tests(task: Task) -> list[int]:
    """The hidden tests, by number from 1, whose expected value stands behind their call.

    Tests for pytest are not looked at.
    """
    prompt = _squeeze(task.prompt)
    found = []
    for number, (call, value) in enumerate(_pairs(task), 1):
        shown = rf"{re.escape(call)}{BETWEEN}{re.escape(value)}(?![\w.])"
        if call and value and re.search(shown, prompt):
            found.append(number)
    return found


def _pairs(task: Task) -> Iterator[tuple[str, str]]:
    """The call and the expected value of every test, squeezed; empty where there is none."""
    if isinstance(task.tests, CheckProgram):
        for node in ast.walk(parse(task.tests.source)):
            match node:
                case ast.Compare(ast.Call(ast.Name()) as call, [ast.Eq()], [value]):
                    arguments = ast.unparse(call).partition("(")[2]
                    text = f"{task.entry_point}({arguments}"
                    yield _squeeze(text), _squeeze(ast.unparse(value))
    elif isinstance(task.tests, tuple):
        for test in task.tests:
            if isinstance(test, ScriptCase):
                yield _squeeze(test.stdin), _squeeze(test.stdout)
            else:
                yield _squeeze(_call(task, test)), _squeeze(_value(test))


def _call(task: Task, case: Case) -> str:
    named = [f"{key}={value!r}" for key, value in case.kwargs.items()]
    return f"{task.entry_point}({', '.join([*map(repr, case.args), *named])})"


def _value(case: Case) -> str:
    return "" if case.raises or case.predicate else repr(case.expected)


def _squeeze(text: str) -> str:
    """``text`` without white space and without a difference between the two kinds of quotes."""
    return re.sub(r"\s", "", text).replace('"', "'")


def odd_limits(task: Task) -> str:
    """What is wrong with the limits of a task, in a clause; empty when they are sane."""
    for item in fields(Limits):
        value, least, most = (getattr(of, item.name) for of in (task.limits, SMALLEST, LARGEST))
        if not least <= value <= most:
            return f"limit {item.name} is {value}, and sane is {least} to {most}"
    if task.limits.wall_s < task.limits.cpu_s:
        return f"wall_s ({task.limits.wall_s}) is less than cpu_s ({task.limits.cpu_s})"
    return ""
