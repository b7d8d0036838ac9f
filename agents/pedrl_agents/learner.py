"""The learner: sums policy-gradient, imitation and distillation terms, and knows no algorithm.

Each term has its own normaliser, taken over the whole batch before it is cut into micro-batches,
so how it is cut changes nothing but rounding. Logits over the vocabulary are made for a few tokens
at a time, so what a divergence needs in memory does not grow with the batch.
"""

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pedrl_agents.adapters import Lora, bare
from pedrl_agents.forward import (
    LOGITS_PER_CHUNK,
    Packed,
    Precision,
    action_hidden,
    autocast,
    branching,
    in_chunks,
    micro_batches,
    pack,
)
from pedrl_agents.head import tempered, token_logprobs
from pedrl_agents.knobs import Count, Positive, Share, Span, Weight
from pedrl_agents.losses import (
    Divergence,
    PolicyLoss,
    aggregation_weights,
    divergence,
    k3,
    policy_loss,
)
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import FloatArray, Role, Signal
from pedrl_sandbox.errors import PedrlError


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """The optimizer, the same for every method.

    Attributes:
        learning_rate: of AdamW, constant after its increase.
        teacher_learning_rate: for the teacher's weights; 0 means the same as `learning_rate`.
        lr_warmup: updates over which the learning rate rises linearly.
        max_grad_norm: gradients are clipped to this norm.
        weight_decay, betas: AdamW's.
        ema_decay: share of its old weights that a teacher with ``storage = "ema"`` keeps at each
            update of the student (SDPO: 0.95).
        lora: the adapters of ``storage = "lora"``.
        precision: ``bf16`` runs every pass under autocast, those that sample and score too; the
            weights, their gradients and AdamW's moments stay in single precision.
        tokens_per_batch: padded tokens of one micro-batch, whose gradients are accumulated; a
            memory knob that changes no result.
        logits_per_chunk: logits over the vocabulary that are held at once; likewise.
    """

    learning_rate: Annotated[float, Span(0.0, inf, "1e-3 at this size; LLMs 1e-6 to 1e-5")] = 1e-3
    teacher_learning_rate: Weight = 0.0
    lr_warmup: Count = 3
    max_grad_norm: Weight = 1.0
    weight_decay: Weight = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: Share = 0.95
    lora: Lora = Lora()
    precision: Precision = "fp32"
    tokens_per_batch: Positive = 16384
    logits_per_chunk: Positive = LOGITS_PER_CHUNK


@dataclass(frozen=True, slots=True)
class Normalisers:
    """What each term of one set of weights is divided by, over the whole batch.

    Attributes:
        sequences, tokens: with advantages, by the role whose signals they are: where both roles
            share weights each has a mean of its own.
        ce_weight: sum of all imitation weights.
        distilled: tokens with a divergence.
    """

    sequences: Mapping[Role, int]
    tokens: Mapping[Role, int]
    ce_weight: float
    distilled: int


