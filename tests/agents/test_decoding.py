"""Draws of large vocabularies, and our own decoding beside that of transformers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pedrl_agents.adapters import Lora
from pedrl_agents.attention import implementation
from pedrl_agents.decoding import Plain, Room, draw, split
from pedrl_agents.forward import pad_left
from pedrl_agents.llama import Llama, decoder
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
def decoded(
    model: PreTrainedModel, prompts: Sequence[tuple[int, ...]] = PROMPTS
) -> tuple[torch.Tensor, type]:
    """Logits of five given tokens a state, and who computed them; states come and go on the way."""
    ours = decoder(model)
    ids, mask = pad_left(prompts, 0, CPU)
    found = [ours.start(ids, mask, 5, 5)]
    texts = list(map(list, prompts))
    for n in range(5):
        if n == 1:
            ours.branch(torch.tensor([0, 2]))
            texts += [list(texts[0]), list(texts[2])]
        if n == 3:
            ours.keep(torch.tensor([0, 2, 4]))
            texts = [texts[i] for i in (0, 2, 4)]
        tokens = torch.arange(len(texts)) * 7 + 3 + n
        for text, token in zip(texts, tokens.tolist(), strict=True):
            text.append(token)
        logits = ours.step(tokens)
        found.append(logits)
        whole = [model(input_ids=torch.tensor([text])).logits[0, -1] for text in texts]
        assert torch.allclose(logits, torch.stack(whole), atol=1e-5)
    if isinstance(ours, Plain):
        assert all(isinstance(layer, Room) for layer in ours._cache.layers)
    return torch.cat(found), type(ours)


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


@pytest.mark.parametrize("prompts", [PROMPTS, [p[:2] for p in PROMPTS]])
def test_our_decoding_equals_that_of_transformers(prompts: list[tuple[int, ...]]) -> None:
    """With padding and without, and as what transformers computes of whole sequences."""
    ours, by_us = decoded(grouped_llama("eager"), prompts)
    # A bias makes it a model of which only transformers knows.
    other = grouped_llama("eager", attention_bias=True)
    weights = grouped_llama("eager").state_dict()
    missing = other.load_state_dict(weights, strict=False).missing_keys
    assert all(name.endswith("bias") for name in missing)
    for name, weight in other.named_parameters():
        if name.endswith("bias"):
            weight.data.zero_()
    theirs, by_them = decoded(other, prompts)
    assert (by_us, by_them) == (Llama, Plain)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert theirs.std() > 0.01


def test_an_adapter_is_part_of_what_decodes(tiny_base: Path) -> None:
    policy = load_policy(tiny_base, Sampling(), "lora", lora=Lora(rank=2))
    for name, weight in policy.state()["student"].items():
        if ".lora_B." in name:
            # Larger, and rounding errors of single precision grow with it on their way.
            weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
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
        # One state, in which all rows are, and others with another distribution.
        state = torch.tensor([1, 3]).repeat(250)
        logits = torch.stack([-row.nan_to_num(neginf=0.0), row, torch.zeros(size), row])
        u = torch.rand(500, 1, generator=generator, dtype=torch.double)
        tokens, logprobs = draw(logits, state, temperature, u)
        counts += np.bincount(tokens, minlength=size)
        policy = (row / temperature).log_softmax(-1)
        assert torch.allclose(logprobs, policy[tokens], atol=1e-5)
    wanted = torch.softmax(row.double() / temperature, -1).numpy() * counts.sum()
    assert counts[300:310].sum() == 0
    blocks = np.arange(size) // 1000 + 10
    blocks[common] = range(len(common))
    observed, expected = (np.bincount(blocks, weights=x) for x in (counts, wanted))
    enough = expected > 5
    both = [[*x[enough], x[~enough].sum() + 1e-9] for x in (observed, expected)]
    assert chisquare(both[0], np.array(both[1]) * sum(both[0]) / sum(both[1])).pvalue > 1e-3


def test_rows_share_a_state_until_their_tokens_differ() -> None:
    state = np.array([0, 0, 0, 1, 1, 1])
    same = split(state, np.array([7, 7, 7, 9, 9, 9]), 2)
    assert (same.state.tolist(), same.sources.tolist()) == (state.tolist(), [])
    assert same.tokens.tolist() == [7, 9]
    apart = split(state, np.array([7, 8, 7, 9, 6, 5]), 2)
    assert apart.sources.tolist() == [0, 1, 1]
    assert apart.live.tolist() == list(range(5))
    assert apart.state[0] == apart.state[2]
    assert len(set(apart.state.tolist())) == 5
    # Each goes on with its own token, from where it was.
    assert apart.tokens[apart.state].tolist() == [7, 8, 7, 9, 6, 5]
    parents = np.array([0, 1, *apart.sources])
    assert parents[apart.state].tolist() == state.tolist()


def test_states_that_all_rows_left_are_not_live() -> None:
    found = split(np.array([3, 1, 1]), np.array([4, 5, 5]), 4)
    assert found.live.tolist() == [1, 3]
    assert len(found.tokens) == 4
    assert (found.state.tolist(), found.sources.tolist()) == ([3, 1, 1], [])
