"""What a training run holds in memory, counted from the model's shape and the code as it is.

Weights, gradients and AdamW's moments are exact: the model is built without data and its parameters
are counted. Activations are sums over what a layer keeps for its backward pass, meant to err on the
high side; a test compares both with what small models really take. Left out: what the allocator
loses to fragments, and the context of a GPU (`Plan` adds a margin for them).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pedrl_agents.adapters import Lora
from pedrl_agents.algorithm import Algorithm
from pedrl_agents.decoding import TOKENS_SAMPLED
from pedrl_agents.learner import LearnerConfig
from pedrl_agents.vllm_engine import GIB, VllmSettings
from pedrl_sandbox.errors import PedrlError

Phase = Literal["always", "sampling", "scoring", "learning", "stepping"]
FP32: Final = 4
LOGITS_COPIES: Final = 8  # divergences make the most of them
VLLM_OWN: Final = 2 * GIB
DISTILLING: Final = ("opsd", "hdpo", "sdft", "sdpo")
TRAINED_TEACHERS: Final = ("pedagogical", "teacher-rl", "jolt", "pi-distill")


@dataclass(frozen=True, slots=True)
class Use:
    """One use of memory.

    Attributes:
        what: in words.
        bytes: how much.
        phase: when; uses of different phases but ``always`` do not add up.
        shared_out: whether sharding over GPUs would divide it.
    """

    what: str
    bytes: int
    phase: Phase
    shared_out: bool = False

    def on(self, gpus: int) -> "Use":
        """Return what is left of it on each of some GPUs."""
        if not self.shared_out or gpus == 1:
            return self
        return Use(f"{self.what}, 1/{gpus}", self.bytes // gpus, self.phase)


@dataclass(frozen=True, slots=True)
class Load:
    """What a run asks of a model at once.

    Attributes:
        tasks, group: of a step; each task costs a group of rollouts.
        rows_per_batch: rollouts that may be sampled side by side.
        prompt, teacher_prompt, answer: tokens, the longest.
    """

    tasks: int
    group: int
    rows_per_batch: int
    prompt: int
    teacher_prompt: int
    answer: int

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.teacher_prompt + self.answer


@dataclass(frozen=True, slots=True)
class Layer:
    """The sizes of one layer that memory depends on.

    Attributes:
        hidden, inner: of the residual stream, and of the feed-forward part.
        heads, kv_heads: their number times their size.
        maps: attention maps.
        layers, vocabulary: of the model.
        normed_heads: whether queries and keys have norms of their own (Qwen3).
    """

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    maps: int
    layers: int
    vocabulary: int
    normed_heads: bool


def build(shape: Mapping[str, Any]) -> PreTrainedModel:
    """Build a model of a shape, with parameters that have sizes and no data.

    Raises:
        PedrlError: transformers knows no such model.
    """
    try:
        config = AutoConfig.for_model(**shape)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, KeyError, TypeError) as error:
        raise PedrlError(f"no model of this shape can be built: {error}") from error
    return model


def layer_of(model: PreTrainedModel) -> Layer:
    """Read the sizes of a model with Llama's names for them.

    Raises:
        PedrlError: it has others.
    """
    config: Any = model.config
    try:
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Layer(
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads * size,
            config.num_key_value_heads * size,
            config.num_attention_heads,
            config.num_hidden_layers,
            config.vocab_size,
            any(name.endswith("q_norm") for name, _ in model.named_modules()),
        )
    except AttributeError as error:
        raise PedrlError(f"models like {config.model_type} cannot be planned: {error}") from error


def parameters(model: PreTrainedModel) -> int:
    """How many parameters a model has, tied ones counted once."""
    return sum(weight.numel() for weight in model.parameters())


def adapter_parameters(model: PreTrainedModel, lora: Lora) -> int:
    """How many parameters one adapter over it has."""
    head = model.get_output_embeddings()
    names = {name.strip() for name in lora.targets.split(",")}
    return sum(
        lora.rank * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and (lora.targets == "all-linear" or name.rsplit(".", 1)[-1] in names)
    )


def activations(layer: Layer, tokens: int, longest: int, precision: str) -> int:
    """Bytes that a micro-batch keeps for its backward pass.

    Per token and layer, in bytes: the two norms keep the residual stream, what it is divided into
    and what they return (single precision always); attention keeps queries, repeated keys and
    values, its result and its maps (eager: softmax in single precision, and a copy in half); the
    feed-forward part keeps four tensors of its inner size. All caches of keys and values live until
    the forward pass ends.
    """
    half = precision == "bf16"
    each = (28 if half else 24) * layer.hidden
    each += (8 if half else 16) * (layer.heads + layer.inner)
    each += (6 if half else FP32) * layer.maps * longest
    each += 2 * FP32 * layer.kv_heads
    if layer.normed_heads:
        each += 3 * FP32 * (layer.heads + layer.kv_heads)
    return tokens * (layer.layers * each + 4 * FP32 * layer.hidden)


def held(
    model: PreTrainedModel, method: str, algorithm: Algorithm, learner: LearnerConfig
) -> list[Use]:
    """What is there from the first step to the last: weights, gradients, moments."""
    size, storage = parameters(model), algorithm.storage
    teacher_trained = method in TRAINED_TEACHERS and storage in ("separate", "lora")
    trained_roles = 2 if teacher_trained else 1
    if storage == "lora":
        adapter = adapter_parameters(model, learner.lora)
        name, floats, trained = "two adapters", 2 * adapter, adapter
    else:
        copies = 1 if storage == "shared" else 2
        copies += algorithm.policy_loss.kl > 0
        name = {1: "one copy", 2: "two copies", 3: "three copies"}[copies]
        floats, trained = size * copies, size
    moving = trained_roles * trained
    base = [Use("their base", FP32 * size, "always")] if storage == "lora" else []
    return [
        *base,
        Use(f"weights: {name}", FP32 * floats, "always", True),
        Use("gradients", FP32 * moving, "always", True),
        Use("AdamW's moments", 2 * FP32 * moving, "always", True),
        Use("AdamW's square roots", FP32 * trained, "stepping", True),
    ]


def gathered(model: PreTrainedModel, method: str, algorithm: Algorithm, lora: Lora) -> list[Use]:
    """What each of several GPUs holds beside its shares, see `pedrl_agents.distributed`.

    The weights that work are there whole, and gradients until they are summed.
    """
    size = parameters(model)
    if algorithm.storage == "lora":
        size = adapter_parameters(model, lora)
    compared = algorithm.policy_loss.kl > 0 and algorithm.storage != "lora"
    targets = method in DISTILLING and algorithm.storage != "shared"
    working: tuple[Phase, ...] = ("sampling", "scoring", "learning")
    uses = [Use("weights that work, gathered", FP32 * size, phase) for phase in working]
    if compared or targets:
        more = FP32 * size * (compared + targets)
        uses.append(Use("weights to compare with, gathered", more, "learning"))
    return [*uses, Use("gradients, not yet summed", FP32 * size, "learning")]


def passing(
    model: PreTrainedModel,
    learner: LearnerConfig,
    load: Load,
    vllm: VllmSettings | None = None,
) -> list[Use]:
    """What is there for a part of a step: activations, caches, logits; vLLM's own share always."""
    layer = layer_of(model)
    rows = max(1, learner.tokens_per_batch // load.longest)
    tokens = rows * load.longest
    kv = 2 * FP32 * layer.layers * layer.kv_heads
    chunk = min(learner.logits_per_chunk, rows * load.answer * layer.vocabulary)
    uses = [
        Use(
            f"activations of {rows} x {load.longest} tokens, {learner.precision}",
            activations(layer, tokens, load.longest, learner.precision),
            "learning",
        ),
        Use("a chunk of logits, with all made of it", LOGITS_COPIES * FP32 * chunk, "learning"),
        Use("keys and values while scoring", kv * tokens, "scoring"),
        Use(
            "one layer while scoring",
            FP32 * tokens * (3 * layer.maps * load.longest + 3 * layer.inner + 4 * layer.hidden),
            "scoring",
        ),
        Use("a chunk of logits while scoring", LOGITS_COPIES * FP32 * chunk, "scoring"),
    ]
    if learner.precision == "bf16":
        uses.append(Use("weights again, in bf16", 2 * parameters(model), "learning"))
    if vllm is None:
        return uses + _sampling(layer, load, kv)
    if vllm.url:
        return [*uses, Use(f"vLLM's, at {vllm.url}: elsewhere", 0, "always")]
    size = parameters(model) * (FP32 if vllm.dtype == "float32" else 2)
    return [
        *uses,
        Use(f"vLLM's weights, {vllm.dtype}", size, "always"),
        Use("vLLM's keys and values", vllm.cache_gib * GIB, "always"),
        Use("vLLM's own, a guess", VLLM_OWN, "always"),
    ]


def _sampling(layer: Layer, load: Load, kv: int) -> list[Use]:
    length = load.longest
    side_by_side = min(load.tasks * load.group, load.rows_per_batch, TOKENS_SAMPLED // length)
    rows = max(load.group, side_by_side)
    return [
        Use(f"keys and values of {rows} answers, fp32", rows * length * kv, "sampling"),
        Use("their logits, single and double", 32 * rows * layer.vocabulary, "sampling"),
    ]


def peak(uses: Sequence[Use], gpus: int = 1) -> int:
    """The most that is there at one time, on each of some GPUs that share out what they can."""

    def total(phase: Phase) -> int:
        return sum(u.on(gpus).bytes for u in uses if u.phase == phase)

    phases: tuple[Phase, ...] = ("sampling", "scoring", "learning", "stepping")
    return total("always") + max(map(total, phases))
