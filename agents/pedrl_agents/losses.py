"""Losses: pure functions of tensors, each with its citation and its golden test.

Shapes: B sequences, T tokens, N = number of action tokens in a flat batch, V vocabulary.
"""

from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pedrl_agents.knobs import Positive, Share, Span, Weight

Aggregation = Literal["grpo", "dapo", "dr_grpo"]
Ratio = Literal["token", "sequence"]


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """How per-token policy-gradient terms are weighed, clipped and averaged.

    Attributes:
        clip_low, clip_high: PPO clip range 1 - low .. 1 + high; DAPO takes high = 0.28, GSPO
            3e-4 and 4e-4.
        aggregation: ``grpo`` mean over sequences of token means (2402.03300); ``dapo`` mean over
            tokens (2503.14476); ``dr_grpo`` sum / (B * max_length) (2503.20783).
        max_length: the constant of ``dr_grpo``.
        ratio: importance ratios per ``token``, or one per ``sequence``, their geometric mean (GSPO,
            2507.18071).
        kl: weight of the k3 estimate of KL(policy || initial weights) (2402.03300, eq. 4); 0 is
            none.
        truncation: cap C of truncated importance sampling, for a sampler that is another engine
            than the learner: weights min(pi / pi_sampler, C); 0 is off.
    """

    clip_low: Annotated[float, Span(0.0, 1.0, "0.2; GSPO 3e-4")] = 0.2
    clip_high: Annotated[float, Span(0.0, inf, "0.2; DAPO 0.28; GSPO 4e-4")] = 0.2
    aggregation: Aggregation = "grpo"
    max_length: Positive = 32
    ratio: Ratio = "token"
    kl: Annotated[float, Span(0.0, inf, "0; DeepSeekMath 0.04")] = 0.0
    truncation: Annotated[float, Span(0.0, inf, "2")] = 0.0


@dataclass(frozen=True, slots=True)
class Divergence:
    """The generalised Jensen-Shannon divergence between teacher T and student S.

    ``beta * KL(T || M) + (1 - beta) * KL(S || M)`` with ``M = beta * T + (1 - beta) * S``;
    beta = 0 means forward KL(T || S), beta = 1 reverse KL(S || T), as in OPSD's code (2601.18734).

    Attributes:
        beta: 0 forward KL, 1 reverse KL, between them the generalised JSD.
        top_k: sum over the student's K likeliest tokens and one bucket for all the others (SDPO,
            2601.20802); 0 is the full vocabulary.
        entry_clip: cap on each vocabulary entry's term *before* the sum (OPSD's later code, there
            ``jsd_token_clip``); the divergence can then be negative. 0 is off.
        weight: of the distillation term in the summed loss.
    """

    beta: Share = 0.0
    top_k: Annotated[int, Span(0, inf, "SDPO 20")] = 0
    entry_clip: Annotated[float, Span(0.0, inf, "OPSD's code 0.05")] = 0.0
    weight: Weight = 1.0


