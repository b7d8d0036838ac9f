"""Formulas of TRL and verl, written down here from their documentation, against ours.

Neither library is needed: each oracle below is the formula itself, in float64, in another shape
than ours (probabilities for log-probabilities, loops for tensors), with its place in the source.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pedrl_agents.losses import Divergence, divergence, k3, truncated_ratio, with_tail
from pedrl_agents.signals import group_advantages

VOCABULARY, ROWS = 11, 6


def logits(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(ROWS, VOCABULARY, generator=generator, dtype=torch.float64)


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def jsd(student: list[float], teacher: list[float], beta: float) -> float:
    if beta == 0:
        return kl(teacher, student)
    if beta == 1:
        return kl(student, teacher)
    mixture = [beta * t + (1 - beta) * s for t, s in zip(teacher, student, strict=True)]
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 4, VOCABULARY - 1])
def test_top_k_with_tail(k: int, beta: float) -> None:
    """TRL, ``self_distillation/loss_utils.py: compute_topk_self_distillation_loss`` with the tail.

    The student's K likeliest tokens are the support; what either distribution leaves over is one
    more entry.
    """
    student, teacher = logits(1).softmax(-1).tolist(), logits(2).softmax(-1).tolist()
    expected = []
    for s, t in zip(student, teacher, strict=True):
        kept = sorted(range(VOCABULARY), key=lambda v: -s[v])[:k]
        short = [[p[v] for v in kept] + [1 - sum(p[v] for v in kept)] for p in (s, t)]
        expected.append(jsd(short[0], short[1], beta))
    found = divergence(logits(1), logits(2), Divergence(beta=beta, top_k=k))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_top_k_of_everything_is_the_full_divergence() -> None:
    for k in (VOCABULARY, VOCABULARY + 5):
        whole, cut = (divergence(logits(1), logits(2), Divergence(1.0, top_k)) for top_k in (0, k))
        assert torch.equal(whole, cut)


def test_lumping_never_adds_divergence() -> None:
    """The data-processing inequality: fewer entries tell less apart."""
    values = [
        divergence(logits(1), logits(2), Divergence(1.0, k)).sum().item()
        for k in range(1, VOCABULARY)
    ]
    full = divergence(logits(1), logits(2), Divergence(1.0)).sum().item()
    assert all(value <= full + 1e-9 for value in values)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(values))


def test_the_tail_makes_probabilities_sum_to_one() -> None:
    kept = logits(3).log_softmax(-1)[:, :4]
    assert with_tail(kept).exp().sum(-1).tolist() == pytest.approx([1.0] * ROWS)
    sure = torch.tensor([[0.0, -80.0]], dtype=torch.float64)  # nothing is left over
    assert torch.isfinite(with_tail(sure)).all()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_entry_clip(beta: float) -> None:
    """OPSD's code, ``jsd_token_clip``: each entry is capped before the sum over the vocabulary."""
    student, teacher = logits(4).softmax(-1).tolist(), logits(5).softmax(-1).tolist()
    cap = 0.01
    expected = []
    for s, t in zip(student, teacher, strict=True):
        entries = []
        for a, b in zip(s, t, strict=True):
            m = beta * b + (1 - beta) * a
            terms = {
                0.0: b * math.log(b / a),
                1.0: a * math.log(a / b),
                0.5: beta * b * math.log(b / m) + (1 - beta) * a * math.log(a / m),
            }
            entries.append(min(terms[beta], cap))
        expected.append(sum(entries))
    found = divergence(logits(4), logits(5), Divergence(beta=beta, entry_clip=cap))
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    if beta in (0.0, 1.0):
        assert (found < 0).any()  # as their authors say it may


def test_k3() -> None:
    """TRL ``GRPOTrainer``: exp(ref - logp) - (ref - logp) - 1; its mean under pi is the KL."""
    p, q = logits(6)[0].softmax(-1), logits(7)[0].softmax(-1)
    values = k3(p.log(), q.log())
    pairs = zip(p.log().tolist(), q.log().tolist(), strict=True)
    expected = [math.exp(b - a) - (b - a) - 1 for a, b in pairs]
    assert values.tolist() == pytest.approx(expected)
    assert (values >= 0).all()
    assert (p * values).sum().item() == pytest.approx(kl(p.tolist(), q.tolist()))
    assert k3(p.log(), p.log()).abs().max().item() == 0.0


@pytest.mark.parametrize("cap", [1.0, 2.0])
def test_truncated_importance_sampling(cap: float) -> None:
    """TRL ``apply_importance_sampling_clipping``, verl ``rollout_corr_helper``: min(pi/mu, C)."""
    now, sampled = logits(8)[0], logits(9)[0]
    expected = [min(math.exp(a - b), cap) for a, b in zip(now, sampled, strict=True)]
    now.requires_grad_()
    found = truncated_ratio(now, sampled, cap)
    assert not found.requires_grad
    assert found.tolist() == pytest.approx(expected)


GROUPS = [[1.0, 0.0, 0.0, 1.0, 0.0], [0.3, 0.9, 0.1], [1.0, 1.0, 1.0]]


def test_group_advantages_are_those_of_trl() -> None:
    """TRL ``GRPOTrainer._compute_advantages``, ``scale_rewards="group"``: Bessel, 1e-4 added."""
    for rewards, found in zip(GROUPS, group_advantages(GROUPS, "group"), strict=True):
        tensor = torch.tensor(rewards, dtype=torch.float64)
        expected = (tensor - tensor.mean()) / (tensor.std() + 1e-4)
        assert found == pytest.approx(expected.numpy(), abs=1e-12)


def test_group_advantages_are_those_of_verl_but_for_its_epsilon() -> None:
    """verl ``compute_grpo_outcome_advantage``: (r - mean) / (std + 1e-6), Bessel."""
    for rewards, found in zip(GROUPS[:2], group_advantages(GROUPS[:2], "group"), strict=True):
        r = np.array(rewards)
        assert found == pytest.approx((r - r.mean()) / (r.std(ddof=1) + 1e-6), rel=1e-3)


def test_a_group_of_one_differs_from_verl_on_purpose() -> None:
    """verl takes mean 0 and std 1 there, so A = R: a reward without a baseline. Ours is 0."""
    assert group_advantages([[1.0]], "group")[0].tolist() == [0.0]


def test_dr_grpo_only_centres() -> None:
    for rewards, found in zip(GROUPS, group_advantages(GROUPS, "none"), strict=True):
        assert found == pytest.approx(np.array(rewards) - np.mean(rewards))
