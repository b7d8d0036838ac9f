"""Our losses and advantages against TRL's own code, an implementation that is not ours.

TRL's trainer is no library of losses: its methods are called unbound, on a stub that holds the
settings they read and, in place of a model, log-probabilities of random logits. Everything between
rewards and loss is theirs. `make test` installs the oracle by ``pip install --no-deps trl``;
without it this file fails to import, so that no skip passes for an agreement.
"""

import importlib
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pedrl_agents.losses import (
    Aggregation,
    Divergence,
    PolicyLoss,
    Ratio,
    aggregation_weights,
    chosen_logprobs,
    divergence,
    policy_loss,
    truncated_ratio,
    with_tail,
)
from pedrl_agents.signals import Normalisation, group_advantages

GRPOTrainer: Any = importlib.import_module("trl.trainer.grpo_trainer").GRPOTrainer
distillation: Any = importlib.import_module("trl.experimental.sdpo.loss_utils")

PROMPTS, GROUP, TOKENS, VOCABULARY, MAX_LENGTH = 3, 4, 7, 19, 12
BATCH = PROMPTS * GROUP
PROMPT = [1, 2]
SEEDS = [0, 1, 2]
DOUBLE = torch.float64


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


class Rollouts:
    """Random ragged rollouts in groups, with rewards and with log-probabilities of other policies.

    Attributes:
        sampled: of the policy that sampled, far enough from the one that learns to be clipped.
        reference: of a reference policy.
    """

    def __init__(self, seed: int) -> None:
        lengths = torch.randint(
            1, TOKENS + 1, (BATCH,), generator=torch.Generator().manual_seed(seed)
        )
        lengths[0] = TOKENS
        self.mask = torch.arange(TOKENS) < lengths[:, None]
        self.logits = draw(BATCH, TOKENS, VOCABULARY, seed=seed)
        self.actions = draw(BATCH, TOKENS, seed=seed + 100).mul(100).long().abs() % VOCABULARY
        now = self.logprobs(self.logits)
        self.sampled = now + 0.4 * draw(BATCH, TOKENS, seed=seed + 200)
        self.reference = now + 0.5 * draw(BATCH, TOKENS, seed=seed + 300)
        rewards = draw(PROMPTS, GROUP, seed=seed + 400)
        rewards[1] = (rewards[1] > 0).double()  # as a verifier gives them
        rewards[1, :2] = torch.tensor([0.0, 1.0])
        rewards[2] = 1.0  # teaches nothing
        self.rewards = rewards

    def logprobs(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(-1, self.actions[..., None]).squeeze(-1)

    def ragged(self, values: Tensor) -> list[list[Any]]:
        return [row[keep].tolist() for row, keep in zip(values, self.mask, strict=True)]


def stub(rollouts: Rollouts, logits: Tensor, spec: PolicyLoss, **settings: Any) -> SimpleNamespace:
    """A trainer of one process and one micro-batch, whose model says `logits`."""

    def generate(prompts: list[Any]) -> tuple[Any, ...]:
        actions = rollouts.ragged(rollouts.actions)
        sampled = rollouts.ragged(rollouts.sampled) if spec.truncation else None
        texts = ["" for _ in prompts]
        return [PROMPT] * len(prompts), actions, None, texts, sampled, {}, None, None

    def score(model: object, *_: object, **__: object) -> tuple[Tensor, Tensor, None]:
        values = rollouts.reference if model == "reference" else rollouts.logprobs(logits)
        return values * rollouts.mask, torch.zeros_like(values), None

    args = SimpleNamespace(
        delta=None,
        gradient_accumulation_steps=1,
        gradient_checkpointing_kwargs=None,
        per_device_train_batch_size=BATCH,
        steps_per_generation=1,
        use_bias_correction_kl=False,
    )
    one_process = SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda tensor: tensor,
        num_processes=1,
        process_index=0,
        reduce=lambda tensor, reduction: tensor,
    )
    logs: Any = defaultdict(list)
    logs["rewards"] = defaultdict(list)
    values = {
        "_entropy_bonus_enabled": False,
        "_generate": generate,
        "_calculate_rewards": lambda *_: rollouts.rewards.reshape(-1, 1),
        "_get_per_token_logps_and_entropies": score,
        "_logs": logs,
        "_metrics": {"train": defaultdict(list)},
        "_pending_extra_logs": {},
        "_pending_metrics": {},
        "_tokenizer": SimpleNamespace(pad_token_id=0),
        "accelerator": one_process,
        "args": args,
        "aux_loss_enabled": False,
        "beta": spec.kl,
        "current_gradient_accumulation_steps": 1,
        "environment_factories": None,
        "environments": None,
        "epsilon_high": spec.clip_high,
        "epsilon_low": spec.clip_low,
        "importance_sampling_level": spec.ratio,
        "log_multimodal": False,
        "loss_type": spec.aggregation,
        "mask_truncated_completions": False,
        "max_completion_length": MAX_LENGTH,
        "model": SimpleNamespace(training=True, is_gradient_checkpointing=False),
        "multi_objective_aggregation": "sum_then_normalize",
        "num_generations": GROUP,
        "num_iterations": 1,
        "off_policy_mask_threshold": None,
        "pad_to_multiple_of": None,
        "ref_model": "reference",
        "reward_func_names": ["verdict"],
        "reward_weights": torch.ones(1, dtype=DOUBLE),
        "scale_rewards": "group",
        "tools": [],
        "top_entropy_quantile": 1.0,
        "use_vllm": spec.truncation > 0,
        "vllm_importance_sampling_clip_max": spec.truncation,
        "vllm_importance_sampling_clip_min": None,
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "token_truncate",
    }
    return SimpleNamespace(**values | settings)


