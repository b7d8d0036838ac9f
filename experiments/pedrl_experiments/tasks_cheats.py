"""Cheats against the tests of a suite that are programs: those that call a submission themselves.

Where tests are cases, no task is different from another, and ``tests/adversarial`` has tried them.
"""

import ast
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from pedrl_env.records import CheckProgram, PytestProgram, Task
from pedrl_experiments.cheats.functions import FUNCTIONS
from pedrl_tasks.importers.asserts import parse

MOST: Final = 32  # tasks of a suite, spread evenly: every cheat is tried on each
CPU_S: Final = 1.0
WALL_S: Final = 10.0
MODULE: Final = "solution"


def graded_by(task: Task) -> str:
    """How a task is graded by a program, and why, in a clause; empty where it has cases."""
    match task.tests:
        case CheckProgram():
            return task.tags.get("tests", "check program")
        case PytestProgram():
            return task.tags.get("tests", "pytest")
    return ""


def tried(tasks: Sequence[Task]) -> list[Task]:
    """The tasks that cheats are tried on, with little time."""
    found = [task for task in tasks if graded_by(task)]
    step = max(1, len(found) / MOST)
    chosen = [found[int(number * step)] for number in range(min(MOST, len(found)))]
    return [
        replace(
            task,
            limits=replace(
                task.limits,
                cpu_s=min(CPU_S, task.limits.cpu_s),
                wall_s=min(WALL_S, task.limits.wall_s),
            ),
        )
        for task in chosen
    ]


def cheats_for(task: Task) -> Iterator[tuple[str, str]]:
    """Every cheat by name, as a program that defines what the tests of ``task`` call."""
    names = _called(task)
    for name, text in FUNCTIONS.items():
        program = textwrap.dedent(text).replace("def f(x)", "def f(x=0, *rest, **more)")
        yield name, "\n".join([program, *(f"{called} = f" for called in names), ""])


def _called(task: Task) -> list[str]:
    """What a submission has to define."""
    if not isinstance(task.tests, PytestProgram):
        return [task.entry_point]
    return [
        alias.name
        for source in task.tests.files.values()
        for node in ast.walk(parse(source))
        if isinstance(node, ast.ImportFrom) and node.module == MODULE
        for alias in node.names
    ]
