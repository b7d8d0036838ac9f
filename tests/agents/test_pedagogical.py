"""The schedule, the selection and the replay of Pedagogical RL."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.algorithms.grpo import GRPO
from pedrl_agents.algorithms.pedagogical import Pedagogical
from pedrl_agents.algorithms.teacher_rl import TeacherRL
from pedrl_agents.learner import Learner, LearnerConfig
from pedrl_agents.signals import GATES, METERS, Meter, surprisal_gate
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import Signal, Status, Task
from pedrl_tasks.lexicon import style_of
from tests.agents.conftest import MakeGroups
from tests.tiny import tiny_policy

ROWS: Sequence[Sequence[Status]] = (
    ("passed", "failed", "passed", "timeout"),
    ("failed", "oom", "malformed", "failed"),
)


def at(
    step: int, steps: int = 100, **more: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
) -> State:
    return State(step, steps, style_of, **more)


def learners(annotation: Annotation) -> set[str]:
    return {s.learner for s in annotation.signals}


def imitated(annotation: Annotation) -> list[Signal]:
    return [s for s in annotation.signals if s.ce_weights is not None]


def test_rounds_alternate_after_the_warm_up(nudged: TorchPolicy, make_groups: MakeGroups) -> None:
    method = Pedagogical(warmup=2, teacher_steps=2, student_steps=1)
    groups = make_groups("teacher", ROWS)
    found = [learners(method.signal(groups, nudged, at(step))) for step in range(8)]
    teacher, student = {"teacher"}, {"student"}
    assert found == [teacher, teacher, *[teacher, teacher, student] * 2]
    both = [learners(Pedagogical(warmup=1).signal(groups, nudged, at(n))) for n in range(3)]
    assert both == [teacher, teacher | student, teacher | student]


@pytest.mark.parametrize("name", get_args(Meter))
def test_the_reward_is_correctness_times_the_meter(
    name: Meter, nudged: TorchPolicy, make_groups: MakeGroups
) -> None:
    groups = make_groups("teacher", ROWS[:1])
    method = Pedagogical(meter=name, lam=0.4, beta=3.0, advantage="none")
    annotation = method.signal(groups, nudged, at(0))
    view = nudged.prompt_ids(groups[0].task, "student")
    actions = [t.turns[-1].action_ids for t in groups[0].trajectories]
    g = [METERS[name](s, 0.4, 3.0) for s in nudged.score("student", [(view, a) for a in actions])]
    rewards = [g[0], 0.0, g[2], 0.0]
    mean = sum(rewards) / 4
    found = [float(s.advantages[0]) for s in annotation.signals if s.advantages is not None]
    assert found == pytest.approx([r - mean for r in rewards], abs=1e-6)
    assert annotation.metrics["teacher/G"] == pytest.approx(sum(g) / 4, abs=1e-6)


def test_selection(nudged: TorchPolicy, make_groups: MakeGroups) -> None:
    groups = make_groups("teacher", ROWS)
    every = imitated(Pedagogical(warmup=0).signal(groups, nudged, at(0)))
    best = imitated(Pedagogical(warmup=0, select="best").signal(groups, nudged, at(0)))
    assert len(every) == 2
    view = every[0].prompt_ids
    by_g = {
        s.action_ids: METERS["gap"](read, 1.0, 5.0)
        for s, read in zip(
            every, nudged.score("student", [(view, s.action_ids) for s in every]), strict=True
        )
    }
    assert [s.action_ids for s in best] == [max(by_g, key=lambda a: by_g[a])]
    low, high = sorted(by_g.values())
    between = Pedagogical(warmup=0, select="threshold", least_g=(low + high) / 2)
    assert [s.action_ids for s in imitated(between.signal(groups, nudged, at(0)))] == [
        s.action_ids for s in best
    ]


def test_replay_is_imitated_again_with_the_gates_of_today(
    tiny_base: Path, make_groups: MakeGroups
) -> None:
    method = Pedagogical(warmup=1, replay=3, gamma=-3.0)
    policy = tiny_policy(tiny_base, nudge_teacher=True)
    groups = make_groups("teacher", ROWS)
    first = method.signal(groups, policy, at(0))
    assert imitated(first) == []  # the teacher alone learns, and what it found is not lost
    assert len(first.replay) == 2
    for weight in policy.models["student"].parameters():
        weight.data.mul_(0.9)  # another student than the one that was there when they were sampled
    second = method.signal(groups, policy, at(1, replay=first.replay))
    signals = imitated(second)
    assert [(s.prompt_ids, s.action_ids) for s in signals[2:]] == list(first.replay)
    for signal, read in zip(signals[2:], policy.score("student", first.replay), strict=True):
        assert signal.ce_weights == pytest.approx(surprisal_gate(read.logprobs, 2.0, -3.0))
    assert len(second.replay) == 3  # the latest ones
    assert second.replay[:1] == first.replay[1:]
    assert Pedagogical(warmup=0).signal(groups, policy, at(0)).replay == ()


def test_what_is_kept_for_replay_is_the_students_view(
    nudged: TorchPolicy, make_groups: MakeGroups
) -> None:
    groups = make_groups("teacher", ROWS)
    kept = Pedagogical(replay=9).signal(groups, nudged, at(0)).replay
    assert {prompt for prompt, _ in kept} == {nudged.prompt_ids(groups[0].task, "student")}


def test_final_grpo_is_the_students(
    nudged: TorchPolicy, make_groups: MakeGroups, tasks: Sequence[Task]
) -> None:
    method = Pedagogical(group_size=4, final_grpo=2)
    assert {r.role for r in method.plan(tasks, at(97))} == {"teacher"}
    assert {r.role for r in method.plan(tasks, at(98))} == {"student"}
    groups = make_groups("student", ROWS)
    mine = method.signal(groups, nudged, at(99)).signals
    other = GRPO().signal(groups, nudged, at(99)).signals
    for a, b in zip(mine, other, strict=True):
        assert (a.learner, a.prompt_ids, a.action_ids) == (b.learner, b.prompt_ids, b.action_ids)
        assert a.advantages == pytest.approx(b.advantages)


def test_gates_are_those_of_signals(nudged: TorchPolicy, make_groups: MakeGroups) -> None:
    groups = make_groups("teacher", ROWS)
    for name, gate in GATES.items():
        method = Pedagogical(warmup=0, gate=name, kappa=1.5, gamma=-2.0)
        annotation = method.signal(groups, nudged, at(0))
        signals = imitated(annotation)
        read = nudged.score("student", [(s.prompt_ids, s.action_ids) for s in signals])
        for signal, scores in zip(signals, read, strict=True):
            assert signal.ce_weights == pytest.approx(gate(scores.logprobs, 1.5, -2.0), rel=1e-4)
        bins = [annotation.metrics[f"gate/{part}"] for part in ("shut", "half", "open")]
        assert sum(bins) == pytest.approx(1.0)


def test_the_additive_ungated_corner_is_teacher_rl(
    nudged: TorchPolicy, make_groups: MakeGroups
) -> None:
    groups = make_groups("teacher", ROWS)
    corner = Pedagogical(reward="additive", gate="none", lam=0.3).signal(groups, nudged, at(9))
    named = TeacherRL(lam=0.3).signal(groups, nudged, at(9))
    for a, b in zip(corner.signals, named.signals, strict=True):
        assert (a.learner, a.prompt_ids, a.action_ids) == (b.learner, b.prompt_ids, b.action_ids)
        assert a.advantages == pytest.approx(b.advantages)
        assert a.ce_weights == pytest.approx(b.ce_weights)


@pytest.mark.parametrize("storage", get_args(Storage))
def test_every_storage_trains(storage: Storage, tiny_base: Path, make_groups: MakeGroups) -> None:
    policy = tiny_policy(tiny_base, storage=storage)
    method = Pedagogical(warmup=0, storage=storage)
    learner = Learner(policy, LearnerConfig(), method.policy_loss, method.divergence)
    before = {r: [w.clone() for w in weights.values()] for r, weights in policy.state().items()}
    learner.step(method.signal(make_groups("teacher", ROWS), policy, at(0)).signals)
    for role, weights in before.items():
        now = policy.state()[role].values()
        assert not all(torch.equal(a, b) for a, b in zip(now, weights, strict=True))
    assert (policy.models["teacher"] is policy.models["student"]) == (storage == "shared")
