"""Draws of large vocabularies, and our own decoding beside that of transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pedrl_agents.adapters import Lora
from pedrl_agents.attention import implementation
from pedrl_agents.decoding import Room, decoding_mask, draw, make_room
from pedrl_agents.forward import pad_left, prefill
from pedrl_agents.llama import Llama, stepper
from pedrl_agents.torch_policy import Sampling, load_policy

CPU = torch.device("cpu")
PROMPTS = [(5, 6, 7, 8, 9), (20, 21), (40, 41, 42)]


def grouped_llama(kind: str, attention_bias: bool = False) -> PreTrainedModel:
    """A random Llama whose six heads share two heads of keys and values."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=600,
        attention_bias=attention_bias,
    )
    config._attn_implementation = kind
    model: PreTrainedModel = LlamaForCausalLM(config).eval()
    return model


@torch.no_grad()
def decoded(model: PreTrainedModel) -> tuple[torch.Tensor, type]:
    """Logits of five given tokens a row, with a row dropped on the way, and who computed them."""
    ids, mask = pad_left([p[:-1] for p in PROMPTS], 0, CPU)
    cache = prefill(model, ids, mask)
    owner = torch.tensor([0, 0, 1, 2, 2])
    make_room(cache, owner, 5)
    step = stepper(model, cache, 20)
    current = torch.tensor([p[-1] for p in PROMPTS])[owner]
    position = mask.sum(-1)[owner]
    mask = decoding_mask(model, cache, torch.cat([mask[owner], mask.new_ones(5, 5)], -1))
    found = []
    for n in range(5):
        logits = step(current, position, mask[..., : ids.shape[1] + 1 + n], cache)
        found.append(logits[-3:])
        current, position = (current * 7 + 3 + torch.arange(len(current))) % 400, position + 1
        if n == 2:
            keep = torch.tensor([0, 2, 3, 4])
            cache.batch_select_indices(keep)
            mask, current, position = mask[keep], current[keep], position[keep]
    assert all(isinstance(layer, Room) for layer in cache.layers)
    return torch.stack(found), type(getattr(step, "__self__", None))


@pytest.mark.parametrize("kind", ["eager", "grouped"])
def test_heads_that_share_keys_attend_as_in_transformers(kind: str) -> None:
    config = LlamaConfig()
    ours = grouped_llama(implementation(config, CPU) if kind == "grouped" else "eager")
    ids, mask = torch.randint(1, 600, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, :4] = 0
    plain = grouped_llama("eager")
    with torch.no_grad():
        mine, theirs = (m(input_ids=ids, attention_mask=mask).logits for m in (ours, plain))
    real = mask.bool()
    assert torch.allclose(mine[real], theirs[real], atol=1e-5)
    loss = ours(input_ids=ids, attention_mask=mask).logits[real].log_softmax(-1)[:, 3].sum()
    same = plain(input_ids=ids, attention_mask=mask).logits[real].log_softmax(-1)[:, 3].sum()
    pairs = zip(
        torch.autograd.grad(loss, list(ours.parameters())),
        torch.autograd.grad(same, list(plain.parameters())),
        strict=True,
    )
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_our_decoding_equals_that_of_transformers() -> None:
    ours, by_us = decoded(grouped_llama("eager"))
    # A bias makes it a model of which only transformers knows.
    other = grouped_llama("eager", attention_bias=True)
    weights = grouped_llama("eager").state_dict()
    missing = other.load_state_dict(weights, strict=False).missing_keys
    assert all(name.endswith("bias") for name in missing)
    for name, weight in other.named_parameters():
        if name.endswith("bias"):
            weight.data.zero_()
    theirs, by_them = decoded(other)
    assert (by_us, by_them) == (Llama, type(None))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert theirs.std() > 0.01


def test_an_adapter_is_part_of_what_decodes(tiny_base: Path) -> None:
    policy = load_policy(tiny_base, Sampling(), "lora", lora=Lora(rank=2))
    for name, weight in policy.state()["student"].items():
        if ".lora_B." in name:
            weight.normal_(generator=torch.Generator().manual_seed(1))
    changed, who = decoded(policy.models["student"])
    assert who is Llama
    plain, _ = decoded(policy.models["teacher"])
    assert (changed - plain).abs().max() > 0.1


@pytest.mark.parametrize("size", [438, 49152])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_draws_of_large_vocabularies_follow_the_softmax(size: int, temperature: float) -> None:
    """A few likely tokens at the edges of blocks, and a long tail."""
    generator = torch.Generator().manual_seed(2)
    row = torch.randn(size, generator=generator)
    common = [0, 1, 255, 256, size - 1]
    row[common] = row.logsumexp(-1) + torch.tensor([0.5, -1.0, 0.1, 0.3, 1.0])
    row[300:310] = -torch.inf  # can never be drawn
    counts = np.zeros(size)
    for _ in range(20):
        tokens, logprobs = draw(row.expand(500, -1), temperature, generator)
        counts += np.bincount(tokens, minlength=size)
        assert torch.allclose(logprobs, row.log_softmax(-1)[tokens], atol=1e-5)
    wanted = torch.softmax(row.double() / temperature, -1).numpy() * counts.sum()
    assert counts[300:310].sum() == 0
    blocks = np.arange(size) // 1000 + 10
    blocks[common] = range(len(common))
    observed, expected = (np.bincount(blocks, weights=x) for x in (counts, wanted))
    enough = expected > 5
    both = [[*x[enough], x[~enough].sum() + 1e-9] for x in (observed, expected)]
    assert chisquare(both[0], np.array(both[1]) * sum(both[0]) / sum(both[1])).pvalue > 1e-3
