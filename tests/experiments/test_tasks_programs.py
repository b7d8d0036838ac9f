"""What is read from a task without running it: values and references in prompts, stubs, limits."""

import dataclasses
from typing import Any

import pytest

from pedrl_env import Case, Privileged, ScriptCase, Task
from pedrl_experiments.tasks_programs import odd_limits, shown_tests, shows_reference, stub

ADD = Task(
    id="mine/a",
    prompt="def add(a, b):\n",
    entry_point="add",
    tests=(Case((1, 2), 3), Case((2, 2), 4), Case(("a", "b"), "ab")),
    privileged=Privileged(solution="    return a + b\n"),
    split="test",
)


def of(task: Task, **changes: Any) -> Task:
    return dataclasses.replace(task, **changes)


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("def add(a, b):\n    '>>> add(1, 2)\n    3'\n", [1]),
        ('def add(a, b):\n    """add("a", "b") == \'ab\', add(2,2) returns 4"""\n', [2, 3]),
        ("def add(a, b):\n    'add(1, 2) is 33, add(2, 2) is 4.5'\n", []),
        ("def add(a, b):\n    'add(1, 3) is 4 and 3 comes from (1, 2)'\n", []),
    ],
)
def test_shown_tests(prompt: str, shown: list[int]) -> None:
    assert shown_tests(of(ADD, prompt=prompt)) == shown


@pytest.mark.parametrize(
    ("prompt", "shows"),
    [
        ("def add(a, b):\n    '''Hint: return a + b.'''\n", False),
        ("def add(a, b):\n    '''Hint: `return a + b`.'''\n", True),
        ("def add(a, b):\n    '''Hint: return a + b'''\n", True),
        ("# return  a + b\ndef add(a, b):\n", True),
        ("# return a + b + 1\ndef add(a, b):\n", False),
    ],
)
def test_shown_reference(prompt: str, shows: bool) -> None:
    assert shows_reference(of(ADD, prompt=prompt)) == shows
    whole = Privileged(solution="def add(a, b):\n    'Sum.'\n    return a + b\n")
    assert shows_reference(of(ADD, prompt=prompt, privileged=whole)) == shows


def test_stubs_are_programs_without_bodies() -> None:
    helper = "def one(x):\n    return x\n\n\ndef add(a, b):\n"
    assert "def one(x):\n    return x" in stub(of(ADD, prompt=helper), "pass")
    assert stub(of(ADD, prompt=helper), "return None").endswith("def add(a, b):\n    return None\n")
    tests = (ScriptCase("", "1"),)
    program = Privileged(solution="print(1)\n")
    script = of(ADD, prompt="Print 1.\n", entry_point="", tests=tests, privileged=program)
    assert stub(script, "return None") == "pass\n"
    assert odd_limits(ADD) == ""