def token_statistics(
    logits: Float[Tensor, "N V"], actions: Int[Tensor, " N"]
) -> Float[Tensor, "N 4"]:
    """Return log pi(action), the surprise gap max log pi - log pi(action), entropy and rank.

    The rank is 1 for the likeliest token, and the number of likelier ones plus 1 for any other.
    """
    logprobs = _log_softmax(logits)
    chosen = logprobs.gather(-1, actions[:, None])
    gaps = logprobs.amax(-1) - chosen.squeeze(-1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    ranks = 1 + (logprobs > chosen).sum(-1)
    return torch.stack([chosen.squeeze(-1), gaps, entropies, ranks.to(logprobs)], dim=-1)


def chosen_logprobs(
    logits: Float[Tensor, "N V"], actions: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Return log pi(action)."""
    return _log_softmax(logits).gather(-1, actions[:, None]).squeeze(-1)


def aggregation_weights(
    mask: Bool[Tensor, "B T"], spec: PolicyLoss, sequences: int, tokens: int
) -> Float[Tensor, "B T"]:
    """Return the weight of each token in the batch mean; masked tokens weigh exactly zero.

    `sequences` and `tokens` count the whole batch, so micro-batches add up to it.
    """
    weights = mask.float()
    if spec.aggregation == "grpo":
        return weights / weights.sum(-1, keepdim=True).clamp(min=1) / sequences
    if spec.aggregation == "dapo":
        return weights / tokens
    return weights / (sequences * spec.max_length)


def policy_loss(
    logprobs: Float[Tensor, " N"],
    old_logprobs: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    spec: PolicyLoss,
    owner: Int[Tensor, " N"],
    reference: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, " N"]:
    """Return the policy-gradient term of each token, before aggregation.

    Args:
        logprobs: of the policy that learns.
        old_logprobs: of the policy that sampled.
        advantages: of each token.
        spec: clip, ratio, KL and truncation.
        owner: the sequence that each token belongs to, 0 .. B - 1.
        reference: log-probabilities under the initial weights; needed if ``spec.kl`` is not 0.
    """
    weights = torch.ones_like(logprobs)
    if spec.truncation > 0:
        # One update per batch: the policy before it is the policy itself, without gradient.
        weights = truncated_ratio(logprobs, old_logprobs, spec.truncation)
        old_logprobs = logprobs.detach()
    log_ratio = logprobs - old_logprobs
    if spec.ratio == "sequence":
        log_ratio = sequence_mean(log_ratio, owner)
    terms = weights * clipped_policy_loss(log_ratio, torch.zeros_like(log_ratio), advantages, spec)
    if spec.kl > 0:
        assert reference is not None
        terms = terms + spec.kl * k3(logprobs, reference)
    return terms


def clipped_policy_loss(
    logprobs: Float[Tensor, "..."],
    old_logprobs: Float[Tensor, "..."],
    advantages: Float[Tensor, "..."],
    spec: PolicyLoss,
) -> Float[Tensor, "..."]:
    """Return -min(rho * A, clip(rho) * A) per token, before aggregation (PPO, 1707.06347)."""
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - spec.clip_low, 1 + spec.clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def sequence_mean(values: Float[Tensor, " N"], owner: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Give each token the mean over its sequence (GSPO, 2507.18071, eq. 7)."""
    size = int(owner.max()) + 1
    sums = values.new_zeros(size).index_add(0, owner, values)
    counts = values.new_zeros(size).index_add(0, owner, torch.ones_like(values))
    return (sums / counts.clamp(min=1))[owner]


def truncated_ratio(
    logprobs: Float[Tensor, " N"], sampled: Float[Tensor, " N"], cap: float
) -> Float[Tensor, " N"]:
    """Return min(pi / pi_sampler, cap) as a weight, without gradient (TRL, verl)."""
    return torch.exp(logprobs.detach() - sampled).clamp(max=cap)


def k3(logprobs: Float[Tensor, " N"], reference: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the k3 estimate of KL(policy || reference) on sampled tokens: r - log r - 1 >= 0.

    Source: Schulman, *Approximating KL divergence*, 2020; 2402.03300, eq. 4.
    """
    log_ratio = reference - logprobs
    return torch.expm1(log_ratio) - log_ratio


def divergence(
    student_logits: Float[Tensor, "N V"], teacher_logits: Float[Tensor, "N V"], spec: Divergence
) -> Float[Tensor, " N"]:
    """Return the divergence of each token, in nats; `Divergence` says which."""
    student, teacher = _log_softmax(student_logits), _log_softmax(teacher_logits)
    if 0 < spec.top_k < student.shape[-1]:
        kept = student.detach().topk(spec.top_k, dim=-1).indices
        student, teacher = (with_tail(p.gather(-1, kept)) for p in (student, teacher))
    entries = _jsd_entries(student, teacher, spec.beta)
    if spec.entry_clip > 0:
        entries = entries.clamp(max=spec.entry_clip)
    return entries.sum(-1)


def with_tail(logprobs: Float[Tensor, "N K"]) -> Float[Tensor, "N K+1"]:
    """Append the log of the probability that is left over."""
    kept = torch.logsumexp(logprobs, dim=-1, keepdim=True).clamp(max=-1e-7)
    return torch.cat([logprobs, torch.log(-torch.expm1(kept))], dim=-1)


def generalized_jsd(
    student_logits: Float[Tensor, "N V"], teacher_logits: Float[Tensor, "N V"], beta: float
) -> Float[Tensor, " N"]:
    """Return the generalised JSD over the full vocabulary."""
    return divergence(student_logits, teacher_logits, Divergence(beta))


def _jsd_entries(
    student: Float[Tensor, "N V"], teacher: Float[Tensor, "N V"], beta: float
) -> Float[Tensor, "N V"]:
    """Return each entry's term of the generalised JSD, from log-probabilities."""
    if beta == 0:
        return _kl_entries(teacher, student)
    if beta == 1:
        return _kl_entries(student, teacher)
    log_beta = torch.log(torch.tensor(beta, dtype=student.dtype, device=student.device))
    log_rest = torch.log1p(torch.tensor(-beta, dtype=student.dtype, device=student.device))
    mixture = torch.logaddexp(teacher + log_beta, student + log_rest)
    return beta * _kl_entries(teacher, mixture) + (1 - beta) * _kl_entries(student, mixture)


def _kl_entries(p: Float[Tensor, "N V"], q: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    """Return p * (log p - log q) from log-probabilities."""
    return p.exp() * (p - q)


def _log_softmax(logits: Tensor) -> Tensor:
    """Half precision is not enough for a sum over the vocabulary."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(wide, dim=-1)
