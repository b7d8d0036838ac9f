"""The comparators, each against its formula written out by hand on rollouts with known verdicts."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from pedrl_agents.algorithm import Annotation, FollowsUp, State
from pedrl_agents.algorithms.grpo import GRPO
from pedrl_agents.algorithms.hdpo import HDPO
from pedrl_agents.algorithms.jolt import JOLT
from pedrl_agents.algorithms.oracle_sft import OracleSFT
from pedrl_agents.algorithms.pi_distill import PiDistill
from pedrl_agents.algorithms.reference_sft import ReferenceSFT
from pedrl_agents.algorithms.sdft import SDFT
from pedrl_agents.algorithms.sdpo import SDPO
from pedrl_agents.algorithms.teacher_rl import TeacherRL
from pedrl_agents.demonstrations import completion_of, program_of
from pedrl_agents.registry import METHODS, method_class
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import FloatArray, Group, Role, Signal, Status, Task, Trajectory
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.lexicon import style_of
from tests.agents.conftest import MakeGroups

STUDENT: Role = "student"
TEACHER: Role = "teacher"
WARM, COLD = State(50, 100, style_of), State(0, 100, style_of)
MIXED: Sequence[Status] = ("passed", "failed", "passed", "timeout")
WRONG: Sequence[Status] = ("failed", "oom", "malformed", "failed")
LOST: Sequence[Status] = ("infra_error", "passed", "failed", "infra_error")


def rollouts(groups: list[Group]) -> list[tuple[Group, Trajectory]]:
    return [(g, t) for g in groups for t in g.trajectories if t.verdict.judged]


def of(annotation: Annotation, learner: Role) -> list[Signal]:
    return [s for s in annotation.signals if s.learner == learner]


def score(policy: TorchPolicy, role: Role, group: Group, t: Trajectory) -> FloatArray:
    """log pi of a rollout under the weights and the view of a role."""
    (scores,) = policy.score(role, [(policy.prompt_ids(group.task, role), t.turns[-1].action_ids)])
    return scores.logprobs


def sampled(t: Trajectory) -> FloatArray:
    return np.array(t.turns[-1].logprobs)


def centred(rewards: Sequence[float], sizes: Sequence[int]) -> list[float]:
    r, found, start = np.asarray(rewards), [], 0
    for size in sizes:
        found += list(r[start : start + size] - r[start : start + size].mean())
        start += size
    return found


def test_teacher_rl_subtracts_the_mean_surprisal(
    nudged: TorchPolicy, make_groups: MakeGroups
) -> None:
    groups = make_groups("teacher", [MIXED, WRONG, LOST])
    annotation = TeacherRL(lam=0.3, advantage="none").signal(groups, nudged, WARM)
    kept = rollouts(groups)
    read = [score(nudged, "student", g, t) for g, t in kept]
    rewards = [
        t.verdict.reward + 0.3 * logp.mean() for (_, t), logp in zip(kept, read, strict=True)
    ]
    found = [float(s.advantages[0]) for s in of(annotation, "teacher") if s.advantages is not None]
    assert found == pytest.approx(centred(rewards, (4, 4, 2)), abs=1e-6)
    imitated = of(annotation, "student")
    assert [s.action_ids for s in imitated] == [
        t.turns[-1].action_ids for _, t in kept if t.verdict.status == "passed"
    ]
    assert all(s.ce_weights is not None and (s.ce_weights == 1).all() for s in imitated)
    assert of(TeacherRL().signal(groups, nudged, COLD), "student") == []


def test_pi_distill_weighs_two_objectives_on_the_teachers_rollouts(
    nudged: TorchPolicy, make_groups: MakeGroups
) -> None:
    groups = make_groups("teacher", [MIXED, WRONG])
    method = PiDistill(alpha=0.3, kl=0.2, advantage="none")
    annotation = method.signal(groups, nudged, COLD)
    kept = rollouts(groups)
    correct = [t.verdict.reward for _, t in kept]
    kl = [float((sampled(t) - score(nudged, "student", g, t)).sum()) for g, t in kept]
    paid = centred([r - 0.2 * d for r, d in zip(correct, kl, strict=True)], (4, 4))
    plain = centred(correct, (4, 4))
    for signal, (_, t), advantage in zip(of(annotation, "teacher"), kept, paid, strict=True):
        assert signal.prompt_ids == t.turns[-1].prompt_ids
        assert signal.advantages == pytest.approx(
            np.full(len(sampled(t)), 0.3 * advantage), abs=1e-6
        )
    for signal, (g, t), advantage in zip(of(annotation, "student"), kept, plain, strict=True):
        assert signal.prompt_ids == nudged.prompt_ids(g.task, "student")
        assert signal.action_ids == t.turns[-1].action_ids
        assert signal.advantages == pytest.approx(np.full(len(sampled(t)), 0.7 * advantage))
        assert signal.old_logprobs == pytest.approx(sampled(t))  # pi_S / pi_T is the ratio


def test_jolt_charges_the_teacher_and_pays_the_student_for_delta(
    nudged: TorchPolicy, make_groups: MakeGroups, tasks: Sequence[Task]
) -> None:
    method = JOLT(group_size=5, beta_teacher=0.2, beta_student=0.4, advantage="none")
    plan = method.plan(tasks, COLD)
    assert [(r.role, r.samples) for r in plan] == [("teacher", 2)] * 3 + [("student", 3)] * 3
    taught, tried = make_groups("teacher", [MIXED]), make_groups("student", [LOST])
    annotation = method.signal([*taught, *tried], nudged, COLD)
    rewards = {"teacher": centred([1, 0, 1, 0], [4]), "student": centred([1, 0], [2])}
    # The student's Delta is the other way round: log T - log S.
    for groups, role, other, weight in (
        (taught, TEACHER, STUDENT, -0.2),
        (tried, STUDENT, TEACHER, -0.4),
    ):
        kept = rollouts(groups)
        for signal, (g, t), advantage in zip(
            of(annotation, role), kept, rewards[role], strict=True
        ):
            delta = sampled(t) - score(nudged, other, g, t)
            assert signal.advantages == pytest.approx(advantage + weight * delta, abs=1e-6)
            assert signal.prompt_ids == t.turns[-1].prompt_ids
    assert annotation.metrics["student/kl_teacher"] == pytest.approx(
        np.concatenate(
            [sampled(t) - score(nudged, "teacher", g, t) for g, t in rollouts(tried)]
        ).mean()
    )


def test_hdpo_asks_the_teacher_where_all_fail_and_distils_what_passes(
    nudged: TorchPolicy, make_groups: MakeGroups, tasks: Sequence[Task]
) -> None:
    method = HDPO(group_size=4, privileged=3)
    tried = make_groups("student", [MIXED, WRONG, LOST])
    asked = method.follow_up(tried, tasks, 0, COLD)
    assert [(r.task.id, r.role, r.samples) for r in asked] == [(tasks[1].id, "teacher", 3)]
    assert method.follow_up(tried, tasks, 1, COLD) == []
    taught = make_groups("teacher", [("failed", "passed", "infra_error")])
    annotation = method.signal([*tried, *taught], nudged, COLD)
    grpo = GRPO().signal(tried, nudged, COLD).signals
    for mine, other in zip(annotation.signals, grpo, strict=False):
        assert mine.action_ids == other.action_ids
        assert mine.advantages == pytest.approx(other.advantages)
    (distilled,) = annotation.signals[len(grpo) :]
    passed = taught[0].trajectories[1].turns[-1]
    assert distilled.learner == "student"
    assert distilled.action_ids == passed.action_ids
    assert distilled.prompt_ids == nudged.prompt_ids(taught[0].task, "student")
    assert distilled.teacher_prompt_ids == passed.prompt_ids
    assert annotation.metrics["groups/blind"] == pytest.approx(1 / 3)


def test_a_group_whose_verdicts_were_lost_is_not_blind(make_groups: MakeGroups) -> None:
    lost = make_groups("student", [("infra_error", "infra_error")])
    assert HDPO().follow_up(lost, [], 0, COLD) == []


def test_sdft_points_the_student_at_its_demonstrated_average(
    nudged: TorchPolicy, make_groups: MakeGroups
) -> None:
    method = SDFT()
    assert (method.storage, method.divergence.beta) == ("ema", 1.0)
    groups = make_groups("student", [MIXED, LOST])
    signals = method.signal(groups, nudged, COLD).signals
    assert len(signals) == 8  # no verdict is read, so none can be missing
    everything = [(group, t) for group in groups for t in group.trajectories]
    for signal, (g, t) in zip(signals, everything, strict=True):
        assert signal.prompt_ids == t.turns[-1].prompt_ids
        assert signal.teacher_prompt_ids == nudged.prompt_ids(g.task, "teacher")


def test_sdpo_tells_the_teacher_what_became_of_the_attempt(
    nudged: TorchPolicy, make_groups: MakeGroups
) -> None:
    groups = make_groups("student", [MIXED, WRONG, ("passed", "failed")])
    annotation = SDPO().signal(groups, nudged, COLD)
    texts = {
        s.action_ids: str(nudged.tokenizer.decode(list(s.teacher_prompt_ids or ())))
        for s in annotation.signals
    }
    first, second = groups[0].trajectories[0], groups[0].trajectories[2]
    told_first, told_failed = (
        texts[groups[0].trajectories[i].turns[-1].action_ids] for i in (0, 1)
    )
    header = groups[0].task.prompt.rstrip("\n").rsplit("\n", 1)[-1]
    assert f"# Here is a reference solution:\n{header}\n{second.text}" in told_first
    assert "An earlier attempt" not in told_first  # it passed
    assert first.text in told_failed
    assert "# An earlier attempt gave:\n# failed, 0 of 5 tests passed\n" in told_failed
    assert told_failed.endswith(groups[0].task.prompt)
    # A lone success has nobody to learn from and nothing to be told.
    assert annotation.metrics["hindsight/share"] == pytest.approx(9 / 10)
    for group in groups:
        secrets = (group.task.privileged.solution, group.task.privileged.notes)
        assert not any(secret in text for secret in secrets for text in texts.values())
    for method, share in ((SDPO(feedback=False), 5 / 10), (SDPO(sibling=False), 7 / 10)):
        told = method.signal(groups, nudged, COLD)
        assert told.metrics["hindsight/share"] == pytest.approx(share)


def test_dynamic_sampling_replaces_what_teaches_nothing(
    nudged: TorchPolicy, make_groups: MakeGroups, tasks: Sequence[Task]
) -> None:
    method = GRPO(group_size=4, dynamic=2)
    groups = make_groups("student", [MIXED, WRONG, LOST])
    asked = method.follow_up(groups, tasks, 0, COLD)
    assert [(r.task.id, r.samples) for r in asked] == [(tasks[0].id, 4)]
    assert method.follow_up(groups, tasks, 2, COLD) == []
    assert GRPO().follow_up(groups, tasks, 0, COLD) == []  # off, as in the paper
    assert method.follow_up([groups[0]] * 3, tasks, 0, COLD) == []
    signals = method.signal(groups, nudged, COLD).signals
    assert len(signals) == 6  # the group of equal verdicts does not dilute the mean
    assert all(s.advantages is not None and s.advantages.any() for s in signals)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_whom_it_samples(name: str, tasks: Sequence[Task]) -> None:
    method = method_class(name)()
    roles = {r.role for r in method.plan(tasks, COLD) if r.samples}
    told = METHODS[name].samples
    assert (roles == set()) == (told == "nobody")
    assert all(role in told for role in roles)
    assert (
        method.group_size * len(tasks) == sum(r.samples for r in method.plan(tasks, COLD))
        or not roles
    )
    assert isinstance(method, FollowsUp) == (name in ("grpo", "hdpo"))


def test_a_control_without_answers_says_so(nudged: TorchPolicy, tasks: Sequence[Task]) -> None:
    bare = dataclasses.replace(tasks[0].privileged, derivation="")
    group = Group(dataclasses.replace(tasks[0], privileged=bare), "student", ())
    with pytest.raises(PedrlError, match="has no answer of this kind to imitate: leave"):
        OracleSFT().signal([group], nudged, COLD)
    (signal,) = ReferenceSFT().signal([group], nudged, COLD).signals
    assert signal.ce_weights is not None


def test_completions_and_programs() -> None:
    prompt, program = "# double\ndef f(x):\n", "def f(x):\n    return 2 * x\n"
    body = completion_of(program, prompt)
    assert body == "    return 2 * x\n"
    assert program_of(body, prompt) == program
    stub = 'def f(x):\n    """Double."""\n'
    assert completion_of(program, stub) == program  # it replaces the prompt, as answers may
    assert program_of(body, stub) == body