class Learner:
    """One AdamW per set of weights that receives signals."""

    def __init__(
        self,
        policy: TorchPolicy,
        config: LearnerConfig,
        policy_loss: PolicyLoss,
        divergence: Divergence,
    ) -> None:
        self.policy = policy
        self.config = config
        self.policy_loss = policy_loss
        self.divergence = divergence
        self.reference = _initial(policy) if policy_loss.kl > 0 else None
        self.optimizers: dict[Role, torch.optim.AdamW] = {}
        self.updates: dict[Role, int] = defaultdict(int)
        self._apart: dict[Role, list[Tensor]] = defaultdict(list)  # log pi - log pi_sampler

    def step(self, signals: Sequence[Signal]) -> dict[str, float]:
        """Make one optimizer step per set of weights; return losses and gradient norms.

        Raises:
            PedrlError: if a loss or gradient is not finite. That step is not made: weights of NaN
                sample on, and a score of 0 would not say why.
        """
        metrics: dict[str, float] = {}
        # Shared weights get one step on the sum of both roles' terms, not two steps in a row. A
        # teacher that is a moving average follows them, and is no one's to move.
        together = self.policy.storage in ("shared", "ema")
        roles: tuple[Role, ...] = ("student",) if together else ("teacher", "student")
        for role in roles:
            mine = [s for s in signals if together or s.learner == role]
            speaking = [s for s in mine if _speaks(s, self.policy_loss)]
            if speaking:  # silent sequences need no pass, but they count in every mean
                metrics |= self._update(role, speaking, _normalisers(mine))
        return metrics

    def _update(self, role: Role, signals: list[Signal], norms: Normalisers) -> dict[str, float]:
        model = self.policy.models[role]
        optimizer = self._optimizer(role)
        optimizer.zero_grad(set_to_none=True)
        self._apart.clear()
        pairs = [(s.prompt_ids, s.action_ids) for s in signals]
        cut = micro_batches(pairs, self.config.tokens_per_batch)
        total = self._accumulate(role, [[signals[i] for i in batch] for batch in cut], norms)
        norm = self._clip(model)
        if not (math.isfinite(total) and math.isfinite(norm)):
            knob, rate = self._rate(role)
            raise PedrlError(
                f"training diverged at update {self.updates[role] + 1} of the {role}'s weights "
                f"(loss {total:g}, gradient norm {norm:g}): lower {knob}, now {rate:g}"
            )
        optimizer.step()
        for group in optimizer.param_groups:  # a fused step does not say that it wrote them
            torch.autograd.graph.increment_version(group["params"])
        self.updates[role] += 1
        if self.policy.storage == "ema":
            self._follow()
        apart = {role: torch.cat(rows) for role, rows in self._apart.items()}
        return {f"loss/{role}": total, f"grad_norm/{role}": norm, **_mismatch(apart)}

    def _accumulate(self, role: Role, batches: list[list[Signal]], norms: Normalisers) -> float:
        """Add up the gradients of micro-batches; return the sum of their losses."""
        total = 0.0
        for batch in batches:
            loss = self._loss(role, batch, norms)
            loss.backward()
            total += loss.item()
        return total

    def _clip(self, model: PreTrainedModel) -> float:
        """Clip the gradients; return their norm before that."""
        clip = self.config.max_grad_norm
        return float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))

    def _loss(self, role: Role, signals: list[Signal], norms: Normalisers) -> Tensor:
        policy, model = self.policy, self.policy.models[role]
        pairs = [(s.prompt_ids, s.action_ids) for s in signals]
        packed = pack(pairs, policy.pad, policy.device, branching(model))
        with autocast(policy.device, self.config.precision):
            hidden = action_hidden(model, packed)
            policy.processed_tokens += packed.processed_tokens
            loss = hidden.new_zeros((), dtype=torch.float32)
            if any(s.advantages is not None or s.ce_weights is not None for s in signals):
                loss = loss + self._likelihood(signals, packed, model, hidden, norms)
            if any(s.teacher_prompt_ids is not None for s in signals):
                terms = self._distillation(signals, packed, model, hidden)
                loss = loss + self.divergence.weight * terms / norms.distilled
        return loss

    def _likelihood(
        self,
        signals: list[Signal],
        packed: Packed,
        model: PreTrainedModel,
        hidden: Tensor,
        norms: Normalisers,
    ) -> Tensor:
        """Return the policy-gradient and the imitation terms: all that reads sampled tokens."""
        chosen = self._chosen(model, packed, hidden)
        loss = chosen.new_zeros(())
        if any(s.advantages is not None for s in signals):
            spec = self.policy_loss
            weights = sum(
                aggregation_weights(packed.mask, spec, count, norms.tokens[learner])
                * _rows(
                    [s.learner == learner and s.advantages is not None for s in signals], chosen
                )
                for learner, count in norms.sequences.items()
            )
            assert isinstance(weights, Tensor)
            advantages = _flat([s.advantages for s in signals], signals, chosen)
            old = _flat([s.old_logprobs for s in signals], signals, chosen)
            owner = packed.mask.nonzero()[:, 0]
            for learner in norms.sequences:
                mine = [s.learner == learner and s.advantages is not None for s in signals]
                rows = torch.tensor(mine, device=owner.device)[owner]
                self._apart[learner].append((chosen.detach() - old)[rows])
            terms = policy_loss(chosen, old, advantages, spec, owner, self._reference(packed))
            loss = loss + (weights[packed.mask] * terms).sum()
        if norms.ce_weight > 0:
            imitated = _flat([s.ce_weights for s in signals], signals, chosen)
            loss = loss - (imitated * chosen).sum() / norms.ce_weight
        return loss

    def _distillation(
        self, signals: list[Signal], packed: Packed, model: PreTrainedModel, hidden: Tensor
    ) -> Tensor:
        """Return the summed divergence over tokens of the signals that name a teacher view."""
        policy, teacher = self.policy, self.policy.models["teacher"]
        told = [i for i, s in enumerate(signals) if s.teacher_prompt_ids is not None]
        pairs = [(s.teacher_prompt_ids or (), s.action_ids) for s in (signals[i] for i in told)]
        with torch.no_grad():
            target = pack(pairs, policy.pad, policy.device, branching(teacher))
            teacher_hidden = action_hidden(teacher, target)[target.edge]
            policy.processed_tokens += target.processed_tokens
        owner = packed.mask.nonzero()[:, 0]
        distilled = torch.isin(owner, torch.tensor(told, device=owner.device))
        head, teacher_head = model.get_output_embeddings(), teacher.get_output_embeddings()
        temperature = policy.sampling.scale

        def terms(mine: Tensor, theirs: Tensor) -> Tensor:
            with torch.no_grad():
                target_logits = tempered(teacher_head, theirs, temperature)
            return divergence(tempered(head, mine, temperature), target_logits, self.divergence)

        rows = self.config.logits_per_chunk // head.weight.shape[0]
        return in_chunks(terms, rows, hidden[packed.edge[distilled]], teacher_hidden).sum()

    def _chosen(self, model: PreTrainedModel, packed: Packed, hidden: Tensor) -> Tensor:
        """Return log pi of the actions, (N,)."""
        chosen = token_logprobs(
            model.get_output_embeddings(),
            hidden,
            packed.tokens,
            self.policy.sampling.scale,
            self.config.logits_per_chunk,
        )
        return chosen[packed.edge]

    @torch.no_grad()
    def _reference(self, packed: Packed) -> Tensor | None:
        """Return log pi of the actions under the initial weights, if the loss asks for them."""
        if self.reference is None:
            return None
        self.policy.processed_tokens += packed.processed_tokens
        return self._chosen(self.reference, packed, action_hidden(self.reference, packed))

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the teacher towards the student: the exponential moving average of its weights."""
        models, rate = self.policy.models, 1 - self.config.ema_decay
        for mine, theirs in zip(
            models["teacher"].parameters(), models["student"].parameters(), strict=True
        ):
            mine.lerp_(theirs, rate)

    def _optimizer(self, role: Role) -> torch.optim.AdamW:
        config = self.config
        if role not in self.optimizers:
            self.optimizers[role] = torch.optim.AdamW(
                [w for w in self.policy.models[role].parameters() if w.requires_grad],
                betas=config.betas,
                weight_decay=config.weight_decay,
                fused=True,  # one operation, where the default makes a dozen for each weight
            )
        _, rate = self._rate(role)
        for group in self.optimizers[role].param_groups:
            group["lr"] = rate * min(1.0, (self.updates[role] + 1) / max(1, config.lr_warmup))
        return self.optimizers[role]

    def _rate(self, role: Role) -> tuple[str, float]:
        """Return the knob that sets the role's learning rate, and the rate after its increase."""
        if role == "teacher" and self.config.teacher_learning_rate > 0:
            return "teacher_learning_rate", self.config.teacher_learning_rate
        return "learning_rate", self.config.learning_rate

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, weights excluded."""
        return {
            "optimizers": {r: o.state_dict() for r, o in self.optimizers.items()},
            "updates": dict(self.updates),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the state of an interrupted run, whatever this learner has done since."""
        self.updates = defaultdict(int, state["updates"])
        self.optimizers.clear()
        for role, optimizer_state in state["optimizers"].items():
            self._optimizer(role).load_state_dict(optimizer_state)


