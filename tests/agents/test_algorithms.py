"""Plans and signals of every algorithm, on hand-made groups whose verdicts are known."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pedrl_agents.algorithms
from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.algorithms.grpo import GRPO
from pedrl_agents.algorithms.opsd import OPSD
from pedrl_agents.algorithms.oracle_sft import OracleSFT
from pedrl_agents.algorithms.pedagogical import Pedagogical
from pedrl_agents.algorithms.reference_sft import ReferenceSFT
from pedrl_agents.algorithms.rejection_sft import RejectionSFT
from pedrl_agents.learner import Learner, LearnerConfig
from pedrl_agents.mechanism import rollout_metrics
from pedrl_agents.registry import METHODS, method_class
from pedrl_agents.signals import learnability, surprisal_gate
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import (
    GenerationRequest,
    Group,
    Role,
    Signal,
    Status,
    Task,
    Trajectory,
    Turn,
    Verdict,
)
from pedrl_tasks.lexicon import Lexicon, style_of
from tests.tiny import tiny_policy

TASKS = Lexicon(coined=2).tasks("train")[:3]
WARM, COLD = State(50, 100, style_of), State(0, 100, style_of)
# Per task: mixed, all wrong, mixed with rollouts that the infrastructure lost.
STATUSES: tuple[tuple[Status, ...], ...] = (
    ("passed", "failed", "passed", "timeout"),
    ("failed", "oom", "malformed", "failed"),
    ("infra_error", "passed", "failed", "infra_error"),
)


@pytest.fixture(scope="module")
def policy(tiny_base: Path) -> TorchPolicy:
    return tiny_policy(tiny_base, nudge_teacher=True)


def verdict(status: Status) -> Verdict:
    return Verdict(status, float(status == "passed"), 0, 5)


def make_groups(
    policy: TorchPolicy,
    role: Role,
    statuses: tuple[tuple[Status, ...], ...] = STATUSES,
    tasks: tuple[Task, ...] = tuple(TASKS),
) -> list[Group]:
    """Real rollouts of the tiny model with verdicts of our choosing."""
    requests = [GenerationRequest(t, role, len(s)) for t, s in zip(tasks, statuses, strict=True)]
    groups = []
    for request, turns, row in zip(requests, policy.generate(requests, 9), statuses, strict=True):
        trajectories = tuple(
            Trajectory(request.task.id, 0, role, 0, (t,), policy.decode(t), verdict(s), 9, False)
            for t, s in zip(turns, row, strict=True)
        )
        groups.append(Group(request.task, role, trajectories))
    return groups


def judged_rollouts(groups: list[Group]) -> list[tuple[Group, Trajectory]]:
    return [(g, t) for g in groups for t in g.trajectories if t.verdict.status != "infra_error"]


def of(annotation: Annotation, learner: Role) -> list[Signal]:
    return [s for s in annotation.signals if s.learner == learner]


def text_of(policy: TorchPolicy, ids: tuple[int, ...]) -> str:
    return policy.decode(Turn((1,), ids, (), "eos"))


def student_view(policy: TorchPolicy, task: Task) -> tuple[int, ...]:
    return policy.encode(task.prompt)


def test_every_registered_method_imports_and_is_frozen_and_small() -> None:
    folder = Path(next(iter(pedrl_agents.algorithms.__path__)))
    files = [f for f in folder.glob("*.py") if f.name != "__init__.py"]
    assert len(files) == len(METHODS) == 12
    for file in files:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 200
    for name in METHODS:
        algorithm: Any = method_class(name)()
        with pytest.raises(dataclasses.FrozenInstanceError):
            algorithm.group_size = 3


@pytest.mark.parametrize(
    ("name", "role", "samples"),
    [
        ("pedagogical", "teacher", 6),
        ("rejection-sft", "teacher", 6),
        ("grpo", "student", 6),
        ("opsd", "student", 6),
        ("reference-sft", "student", 0),
        ("oracle-sft", "student", 0),
    ],
)
def test_plans(name: str, role: Role, samples: int) -> None:
    algorithm: Any = method_class(name)
    plan = algorithm(group_size=6).plan(TASKS, COLD)
    judge = name != "opsd"  # the one method that reads no verdict
    assert plan == [GenerationRequest(t, role, samples, judge) for t in TASKS]


def test_grpo_advantages_by_hand(policy: TorchPolicy) -> None:
    groups = make_groups(policy, "student")
    annotation = GRPO().signal(groups, policy, COLD)
    rollouts = judged_rollouts(groups)
    assert len(annotation.signals) == len(rollouts) == 10
    half = 0.5 / ((4 * 0.25 / 3) ** 0.5 + 1e-4)  # rewards 1, 0, 1, 0
    pair = 0.5 / (0.5**0.5 + 1e-4)  # rewards 1, 0: what was lost is in no baseline
    expected = [half, -half, half, -half, 0, 0, 0, 0, pair, -pair]
    for signal, (_, t), advantage in zip(annotation.signals, rollouts, expected, strict=True):
        turn = t.turns[-1]
        assert (signal.learner, signal.action_ids) == ("student", turn.action_ids)
        assert signal.prompt_ids == turn.prompt_ids
        assert signal.advantages == pytest.approx(np.full(len(turn.action_ids), advantage))
        assert signal.old_logprobs == pytest.approx(np.array(turn.logprobs))
        assert signal.ce_weights is None
        assert signal.teacher_prompt_ids is None


def gaps_of(policy: TorchPolicy, rollouts: list[tuple[Group, Trajectory]]) -> list[Any]:
    """What the student makes of each rollout, from its own plain forward pass."""
    scores = []
    for group, t in rollouts:
        view, action = student_view(policy, group.task), t.turns[-1].action_ids
        with torch.no_grad():
            logits = policy.models["student"](input_ids=torch.tensor([view + action])).logits
        table = torch.log_softmax(logits[0, len(view) - 1 : -1], -1)
        chosen = table.gather(-1, torch.tensor(action)[:, None]).squeeze(-1)
        scores.append((chosen.numpy(), (table.amax(-1) - chosen).numpy()))
    return scores


@pytest.mark.parametrize("step", [0, 9, 10, 50])
def test_pedagogical_signals_by_the_formulas(policy: TorchPolicy, step: int) -> None:
    groups = make_groups(policy, "teacher")
    method = Pedagogical(lam=0.3, beta=2.0, advantage="none", kappa=1.5, gamma=-4.0, warmup=10)
    annotation = method.signal(groups, policy, State(step, 100, style_of))
    rollouts = judged_rollouts(groups)
    read = gaps_of(policy, rollouts)
    g = [np.mean(np.exp(2.0 * gaps)) ** (-0.3 / 2.0) for _, gaps in read]
    rewards = np.array([t.verdict.reward for _, t in rollouts]) * g
    centred = [rewards[i:j] - rewards[i:j].mean() for i, j in ((0, 4), (4, 8), (8, 10))]

    teacher = of(annotation, "teacher")
    assert len(teacher) == 10
    for signal, (_, t), advantage in zip(teacher, rollouts, np.concatenate(centred), strict=True):
        turn = t.turns[-1]
        assert (signal.prompt_ids, signal.action_ids) == (turn.prompt_ids, turn.action_ids)
        assert signal.advantages == pytest.approx(
            np.full(len(turn.action_ids), advantage), abs=1e-5
        )
        assert signal.old_logprobs == pytest.approx(np.array(turn.logprobs))
        assert signal.ce_weights is None

    student = of(annotation, "student")
    if step < 10:  # warm-up: the teacher alone learns
        assert student == []
        assert "gate/mean" not in annotation.metrics
    else:
        passed = [(i, r) for i, r in enumerate(rollouts) if r[1].verdict.status == "passed"]
        assert len(student) == len(passed) == 3
        for signal, (i, (group, t)) in zip(student, passed, strict=True):
            assert signal.prompt_ids == student_view(policy, group.task)
            assert signal.action_ids == t.turns[-1].action_ids
            gate = 1 / (1 + np.exp(-1.5 * (read[i][0] + 4.0)))
            assert signal.ce_weights == pytest.approx(gate, abs=1e-5)
            assert signal.advantages is None
    assert annotation.metrics["teacher/G"] == pytest.approx(np.mean(g), abs=1e-5)
    assert annotation.metrics["teacher/gap_mean"] == pytest.approx(
        np.concatenate([gaps for _, gaps in read]).mean(), abs=1e-4
    )


def test_pedagogical_reward_variants(policy: TorchPolicy) -> None:
    groups = make_groups(policy, "teacher")
    rollouts = judged_rollouts(groups)
    read = gaps_of(policy, rollouts)
    correct = np.array([t.verdict.reward for _, t in rollouts])
    additive = correct + 0.5 * np.array([logprobs.mean() for logprobs, _ in read])
    for name, rewards in (("correctness", correct), ("additive", additive)):
        method = Pedagogical(lam=0.5, reward=name, advantage="none")  # type: ignore[arg-type]
        teacher = of(method.signal(groups, policy, COLD), "teacher")
        centred = [rewards[i:j] - rewards[i:j].mean() for i, j in ((0, 4), (4, 8), (8, 10))]
        found = [s.advantages[0] for s in teacher if s.advantages is not None]
        assert found == pytest.approx(np.concatenate(centred), abs=1e-5)


def test_pedagogical_ablations(policy: TorchPolicy) -> None:
    groups = make_groups(policy, "teacher")
    untrained = Pedagogical(train_teacher=False).signal(groups, policy, WARM)
    assert of(untrained, "teacher") == []
    ungated = of(Pedagogical(gate="none").signal(groups, policy, WARM), "student")
    assert [s.ce_weights.tolist() for s in ungated if s.ce_weights is not None] == [
        [1.0] * len(s.action_ids) for s in ungated
    ]


@pytest.mark.parametrize("name", ["pedagogical", "rejection-sft", "grpo"])
def test_a_step_whose_verdicts_were_all_lost_says_nothing(policy: TorchPolicy, name: str) -> None:
    algorithm: Any = method_class(name)()
    role = algorithm.plan(TASKS, WARM)[0].role
    groups = make_groups(policy, role, (("infra_error",) * 2,) * 3)
    annotation = algorithm.signal(groups, policy, WARM)
    assert (list(annotation.signals), annotation.metrics) == ([], {})
    assert rollout_metrics(groups, style_of) == {}


def test_rejection_sft_imitates_what_passed_and_nothing_else(policy: TorchPolicy) -> None:
    groups = make_groups(policy, "teacher")
    annotation = RejectionSFT().signal(groups, policy, COLD)
    passed = [(g, t) for g, t in judged_rollouts(groups) if t.verdict.status == "passed"]
    assert len(annotation.signals) == len(passed) == 3
    for signal, (group, t) in zip(annotation.signals, passed, strict=True):
        assert signal.learner == "student"
        assert signal.prompt_ids == student_view(policy, group.task)
        assert signal.action_ids == t.turns[-1].action_ids
        assert signal.ce_weights == pytest.approx(np.ones(len(signal.action_ids)))
        assert signal.advantages is None
    soft = RejectionSFT(gate="sigmoid", kappa=1.5, gamma=-4.0).signal(groups, policy, COLD)
    read = gaps_of(policy, passed)
    for signal, (logprobs, _) in zip(soft.signals, read, strict=True):
        assert signal.ce_weights == pytest.approx(surprisal_gate(logprobs, 1.5, -4.0), abs=1e-5)


def test_opsd_points_every_student_token_at_the_privileged_view(policy: TorchPolicy) -> None:
    groups = make_groups(policy, "student")
    annotation = OPSD().signal(groups, policy, COLD)
    rollouts = [(g, t) for g in groups for t in g.trajectories]
    assert len(annotation.signals) == len(rollouts)
    for signal, (group, t) in zip(annotation.signals, rollouts, strict=True):
        turn = t.turns[-1]
        assert (signal.prompt_ids, signal.action_ids) == (turn.prompt_ids, turn.action_ids)
        assert signal.teacher_prompt_ids == policy.prompt_ids(group.task, "teacher")
        assert signal.advantages is None
        assert signal.ce_weights is None


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_opsd_without_privilege_and_with_equal_weights_diverges_nowhere(
    tiny_base: Path, beta: float
) -> None:
    policy = tiny_policy(tiny_base)
    bare = tuple(
        dataclasses.replace(t, privileged=dataclasses.replace(t.privileged, solution="", notes=""))
        for t in TASKS
    )
    method = OPSD()
    annotation = method.signal(make_groups(policy, "student", tasks=bare), policy, COLD)
    divergence = dataclasses.replace(method.divergence, beta=beta)
    learner = Learner(policy, LearnerConfig(), method.policy_loss, divergence)
    metrics = learner.step(annotation.signals)
    assert metrics["loss/student"] == pytest.approx(0.0, abs=1e-6)
    told = OPSD().signal(make_groups(policy, "student"), policy, COLD)
    fresh = Learner(tiny_policy(tiny_base), LearnerConfig(), method.policy_loss, divergence)
    assert fresh.step(told.signals)["loss/student"] > 1e-4


@pytest.mark.parametrize("reference", ["fused", "steps", "accent", "spike"])
def test_demonstrations_decode_to_the_expected_text(policy: TorchPolicy, reference: str) -> None:
    tasks = tuple(Lexicon(coined=2, reference=reference).tasks("train")[:3])
    groups = [Group(t, "student", ()) for t in tasks]
    for method, answers in (
        (ReferenceSFT(), [t.privileged.solution.removeprefix("def f(x):\n") for t in tasks]),
        (OracleSFT(), [t.privileged.derivation for t in tasks]),
    ):
        annotation = method.signal(groups, policy, COLD)
        assert annotation.demonstrations == len(tasks)
        for signal, task, answer in zip(annotation.signals, tasks, answers, strict=True):
            assert signal.prompt_ids == student_view(policy, task)
            assert text_of(policy, signal.action_ids) == answer
            assert signal.action_ids[-1] == policy.eos
            assert signal.ce_weights == pytest.approx(np.ones(len(signal.action_ids)))
            assert answer.startswith("    ")  # a body, so that prompt + answer is the program


def test_mechanism_metrics_by_hand(policy: TorchPolicy) -> None:
    groups = make_groups(policy, "teacher")
    rollouts = judged_rollouts(groups)
    metrics = rollout_metrics(groups, lambda text: "odd" if len(text) % 2 else None)
    assert metrics["teacher/correct"] == pytest.approx(3 / 10)
    assert metrics["groups/degenerate"] == pytest.approx(1 / 3)
    odd = sum(len(t.text) % 2 for _, t in rollouts)
    assert metrics.get("teacher/style:odd", 0.0) == pytest.approx(odd / 10)
    surprisals = [-lp for _, t in rollouts for lp in t.turns[-1].logprobs]
    assert metrics["teacher/entropy"] == pytest.approx(np.mean(surprisals))
    lengths = [len(t.turns[-1].action_ids) for _, t in rollouts]
    assert metrics["teacher/length"] == pytest.approx(np.mean(lengths))
    assert not any(name.startswith("student/") for name in metrics)


def test_a_lost_verdict_does_not_make_a_group_look_useful(policy: TorchPolicy) -> None:
    groups = make_groups(policy, "student", (("passed", "infra_error", "passed"),), (TASKS[0],))
    assert rollout_metrics(groups, style_of)["groups/degenerate"] == 1.0


def test_unjudged_rollouts_are_described_but_have_no_success_rate(policy: TorchPolicy) -> None:
    groups = make_groups(policy, "student", (("unjudged",) * 4,), (TASKS[0],))
    judged = make_groups(policy, "student", (("failed",) * 4,), (TASKS[0],))
    found, other = (rollout_metrics(g, lambda text: "any") for g in (groups, judged))
    rates = {"student/correct", "student/format", "groups/degenerate"}
    assert found.keys() == other.keys() - rates
    assert all(found[name] == other[name] for name in found)
    # Beside judged ones they change no rate, and what is described is both.
    mixed = rollout_metrics([*groups, *judged], lambda text: None)
    assert mixed["student/correct"] == 0.0
    assert mixed["student/length"] == pytest.approx(found["student/length"])


def test_teacher_metrics_by_hand(policy: TorchPolicy) -> None:
    groups = make_groups(policy, "teacher")
    metrics = Pedagogical(lam=1.0, beta=5.0).signal(groups, policy, WARM).metrics
    rollouts = judged_rollouts(groups)
    read = gaps_of(policy, rollouts)
    flat = np.concatenate([gaps for _, gaps in read])
    assert metrics["teacher/gap_p95"] == pytest.approx(np.quantile(flat, 0.95), abs=1e-4)
    assert metrics["teacher/gap_max"] == pytest.approx(
        np.mean([gaps.max() for _, gaps in read]), abs=1e-4
    )
    sampled = np.concatenate([np.array(t.turns[-1].logprobs) for _, t in rollouts])
    student = np.concatenate([logprobs for logprobs, _ in read])
    assert metrics["teacher/kl_student"] == pytest.approx((sampled - student).mean(), abs=1e-4)
    by_style = [
        learnability(gaps.astype(float), 1.0, 5.0)
        for (_, gaps), (_, t) in zip(read, rollouts, strict=True)
        if style_of(t.text) == "other"
    ]
    assert metrics["teacher/G:other"] == pytest.approx(np.mean(by_style), abs=1e-5)
