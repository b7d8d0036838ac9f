"""Groups of real rollouts of the tiny model, with verdicts of the test's choosing."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import (
    GenerationRequest,
    Group,
    Role,
    Status,
    Task,
    Trajectory,
    Verdict,
)
from pedrl_tasks.lexicon import Lexicon
from tests.tiny import tiny_policy

MakeGroups = Callable[[Role, Sequence[Sequence[Status]]], list[Group]]


@pytest.fixture(scope="package")
def nudged(tiny_base: Path) -> TorchPolicy:
    """A policy whose teacher has other weights than its student. Nobody trains it."""
    return tiny_policy(tiny_base, nudge_teacher=True)


@pytest.fixture(scope="package")
def tasks() -> Sequence[Task]:
    """Three tasks."""
    return Lexicon(coined=2).tasks("train")[:3]


@pytest.fixture(scope="package")
def make_groups(nudged: TorchPolicy, tasks: Sequence[Task]) -> MakeGroups:
    """Sample one group per row of statuses, one task each."""

    def make(role: Role, statuses: Sequence[Sequence[Status]]) -> list[Group]:
        chosen = list(zip(tasks, statuses, strict=False))
        requests = [GenerationRequest(task, role, len(row)) for task, row in chosen]
        sampled = nudged.generate(requests, 9)
        return [
            Group(
                task,
                role,
                tuple(
                    Trajectory(
                        task.id,
                        0,
                        role,
                        0,
                        (turn,),
                        nudged.decode(turn),
                        Verdict(status, float(status == "passed"), int(status == "passed"), 5),
                        9,
                        False,
                    )
                    for turn, status in zip(turns, row, strict=True)
                ),
            )
            for (task, row), turns in zip(chosen, sampled, strict=True)
        ]

    return make