def scored(trainer: SimpleNamespace) -> dict[str, Any]:
    """What TRL makes of rollouts before it learns: advantages, and log-probabilities of others."""
    rows = [{"prompt": "x"} for _ in range(BATCH)]
    inputs: dict[str, Any] = GRPOTrainer._generate_and_score_completions(trainer, rows)
    return inputs


def theirs(rollouts: Rollouts, spec: PolicyLoss, **settings: Any) -> tuple[float, Tensor]:
    logits = rollouts.logits.clone().requires_grad_()
    trainer = stub(rollouts, logits, spec, **settings)
    inputs = scored(trainer)
    if not spec.truncation:  # the sampler is the same model, some updates ago
        inputs["old_per_token_logps"] = rollouts.sampled
    loss = GRPOTrainer._compute_loss(trainer, "model", inputs)
    loss.backward()
    assert logits.grad is not None
    return loss.item(), logits.grad


def ours(
    rollouts: Rollouts, spec: PolicyLoss, normalisation: Normalisation = "group"
) -> tuple[float, Tensor]:
    """The learner's arithmetic: flat tokens, weights that add up to the batch's mean."""
    mask = rollouts.mask
    logits = rollouts.logits.clone().requires_grad_()
    now = chosen_logprobs(logits[mask], rollouts.actions[mask])
    rewards = rollouts.rewards.tolist()
    per_rollout = [a for group in group_advantages(rewards, normalisation) for a in group]
    advantages = torch.tensor(per_rollout)[:, None].expand(-1, TOKENS)[mask]
    weights = aggregation_weights(mask, spec, BATCH, int(mask.sum()))[mask]
    reference = rollouts.reference[mask] if spec.kl else None
    owner = mask.nonzero()[:, 0]
    terms = policy_loss(now, rollouts.sampled[mask], advantages, spec, owner, reference)
    loss = (weights * terms).sum()
    loss.backward()
    assert logits.grad is not None
    return loss.item(), logits.grad


def assert_equal(one: tuple[float, Tensor], other: tuple[float, Tensor]) -> None:
    # Terms of order 0.1 and of either sign add up to the loss, now and then to almost nothing.
    assert one[0] == pytest.approx(other[0], rel=1e-5, abs=1e-7)
    scale = other[1].abs().max().item()
    assert (one[1] - other[1]).abs().max().item() < 1e-5 * scale


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kl", [0.0, 0.04])
@pytest.mark.parametrize("clip_high", [0.2, 0.28])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("aggregation", ["grpo", "dapo", "dr_grpo"])
def test_policy_loss_and_its_gradient(
    aggregation: Aggregation, ratio: Ratio, clip_high: float, kl: float, seed: int
) -> None:
    """From rewards to gradients: GRPO, DAPO, Dr.GRPO and GSPO, with and without the k3 term."""
    spec = PolicyLoss(
        clip_high=clip_high, aggregation=aggregation, max_length=MAX_LENGTH, ratio=ratio, kl=kl
    )
    rollouts = Rollouts(seed)
    ratios = (rollouts.logprobs(rollouts.logits) - rollouts.sampled).exp()[rollouts.mask]
    assert ((ratios > 1 + clip_high) | (ratios < 0.8)).any()
    assert_equal(ours(rollouts, spec), theirs(rollouts, spec))


@pytest.mark.parametrize("seed", SEEDS)
def test_bnpo_of_one_micro_batch_is_dapo(seed: int) -> None:
    """Their fourth aggregation divides by the tokens of a micro-batch; ours are of all of them."""
    spec = PolicyLoss(aggregation="dapo")
    rollouts = Rollouts(seed)
    assert_equal(ours(rollouts, spec), theirs(rollouts, spec, loss_type="bnpo"))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cap", [1.1, 2.0])
