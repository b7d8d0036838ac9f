"""Losses against numbers worked out by hand or in float64 from their definitions."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from pedrl_agents.losses import (
    Aggregation,
    PolicyLoss,
    aggregation_weights,
    clipped_policy_loss,
    generalized_jsd,
    token_statistics,
)

BETAS = (0.0, 0.1, 0.3, 0.5, 1.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.0, 2.0, -2.0, True),
        (1.1, 2.0, -2.2, True),
        (1.5, 2.0, -2.4, False),  # clipped at 1.2: the gain is capped and the gradient gone
        (0.5, 2.0, -1.0, True),  # a good action made rarer is pulled back
        (1.0, -2.0, 2.0, True),
        (0.9, -2.0, 1.8, True),
        (0.5, -2.0, 1.6, False),  # clipped at 0.8
        (1.5, -2.0, 3.0, True),  # a bad action made likelier is pushed down
        (1.3, 0.0, 0.0, False),
    ],
)
def test_clipped_policy_loss_by_hand(
    ratio: float, advantage: float, loss: float, moves: bool
) -> None:
    logprobs = torch.tensor([[-1.0 + math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-1.0]], dtype=torch.float64)
    value = clipped_policy_loss(
        logprobs, old, torch.tensor([[advantage]], dtype=torch.float64), PolicyLoss()
    )
    value.sum().backward()
    assert value.item() == pytest.approx(loss, rel=1e-6, abs=1e-12)
    assert logprobs.grad is not None
    # d(-rho A)/d logprob = -rho A where it is not clipped.
    expected = -ratio * advantage if moves else 0.0
    assert logprobs.grad.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_higher_upper_clip_lets_more_through() -> None:
    arguments = (torch.tensor([[math.log(1.5)]]), torch.zeros(1, 1), torch.ones(1, 1))
    assert clipped_policy_loss(*arguments, PolicyLoss(clip_high=0.28)).item() == pytest.approx(
        -1.28
    )
    assert clipped_policy_loss(*arguments, PolicyLoss(clip_low=0.9)).item() == pytest.approx(-1.2)


MASK = torch.tensor([[True, True, True, True], [True, False, False, False]])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("grpo", [[1 / 8] * 4, [1 / 2, 0, 0, 0]]),  # (mean over 4 + mean over 1) / 2
        ("dapo", [[1 / 5] * 4, [1 / 5, 0, 0, 0]]),
        ("dr_grpo", [[1 / 20] * 4, [1 / 20, 0, 0, 0]]),  # 1 / (2 * max_length 10)
    ],
)
def test_aggregation_weights_by_hand(aggregation: Aggregation, expected: list[list[float]]) -> None:
    spec = PolicyLoss(aggregation=aggregation, max_length=10)
    weights = aggregation_weights(MASK, spec, sequences=2, tokens=5)
    assert weights.numpy() == pytest.approx(np.array(expected))


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_micro_batches_add_up_to_the_whole(aggregation: Aggregation) -> None:
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(2, 4, generator=generator)
    spec = PolicyLoss(aggregation=aggregation)
    whole = (aggregation_weights(MASK, spec, 2, 5) * terms).sum()
    # The second micro-batch is cut to its own width.
    first = (aggregation_weights(MASK[:1], spec, 2, 5) * terms[:1]).sum()
    second = (aggregation_weights(MASK[1:, :1], spec, 2, 5) * terms[1:, :1]).sum()
    assert (first + second).item() == pytest.approx(whole.item(), abs=1e-6)


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_masked_tokens_get_exactly_no_gradient(aggregation: Aggregation) -> None:
    logprobs = torch.full((2, 4), -1.0, requires_grad=True)
    spec = PolicyLoss(aggregation=aggregation)
    terms = clipped_policy_loss(logprobs, torch.full((2, 4), -1.1), torch.ones(2, 4), spec)
    (aggregation_weights(MASK, spec, 2, 5) * terms).sum().backward()
    assert logprobs.grad is not None
    assert (logprobs.grad[~MASK] == 0).all()
    assert (logprobs.grad[MASK] != 0).all()


def test_token_statistics_by_hand() -> None:
    # p = (1/2, 1/4, 1/8, 1/8), shifted logits.
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log() + 7.0
    logits = logits.expand(3, 4)
    chosen, gaps, entropies, ranks = token_statistics(logits, torch.tensor([0, 1, 3])).T
    assert chosen.tolist() == pytest.approx([math.log(p) for p in (1 / 2, 1 / 4, 1 / 8)], rel=1e-6)
    assert gaps.tolist() == pytest.approx([0.0, math.log(2), math.log(4)], rel=1e-6, abs=1e-12)
    assert gaps[0].item() == 0.0  # the argmax has a gap of exactly nothing
    assert entropies.tolist() == pytest.approx([1.75 * math.log(2)] * 3, rel=1e-6)
    assert ranks.tolist() == [1, 2, 3]  # two tokens share 1/8: neither is likelier than the other


def explicit_jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """The definition, in float64, on probabilities."""
    s, t = student.double().softmax(-1), teacher.double().softmax(-1)
    if beta == 0:
        return (t * (t / s).log()).sum(-1)
    if beta == 1:
        return (s * (s / t).log()).sum(-1)
    m = beta * t + (1 - beta) * s
    return beta * (t * (t / m).log()).sum(-1) + (1 - beta) * (s * (s / m).log()).sum(-1)


def some_logits(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pair = 2 * torch.randn(2, 6, 11, generator=generator, dtype=torch.float64)
    return pair[0].to(dtype), pair[1].to(dtype)


@pytest.mark.parametrize("beta", BETAS)
def test_generalized_jsd_equals_its_definition(beta: float) -> None:
    student, teacher = some_logits(1)
    value = generalized_jsd(student, teacher, beta)
    expected = explicit_jsd(student, teacher, beta)
    assert value.numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)
    assert (value > 1e-3).all()


def test_generalized_jsd_by_hand() -> None:
    # T = (3/4, 1/4), S = (1/2, 1/2).
    student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(2)
    half = 0.5 * (0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)) + 0.5 * (
        0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    )
    for beta, expected in ((0.0, forward), (1.0, reverse), (0.5, half)):
        assert generalized_jsd(student, teacher, beta).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", BETAS)
def test_a_teacher_who_is_the_student_teaches_nothing(beta: float) -> None:
    student, _ = some_logits(2)
    student.requires_grad_()
    value = generalized_jsd(student, student.detach().clone(), beta)
    assert value.detach().numpy() == pytest.approx(np.zeros(6), abs=1e-6)
    value.sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-6


def test_jsd_is_symmetric_at_one_half_only() -> None:
    student, teacher = some_logits(3)
    there, back = (generalized_jsd(*p, 0.5) for p in ((student, teacher), (teacher, student)))
    assert there.numpy() == pytest.approx(back.numpy(), rel=1e-5, abs=1e-6)
    there, back = (generalized_jsd(*p, 0.1) for p in ((student, teacher), (teacher, student)))
    assert (there - back).abs().max().item() > 1e-2


@pytest.mark.parametrize("beta", BETAS)
def test_gradient_of_generalized_jsd(beta: float) -> None:
    """Central differences of the float64 definition against the float32 gradient."""
    student, teacher = some_logits(4)
    student.requires_grad_()
    generalized_jsd(student, teacher, beta).sum().backward()
    assert student.grad is not None
    exact = student.detach().double().requires_grad_()
    explicit_jsd(exact, teacher, beta).sum().backward()
    assert exact.grad is not None
    assert student.grad.numpy() == pytest.approx(exact.grad.numpy(), abs=2e-5)
    step, where = 1e-6, (2, 5)
    up, down = exact.detach().clone(), exact.detach().clone()
    up[where] += step
    down[where] -= step
    difference = explicit_jsd(up, teacher, beta).sum() - explicit_jsd(down, teacher, beta).sum()
    assert student.grad[where].item() == pytest.approx(difference.item() / (2 * step), abs=2e-5)


@pytest.mark.parametrize("beta", BETAS)
def test_jsd_of_nearly_certain_distributions_stays_finite(beta: float) -> None:
    student = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    value = generalized_jsd(student, torch.tensor([[-200.0, 0.0, 200.0]]), beta)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
