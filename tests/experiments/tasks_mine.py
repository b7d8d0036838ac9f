"""A task of a user, and how the tests of `tasks validate` change it."""

import dataclasses
from typing import Any

from pedrl_env import Case, Privileged, Task

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