@pytest.mark.parametrize("kl", [0.0, 0.04])
@pytest.mark.parametrize("aggregation", ["grpo", "dapo", "dr_grpo"])
def test_importance_sampling_truncation(
    aggregation: Aggregation, kl: float, cap: float, seed: int
) -> None:
    """TRL's ``token_truncate`` for rollouts that another engine sampled."""
    spec = PolicyLoss(aggregation=aggregation, max_length=MAX_LENGTH, truncation=cap, kl=kl)
    rollouts = Rollouts(seed)
    found = truncated_ratio(rollouts.logprobs(rollouts.logits), rollouts.sampled, cap)
    trainer = stub(rollouts, rollouts.logits, spec)
    expected = scored(trainer)["importance_sampling_ratio"]
    mask = rollouts.mask
    # Theirs pass through single precision on their way from the engine.
    torch.testing.assert_close(found[mask], expected[mask].double(), rtol=1e-5, atol=0)
    assert (found[mask] == cap).any()
    assert (found[mask] < 1).any()
    assert_equal(ours(rollouts, spec), theirs(rollouts, spec))


@pytest.mark.parametrize("cap", [1.1, 2.0])
def test_importance_sampling_truncation_of_distillation(cap: float) -> None:
    """``apply_importance_sampling_clipping``, which SDPO and SDFT use."""
    rollouts = Rollouts(3)
    now, losses = rollouts.logprobs(rollouts.logits), draw(BATCH, TOKENS, seed=4)
    expected = distillation.apply_importance_sampling_clipping(losses, now, rollouts.sampled, cap)
    found = losses * truncated_ratio(now, rollouts.sampled, cap)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("normalisation", ["group", "none"])
def test_advantages(normalisation: Normalisation, seed: int) -> None:
    rollouts = Rollouts(seed)
    trainer = stub(rollouts, rollouts.logits, PolicyLoss(), scale_rewards=normalisation)
    expected = scored(trainer)["advantages"].reshape(PROMPTS, GROUP)
    found = group_advantages(rollouts.rewards.tolist(), normalisation)
    for mine, others in zip(found, expected, strict=True):
        assert mine == pytest.approx(others.numpy(), rel=1e-5, abs=1e-12)
    assert expected[1].abs().max() > 0.1
    assert found[2].tolist() == [0.0] * GROUP


def test_batch_advantages_differ_from_trl_on_purpose() -> None:
    """Theirs divide by the std of all rewards; ours of the centred ones: no task's level enters.

    Where all groups have the same mean the two are the same.
    """
    rollouts = Rollouts(0)
    trainer = stub(rollouts, rollouts.logits, PolicyLoss(), scale_rewards="batch")
    expected = scored(trainer)["advantages"].reshape(PROMPTS, GROUP)
    found = torch.tensor([list(a) for a in group_advantages(rollouts.rewards.tolist(), "batch")])
    factor = expected[:2] / found[:2]  # the third group is all zeros
    torch.testing.assert_close(factor, factor[0, 0].expand_as(factor))
    rollouts.rewards = rollouts.rewards - rollouts.rewards.mean(-1, keepdim=True)
    level = scored(trainer)["advantages"].reshape(PROMPTS, GROUP)
    torch.testing.assert_close(found, level, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_divergence_and_its_gradient(beta: float, seed: int) -> None:
    """``compute_divergence``: KL both ways and the generalised JSD between them."""
    student, teacher = (2 * draw(BATCH, VOCABULARY, seed=s) for s in (seed, seed + 100))
    other = student.clone().requires_grad_()
    expected = distillation.compute_divergence(other.log_softmax(-1), teacher.log_softmax(-1), beta)
    expected.sum().backward()
    mine = student.clone().requires_grad_()
    found = divergence(mine, teacher, Divergence(beta))
    found.sum().backward()
    assert expected.min() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 5, VOCABULARY - 1])
def test_top_k_with_tail_and_its_gradient(k: int, beta: float, seed: int) -> None:
    student, teacher = (2 * draw(BATCH, VOCABULARY, seed=s) for s in (seed, seed + 100))
    other = student.clone().requires_grad_()
    expected = distillation.compute_topk_self_distillation_loss(
        other,
        teacher,
        distillation_topk=k,
        distillation_alpha=beta,
        distillation_add_tail=True,
    )
    expected.sum().backward()
    mine = student.clone().requires_grad_()
    found = divergence(mine, teacher, Divergence(beta, top_k=k))
    found.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-10)
    assert expected.max() > 1e-2
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-10)


def test_the_tail() -> None:
    kept = draw(BATCH, VOCABULARY, seed=5).log_softmax(-1)[:, :4]
    sure = torch.tensor([[0.0, -80.0, -80.0, -80.0]], dtype=DOUBLE)  # nothing is left over
    for logprobs in (kept, sure):
        torch.testing.assert_close(with_tail(logprobs), distillation.add_tail_bucket(logprobs))
