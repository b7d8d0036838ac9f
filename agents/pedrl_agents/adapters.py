"""LoRA (2106.09685): student and teacher as two peft adapters over one base model.

Each role gets a module tree of its own, and all trees hold the very same base parameters. So the
base is in memory once, and there is no active adapter to switch: what a backward pass computes
anew sees the adapter that its forward pass saw. The base itself is a tree without adapters.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from pedrl_agents.knobs import Positive, Span
from pedrl_env.records import Role
from pedrl_sandbox.errors import PedrlError

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


@dataclass(frozen=True, slots=True)
class Lora:
    """The adapters of ``storage = "lora"``.

    Attributes:
        rank: of the two factors of each layer's change.
        alpha: the change is scaled by alpha / rank.
        targets: names of the layers that have one, separated by commas; ``all-linear`` is every
            linear layer but the head.
    """

    rank: Positive = 16
    alpha: Annotated[float, Span(0.0, inf, "once or twice the rank")] = 32.0
    targets: str = "all-linear"


def view(model: PreTrainedModel) -> PreTrainedModel:
    """Return a second module tree over the same parameters and buffers."""
    held = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in held})


def add_adapter(model: PreTrainedModel, role: Role, lora: Lora) -> PreTrainedModel:
    """Return a view of `model` with an adapter that changes nothing yet; freeze the parameters.

    Its first factors are the same for every role and every seed, the second ones are zero.

    Raises:
        PedrlError: if the model has no layer of the names in ``lora.targets``.
    """
    # Slow to import, and few runs need it.
    from peft import LoraConfig, inject_adapter_in_model

    from pedrl_agents.lora_linear import LoraLinear

    names = [name.strip() for name in lora.targets.split(",")]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float is as good
        target_modules=names if names != ["all-linear"] else "all-linear",
    )
    config._register_custom_module({torch.nn.Linear: LoraLinear})
    tree = view(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            inject_adapter_in_model(config, tree, role)
        except ValueError as error:
            raise PedrlError(
                f"lora.targets={lora.targets!r} does not fit this model: {error}"
            ) from error
    return tree


def bare(model: PreTrainedModel) -> PreTrainedModel:
    """Return the base beneath an adapter: a view without it, at no memory."""
    tree = view(model)
    for name, layer in _adapted(tree):
        tree.set_submodule(name, layer.get_base_layer())
    return tree


def ordinary(model: PreTrainedModel) -> PreTrainedModel:
    """Return an ordinary model, fit to be saved: its adapter is merged, what can be is shared."""
    with torch.device("meta"):
        plain: PreTrainedModel = AutoModelForCausalLM.from_config(model.config)
    plain.load_state_dict(dict(whole_weights(model)), assign=True)
    plain.generation_config = model.generation_config
    return plain


def weight_of(layer: Any) -> Tensor:
    """Return the weight of a linear layer, an adapter's change included."""
    weight: Tensor = layer.weight
    for name in getattr(layer, "active_adapters", ()):
        weight = weight + layer.get_delta_weight(name)
    return weight


def whole_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield what an ordinary model keeps, by name, buffers too; an adapter is merged on the way."""
    changed = dict(_adapted(model))
    for name, weight in model.named_parameters(remove_duplicate=False):
        if ".lora_" in name:
            continue
        module = name.removesuffix(".base_layer.weight")
        whole = weight_of(changed[module]) if module in changed else weight
        yield name.replace(".base_layer.", "."), whole.detach()
    for path, module in model.named_modules():  # `state_dict` would shard a gathered model again
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}".lstrip("."), buffer


def adapter_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the adapter's weights alone, by name."""
    return {name: w for name, w in model.state_dict().items() if ".lora_" in name}


def _adapted(tree: PreTrainedModel) -> list[tuple[str, "LoraLayer"]]:
    from peft.tuners.lora import LoraLayer

    return [item for item in tree.named_modules() if isinstance(item[1], LoraLayer)]
