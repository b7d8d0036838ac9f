"""Imitation of given answers: what the two SFT controls share."""

from collections.abc import Callable, Sequence

import numpy as np

from pedrl_agents.algorithm import Annotation
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Signal, Task


def carry_tasks(tasks: Sequence[Task]) -> list[GenerationRequest]:
    """Sample nothing; the empty groups carry the tasks to `imitate`."""
    return [GenerationRequest(task, "student", 0) for task in tasks]


def imitate(
    groups: Sequence[Group], answer: Callable[[Task], str], policy: TorchPolicy
) -> Annotation:
    """Plain cross-entropy on one given completion of the student's prompt per task."""
    signals = []
    for task in (g.task for g in groups):
        action = policy.encode_answer(answer(task))
        view = policy.prompt_ids(task, "student")
        signals.append(Signal("student", view, action, ce_weights=np.ones(len(action))))
    return Annotation(signals, demonstrations=len(signals))


def completion_of(program: str, prompt: str) -> str:
    """Return the part of a whole program that completes the last line of a prompt.

    Raises:
        ValueError: if the program does not contain that line.
    """
    header = prompt.rstrip("\n").rsplit("\n", 1)[-1] + "\n"
    _, found, body = program.partition(header)
    if not found:
        raise ValueError(f"the reference does not contain the prompt's last line {header!r}")
    return body


def program_of(completion: str, prompt: str) -> str:
    """Return a whole program from a completion of a prompt: the inverse of `completion_of`.

    Where the prompt does not end with the head of a function the completion is taken as it is.
    """
    header = prompt.rstrip("\n").rsplit("\n", 1)[-1]
    return f"{header}\n{completion}" if header.startswith("def ") else completion
