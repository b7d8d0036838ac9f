"""Our losses against Liger's plain-torch chunked losses, an implementation that is not ours.

`make test` installs the oracle by ``pip install --no-deps liger-kernel`` (its kernels want Triton,
these losses do not). Without it this file fails to import, so that no skip passes for an agreement.
"""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from pedrl_agents.losses import (
    Aggregation,
    PolicyLoss,
    Ratio,
    aggregation_weights,
    chosen_logprobs,
    generalized_jsd,
    policy_loss,
    truncated_ratio,
)

chunked: Any = importlib.import_module("liger_kernel.chunked_loss")

BATCH, TOKENS, HIDDEN, VOCABULARY, MAX_LENGTH = 5, 7, 8, 19, 12
LENGTHS = torch.tensor([7, 1, 4, 6, 3])
MASK = torch.arange(TOKENS) < LENGTHS[:, None]
ADVANTAGES = torch.tensor([1.3, -0.2, 0.0, -0.4, 1.1], dtype=torch.float64)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


HEAD = draw(VOCABULARY, HIDDEN, seed=1)
ACTIONS = draw(BATCH, TOKENS, seed=2).mul(100).long().abs() % VOCABULARY
HIDDEN_STATES = draw(BATCH, TOKENS, HIDDEN, seed=0)


def logprobs(hidden: Tensor) -> Tensor:
    return (hidden @ HEAD.T).log_softmax(-1).gather(-1, ACTIONS[..., None]).squeeze(-1)


OLD = logprobs(HIDDEN_STATES) + 0.4 * draw(BATCH, TOKENS, seed=3)  # many ratios are clipped
REFERENCE = logprobs(HIDDEN_STATES) + 0.5 * draw(BATCH, TOKENS, seed=8)


def ours(spec: PolicyLoss) -> tuple[float, Tensor]:
    """The learner's arithmetic: flat tokens, weights that add up to the batch's mean."""
    hidden = HIDDEN_STATES.clone().requires_grad_()
    now = chosen_logprobs((hidden @ HEAD.T)[MASK], ACTIONS[MASK])
    weights = aggregation_weights(MASK, spec, BATCH, int(MASK.sum()))[MASK]
    advantages = ADVANTAGES[:, None].expand(-1, TOKENS)[MASK]
    owner = MASK.nonzero()[:, 0]
    reference = REFERENCE[MASK] if spec.kl else None
    loss = (weights * policy_loss(now, OLD[MASK], advantages, spec, owner, reference)).sum()
    loss.backward()
    assert hidden.grad is not None
    return loss.item(), hidden.grad


def theirs(spec: PolicyLoss, **inputs: Tensor) -> tuple[float, Tensor]:
    hidden = HIDDEN_STATES.clone().requires_grad_()
    oracle = chunked.LigerFusedLinearGRPOLoss(
        beta=spec.kl,
        compiled=False,
        use_ref_model=spec.kl > 0,
        epsilon_low=spec.clip_low,
        epsilon_high=spec.clip_high,
        loss_type=spec.aggregation,
        max_completion_length=MAX_LENGTH,
        importance_sampling_level=spec.ratio,
    )
    reference = {"ref_per_token_logps": REFERENCE} if spec.kl else {}
    mask = MASK.double()
    loss = oracle(hidden, HEAD, ACTIONS, mask, ADVANTAGES, **reference, **inputs)[0]
    loss.backward()
    assert hidden.grad is not None
    return loss.item(), hidden.grad


def assert_equal(one: tuple[float, Tensor], other: tuple[float, Tensor]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert abs(other[0]) > 1e-2
    scale = other[1].abs().max().item()
    assert (one[1] - other[1]).abs().max().item() < 1e-5 * scale


@pytest.mark.parametrize("kl", [0.0, 0.04])
@pytest.mark.parametrize("clip_high", [0.2, 0.28])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("aggregation", ["grpo", "dapo", "dr_grpo"])
def test_policy_loss_and_its_gradient(
    aggregation: Aggregation, ratio: Ratio, clip_high: float, kl: float
) -> None:
    """GRPO, DAPO, Dr.GRPO and GSPO, with and without the k3 term."""
    spec = PolicyLoss(
        clip_high=clip_high, aggregation=aggregation, max_length=MAX_LENGTH, ratio=ratio, kl=kl
    )
    ratios = (logprobs(HIDDEN_STATES) - OLD).exp()[MASK]
    assert ((ratios > 1 + clip_high) | (ratios < 0.8)).any()
    assert_equal(ours(spec), theirs(spec, old_per_token_logps=OLD))


@pytest.mark.parametrize("aggregation", ["grpo", "dapo", "dr_grpo"])
def test_truncated_importance_sampling(aggregation: Aggregation) -> None:
    spec = PolicyLoss(aggregation=aggregation, max_length=MAX_LENGTH, truncation=1.1, kl=0.02)
    weights = truncated_ratio(logprobs(HIDDEN_STATES), OLD, 1.1)
    assert (weights[MASK] == 1.1).any()
    assert (weights[MASK] < 1.0).any()
    assert_equal(ours(spec), theirs(spec, vllm_is_ratio=weights))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_divergence_and_its_gradient(beta: float) -> None:
    student, teacher = draw(BATCH, HIDDEN, seed=4), draw(BATCH, HIDDEN, seed=5)
    student_head, teacher_head = draw(VOCABULARY, HIDDEN, seed=6), draw(VOCABULARY, HIDDEN, seed=7)
    labels = torch.arange(BATCH)

    other = student.clone().requires_grad_()
    oracle = chunked.LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, compiled=False
    )
    expected = oracle(other, student_head, teacher, teacher_head, labels)
    expected.backward()

    mine = student.clone().requires_grad_()
    loss = generalized_jsd(mine @ student_head.T, teacher @ teacher_head.T, beta).mean()
    loss.backward()

    assert mine.grad is not None
    assert other.grad is not None
    # Liger upcasts to single precision inside.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() > 1e-2
    assert (mine.grad - other.grad).abs().max().item() < 1e-5 * other.grad.abs().max().item()
