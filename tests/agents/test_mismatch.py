"""What a step says of the distance between the sampler's log-probabilities and the learner's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pedrl_agents.learner import Learner, LearnerConfig
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_env.records import GenerationRequest, Signal
from pedrl_tasks.lexicon import Lexicon
from tests.tiny import tiny_policy


@pytest.mark.parametrize("tokens_per_batch", [16384, 1])
def test_mismatch_is_that_of_tokens_with_advantages(tiny_base: Path, tokens_per_batch: int) -> None:
    policy = tiny_policy(tiny_base)
    task = Lexicon(coined=2).tasks("train")[0]
    turns = policy.generate([GenerationRequest(task, "student", 4)], 3)[0]
    shifts = [0.2, -0.1, 5.0, 0.0]
    signals = [
        Signal(
            "student",
            turn.prompt_ids,
            turn.action_ids,
            advantages=np.ones(len(turn.action_ids)),
            old_logprobs=np.array(turn.logprobs) - shift,
        )
        for turn, shift in zip(turns, shifts, strict=True)
    ]
    # It teaches nothing.
    signals[2] = replace(signals[2], advantages=np.zeros(len(turns[2].action_ids)))
    config = LearnerConfig(tokens_per_batch=tokens_per_batch)
    learner = Learner(policy, config, PolicyLoss(), Divergence())
    found = learner.step(signals)
    heard = [
        r
        for i in (0, 1, 3)
        for r in np.full(len(turns[i].action_ids), shifts[i])  # log pi - log pi_sampler
    ]
    apart = np.array(heard)
    assert found["mismatch/student_max"] == pytest.approx(0.2, abs=1e-4)
    assert found["mismatch/student_mean"] == pytest.approx(np.abs(apart).mean(), abs=1e-4)
    k3 = np.exp(apart) - apart - 1
    assert found["mismatch/student_k3"] == pytest.approx(k3.mean(), abs=1e-4)
    assert not any("teacher" in name for name in found)


def test_what_was_sampled_just_now_has_none(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base, nudge_teacher=True)
    task = Lexicon(coined=2).tasks("train")[0]
    (turn,) = policy.generate([GenerationRequest(task, "teacher", 1)], 3)[0]
    signal = Signal(
        "teacher",
        turn.prompt_ids,
        turn.action_ids,
        advantages=np.ones(len(turn.action_ids)),
        old_logprobs=np.array(turn.logprobs),
    )
    learner = Learner(policy, LearnerConfig(), PolicyLoss(), Divergence())
    first, second = learner.step([signal]), learner.step([signal])
    assert first["mismatch/teacher_max"] < 1e-4
    assert second["mismatch/teacher_max"] > 1e-3  # the weights are others by now
