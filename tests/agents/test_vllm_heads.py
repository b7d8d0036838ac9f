"""Widened heads are the same heads: the widened model gives the logits of the model."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from pedrl_agents.vllm_heads import widening
from pedrl_sandbox.errors import PedrlError

SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def random_model(config: LlamaConfig | Qwen2Config) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    return model


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SHAPE, head_dim=24), LlamaConfig(**SHAPE, head_dim=16), Qwen2Config(**SHAPE)],
)
@torch.no_grad()
def test_a_widened_model_gives_the_same_logits(config: LlamaConfig | Qwen2Config) -> None:
    model = random_model(config)
    found = widening(config, (32, 64))
    assert found is not None
    changed = type(config)(**{**config.to_dict(), **found.overrides(config)})
    wide = random_model(changed)
    wide.load_state_dict(dict(found.weights(model.state_dict().items())))
    assert wide.state_dict()["model.layers.0.self_attn.k_proj.weight"].shape[0] == 2 * 32
    ids = torch.randint(0, 50, (2, 300))
    logits = model(ids).logits
    assert (wide(ids).logits - logits).abs().max() < 1e-4 * logits.abs().max()


def test_heads_of_a_known_size_stay() -> None:
    assert widening(LlamaConfig(**SHAPE, head_dim=64), (32, 64)) is None


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**SHAPE, head_dim=24),  # it normalises each head over its size
        LlamaConfig(**SHAPE, head_dim=96),  # wider than all of them
        LlamaConfig(
            **SHAPE,
            head_dim=24,
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        ),
    ],
)
def test_heads_that_cannot_be_widened_are_refused(config: LlamaConfig | Qwen3Config) -> None:
    with pytest.raises(PedrlError, match=r"attention heads have size \d\d.*torch backend"):
        widening(config, (32, 64))
