"""Options of the learner and of its losses, each against its definition."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pedrl_agents.learner import Learner, LearnerConfig
from pedrl_agents.losses import Divergence, PolicyLoss, divergence, policy_loss
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import GenerationRequest, Role, Signal
from pedrl_tasks.lexicon import Lexicon
from tests.tiny import tiny_policy

TASKS = Lexicon(coined=2).tasks("train")[:3]
CONFIG = LearnerConfig(lr_warmup=1)
STUDENT: Role = "student"


def make_signals(policy: TorchPolicy, kind: str, learner: Role = "student") -> list[Signal]:
    """Ragged rollouts of the student: rewarded ones, imitated ones, distilled ones."""
    rng = np.random.default_rng(1)
    groups = policy.generate([GenerationRequest(t, "student", 2) for t in TASKS], seed=3)
    signals = []
    for task, group in zip(TASKS, groups, strict=True):
        for turn in group:
            bare = Signal(learner, turn.prompt_ids, turn.action_ids)
            length = len(turn.action_ids)
            terms = {
                "rl": {
                    "advantages": np.full(length, rng.normal()),
                    "old_logprobs": np.array(turn.logprobs) + rng.normal(0, 0.3, length),
                },
                "imitation": {"ce_weights": rng.uniform(0, 1, length)},
                "distillation": {"teacher_prompt_ids": policy.prompt_ids(task, "teacher")},
            }
            signals.append(dataclasses.replace(bare, **terms[kind]))  # type: ignore[arg-type]
    return signals


def weights(policy: TorchPolicy, role: Role = "student") -> list[Tensor]:
    return [w.detach().clone() for w in policy.models[role].parameters()]


def gradients(policy: TorchPolicy) -> Tensor:
    grads = [w.grad for w in policy.models["student"].parameters()]
    return torch.cat([g.flatten() for g in grads if g is not None])


def step(
    policy: TorchPolicy,
    signals: list[Signal],
    loss: PolicyLoss = PolicyLoss(),
    config: LearnerConfig = CONFIG,
    target: Divergence = Divergence(0.3),
) -> float:
    return Learner(policy, config, loss, target).step(signals)["loss/student"]


@pytest.mark.parametrize("kind", ["rl", "imitation", "distillation"])
@pytest.mark.parametrize("logits", [1, 700])
def test_chunks_of_logits_change_nothing_but_rounding(
    tiny_base: Path, kind: str, logits: int
) -> None:
    """One token at a time, or a few: recomputed in the backward pass, the same gradient."""
    whole, cut = (tiny_policy(tiny_base, nudge_teacher=True) for _ in range(2))
    signals = make_signals(whole, kind)
    small = dataclasses.replace(CONFIG, logits_per_chunk=logits)
    assert step(cut, signals, config=small) == pytest.approx(step(whole, signals), abs=1e-6)
    assert (gradients(cut) - gradients(whole)).abs().max().item() < 1e-6


@pytest.mark.parametrize("kind", ["rl", "imitation", "distillation"])
def test_half_precision_keeps_single_precision_masters(tiny_base: Path, kind: str) -> None:
    full, half = (tiny_policy(tiny_base, nudge_teacher=True) for _ in range(2))
    signals = make_signals(full, kind)
    expected = step(full, signals)
    found = step(half, signals, config=dataclasses.replace(CONFIG, precision="bf16"))
    assert found != expected
    assert found == pytest.approx(expected, abs=0.05)
    assert {w.dtype for w in half.models["student"].parameters()} == {torch.float32}
    cosine = torch.cosine_similarity(gradients(half), gradients(full), dim=0)
    assert cosine.item() > 0.98


def test_the_reference_of_the_kl_is_the_initial_policy(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base)
    silent = [
        dataclasses.replace(s, advantages=np.zeros(len(s.action_ids)))
        for s in make_signals(policy, "rl")
    ]
    learner = Learner(policy, CONFIG, PolicyLoss(kl=0.5), Divergence())
    assert learner.step(silent)["loss/student"] == pytest.approx(0.0, abs=1e-7)  # still there
    generator = torch.Generator().manual_seed(4)
    for weight in policy.models["student"].parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=generator))
    (first, *_) = silent
    with torch.no_grad():
        prompt, action = first.prompt_ids, first.action_ids
        now, then = (
            model(input_ids=torch.tensor([prompt + action]))
            .logits[0, len(prompt) - 1 : -1]
            .log_softmax(-1)
            .gather(-1, torch.tensor(action)[:, None])
            for model in (policy.models["student"], tiny_policy(tiny_base).models["student"])
        )
        k3 = ((then - now).exp() - (then - now) - 1).mean().item()
    assert learner.step([first])["loss/student"] == pytest.approx(0.5 * k3, rel=1e-3)
    assert k3 > 1e-4


def test_the_sequence_ratio_is_one_number_per_rollout(tiny_base: Path) -> None:
    """GSPO: every token of a rollout has the same clipped term, whatever its own ratio."""
    policy = tiny_policy(tiny_base)
    signals = make_signals(policy, "rl")
    spec = PolicyLoss(ratio="sequence", clip_low=0.05, clip_high=0.05)
    expected = 0.0
    for s in signals:
        assert s.advantages is not None
        assert s.old_logprobs is not None
        (read,) = policy.score("student", [(s.prompt_ids, s.action_ids)])
        ratio = np.exp((read.logprobs - s.old_logprobs).mean())
        advantage = s.advantages[0]
        expected -= min(ratio * advantage, np.clip(ratio, 0.95, 1.05) * advantage) / len(signals)
    assert step(policy, signals, spec) == pytest.approx(expected, rel=1e-4)


def test_truncation_weighs_by_the_capped_ratio_and_never_clips(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base)
    signals = make_signals(policy, "rl")
    expected = 0.0
    for s in signals:
        assert s.advantages is not None
        assert s.old_logprobs is not None
        (read,) = policy.score("student", [(s.prompt_ids, s.action_ids)])
        capped = np.minimum(np.exp(read.logprobs - s.old_logprobs), 1.1)
        expected -= (capped * s.advantages).mean() / len(signals)
    found = step(policy, signals, PolicyLoss(truncation=1.1))
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_moving_average_follows_the_student(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base, storage="ema", nudge_teacher=True)
    before = weights(policy, "teacher")
    config = dataclasses.replace(CONFIG, ema_decay=0.9)
    learner = Learner(policy, config, PolicyLoss(), Divergence(1.0))
    learner.step(make_signals(policy, "distillation"))
    for was, now, live in zip(before, weights(policy, "teacher"), weights(policy), strict=True):
        assert torch.allclose(now, 0.9 * was + 0.1 * live, atol=1e-7)
    learner.step(make_signals(policy, "rl", "teacher"))  # moves the live weights
    assert learner.updates == {"student": 2}


def test_roles_that_share_weights_have_a_mean_each(tiny_base: Path) -> None:
    """alpha J_T + (1 - alpha) J_S: neither is diluted by how many rollouts the other has."""
    policies = [tiny_policy(tiny_base, storage="shared") for _ in range(3)]
    mine = make_signals(policies[0], "rl")
    theirs = make_signals(policies[0], "rl", "teacher")[:2]
    together, alone, other = (
        step(policy, signals)
        for policy, signals in zip(policies, ([*mine, *theirs], mine, theirs), strict=True)
    )
    assert together == pytest.approx(alone + other, rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_the_weight_of_the_distillation_term(tiny_base: Path, weight: float) -> None:
    policies = [tiny_policy(tiny_base, nudge_teacher=True) for _ in range(2)]
    signals = make_signals(policies[0], "distillation")
    plain, weighed = (
        step(policy, signals, target=Divergence(1.0, weight=w))
        for policy, w in zip(policies, (1.0, weight), strict=True)
    )
    assert weighed == pytest.approx(weight * plain)


@pytest.mark.parametrize(
    "spec",
    [
        PolicyLoss(),
        PolicyLoss(clip_high=0.28, kl=0.1),
        PolicyLoss(ratio="sequence"),
        PolicyLoss(truncation=1.5),
    ],
)
def test_gradient_of_the_policy_loss(spec: PolicyLoss) -> None:
    generator = torch.Generator().manual_seed(5)
    old, noise, advantages, reference = torch.randn(
        4, 9, generator=generator, dtype=torch.float64
    ).unbind()
    owner = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    now = (old + 0.3 * noise).requires_grad_()
    if (
        spec.truncation
    ):  # its weights carry no gradient, so differences would see more than autograd
        policy_loss(now, old, advantages, spec, owner).sum().backward()
        weights = (now.detach() - old).exp().clamp(max=1.5)
        assert now.grad is not None
        assert torch.allclose(now.grad, -weights * advantages)
        return

    def loss(values: Tensor) -> Tensor:
        return policy_loss(values, old, advantages, spec, owner, reference)

    assert torch.autograd.gradcheck(loss, (now,))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("top_k", [0, 3])
def test_gradient_of_the_divergence(beta: float, top_k: int) -> None:
    generator = torch.Generator().manual_seed(6)
    student, teacher = torch.randn(2, 4, 7, generator=generator, dtype=torch.float64).unbind()
    student.requires_grad_()
    spec = Divergence(beta=beta, top_k=top_k)
    assert torch.autograd.gradcheck(lambda s: divergence(s, teacher, spec), (student,))


@pytest.mark.parametrize("spec", [Divergence(b, k) for b in (0.0, 0.5, 1.0) for k in (0, 4)])
def test_a_teacher_who_is_the_student_teaches_nothing(spec: Divergence) -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    student = logits.clone().requires_grad_()
    value = divergence(student, logits, spec)
    value.sum().backward()
    assert value.abs().max().item() < 1e-12
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-12
