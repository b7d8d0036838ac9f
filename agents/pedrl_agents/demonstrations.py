"""Imitation of given answers: what the two SFT controls share."""

from collections.abc import Callable, Sequence

import numpy as np

from pedrl_agents.algorithm import Annotation
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import GenerationRequest, Group, Signal, Task
from pedrl_sandbox.errors import PedrlError


def carry_tasks(tasks: Sequence[Task]) -> list[GenerationRequest]:
    """Sample nothing; the empty groups carry the tasks to `imitate`."""
    return [GenerationRequest(task, "student", 0) for task in tasks]


def imitate(
    groups: Sequence[Group], answer: Callable[[Task], str], policy: TorchPolicy
) -> Annotation:
    """Plain cross-entropy on one given completion of the student's prompt per task.

    Raises:
        PedrlError: if a task has no such answer.
    """
    signals = []
    for task in (g.task for g in groups):
        text = answer(task)
        if not text:
            raise PedrlError(
                f"{task.id} has no answer of this kind to imitate: leave the control out, "
                "or choose a suite that has them (lexicon)"
            )
        action = policy.encode_answer(policy.view.answer(task, text))
        view = policy.prompt_ids(task, "student")
        signals.append(Signal("student", view, action, ce_weights=np.ones(len(action))))
    return Annotation(signals, demonstrations=len(signals))


def completion_of(program: str, prompt: str) -> str:
    """Return the part of a whole program that completes the last line of a prompt.

    A program without that line is returned whole: as an answer it replaces the prompt.
    """
    header = prompt.rstrip("\n").rsplit("\n", 1)[-1] + "\n"
    _, found, body = program.partition(header)
    return body if found else program


def program_of(completion: str, prompt: str) -> str:
    """Return a whole program from a completion of a prompt: the inverse of `completion_of`.

    Where the prompt does not end with the head of a function the completion is taken as it is.
    """
    header = prompt.rstrip("\n").rsplit("\n", 1)[-1]
    return f"{header}\n{completion}" if header.startswith("def ") else completion