def _initial(policy: TorchPolicy) -> PreTrainedModel:
    """Return the student as it is now, frozen: beneath an adapter it is there already."""
    student = policy.models["student"]
    if policy.storage == "lora":
        return bare(student)
    return copy.deepcopy(student).requires_grad_(False)


def _speaks(signal: Signal, spec: PolicyLoss) -> bool:
    """Say whether a signal can move anything: zero advantages and zero weights need no pass."""
    return (
        signal.teacher_prompt_ids is not None
        or (signal.advantages is not None and (spec.kl > 0 or bool(np.any(signal.advantages))))
        or (signal.ce_weights is not None and bool(np.any(signal.ce_weights)))
    )


def _mismatch(apart: Mapping[Role, Tensor]) -> dict[str, float]:
    """Say how far log-probabilities that came with tokens are from those of the update's pass."""
    metrics: dict[str, float] = {}
    for role, rows in apart.items():
        if len(rows) > 0:
            metrics[f"mismatch/{role}_mean"] = rows.abs().mean().item()
            metrics[f"mismatch/{role}_max"] = rows.abs().max().item()
            # The third estimate of KL(sampler || learner), on tokens that the sampler drew.
            metrics[f"mismatch/{role}_k3"] = k3(torch.zeros_like(rows), rows).mean().item()
    return metrics


def _normalisers(signals: list[Signal]) -> Normalisers:
    judged = [s for s in signals if s.advantages is not None]
    sequences: Counter[Role] = Counter(s.learner for s in judged)
    tokens: Counter[Role] = Counter()
    for s in judged:
        tokens[s.learner] += len(s.action_ids)
    return Normalisers(
        sequences=sequences,
        tokens=tokens,
        ce_weight=float(sum(s.ce_weights.sum() for s in signals if s.ce_weights is not None)),
        distilled=sum(len(s.action_ids) for s in signals if s.teacher_prompt_ids is not None),
    )


def _rows(keep: list[bool], like: Tensor) -> Tensor:
    """Return (B, 1) ones for the rows to keep and zeros for the others."""
    return torch.tensor(keep, device=like.device)[:, None].to(like)


def _flat(rows: list[FloatArray | None], signals: list[Signal], like: Tensor) -> Tensor:
    """Concatenate per-token values, zeros where a signal has none, as a tensor like `like`."""
    filled = [
        np.zeros(len(s.action_ids)) if row is None else row
        for row, s in zip(rows, signals, strict=True)
    ]
    return torch.from_numpy(np.concatenate(filled)).to(like)
