"""The packed forward pass against plain ones: shared prompts and padding must change nothing."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pedrl_agents.attention import GROUPED
from pedrl_agents.forward import (
    Pair,
    _shared_rows,
    action_logits,
    branching,
    micro_batches,
    pack,
)
from tests.small_models import KINDS
from tests.tiny import tiny_policy

CPU = torch.device("cpu")
SHARED: list[Pair] = [
    ((5, 6, 7, 8, 9), (10, 11, 12)),
    ((20, 21), (22,)),
    ((5, 6, 7, 8, 9), (30, 31, 32, 33, 34, 35)),
    ((40, 41, 42), (0,)),  # an end of sequence at once; its id is the padding's too
    ((20, 21), (50, 0)),
    ((5, 6, 7, 8, 9), (10, 11, 12)),
]
DISTINCT: list[Pair] = [((5, 6, 7), (8, 9)), ((10, 11), (12, 13, 14))]
BRANCHED: list[Pair] = [
    ((5, 6, 7, 8, 9), (10, 11, 12, 13)),
    ((5, 6, 7, 8, 9), (10, 11, 12, 14)),  # another last token
    ((5, 6, 7, 8, 9), (10, 11)),  # ends where the others go on
    ((20, 21), (22, 10, 11)),
    ((5, 6, 7, 8, 9), (10, 15, 12, 13)),  # alike again after they parted
    ((20, 21), (22, 10, 11)),  # the same once more
]


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> PreTrainedModel:
    return tiny_policy(tiny_base).models["student"]


def plain_logits(model: PreTrainedModel, pair: Pair) -> Tensor:
    """One sequence, no cache, no padding."""
    prompt, action = pair
    logits: Tensor = model(input_ids=torch.tensor([prompt + action])).logits
    return logits[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("worth", [0, 10**6], ids=["rows", "trees"])
@pytest.mark.parametrize("pairs", [SHARED, DISTINCT, BRANCHED, SHARED[:1]])
def test_packed_logits_equal_plain_ones(
    model: PreTrainedModel, pairs: list[Pair], worth: int
) -> None:
    with torch.no_grad():
        packed = pack(pairs, 0, CPU, worth)
        logits = action_logits(model, packed)
        expected = torch.cat([plain_logits(model, p) for p in pairs])
    assert packed.tokens[packed.edge].tolist() == [a for _, action in pairs for a in action]
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max().item() < 1e-4


@pytest.mark.parametrize("worth", [0, 10**6], ids=["rows", "trees"])
@pytest.mark.parametrize("pairs", [SHARED, DISTINCT, BRANCHED])
def test_packed_gradients_equal_plain_ones(
    model: PreTrainedModel, pairs: list[Pair], worth: int
) -> None:
    actions = torch.tensor([a for _, action in pairs for a in action])

    def gradients(logits: Tensor) -> list[Tensor]:
        total = logits.log_softmax(-1).gather(-1, actions[:, None]).sum()
        return list(torch.autograd.grad(total, list(model.parameters())))

    ours = gradients(action_logits(model, pack(pairs, 0, CPU, worth)))
    plain = gradients(torch.cat([plain_logits(model, p) for p in pairs]))
    for mine, theirs in zip(ours, plain, strict=True):
        assert theirs.abs().max().item() > 0
        assert (mine - theirs).abs().max().item() < 1e-4 * max(1.0, theirs.abs().max().item())


def test_each_distinct_prompt_is_computed_once() -> None:
    packed = pack(SHARED, 0, CPU)
    assert packed.context.shape == (3, 4)  # three prompts, the longest without its last token
    assert packed.inputs.shape == (6, 6)
    assert packed.processed_tokens == 3 * 4 + 6 * 6
    assert packed.owner.tolist() == [0, 1, 0, 2, 1, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", [GROUPED, "eager", "sdpa"])
def test_trees_of_every_architecture_and_attention(kind: str, attention: str) -> None:
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 48) | {"head_dim": 12}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = AutoConfig.for_model(kind, vocab_size=60, **sizes, **heads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    packed = pack(BRANCHED, 0, CPU, branching(model))
    assert packed.seen is not None
    with torch.no_grad():
        expected = torch.cat([plain_logits(model, p) for p in BRANCHED])
        assert (action_logits(model, packed) - expected).abs().max().item() < 1e-5


def test_what_answers_begin_with_alike_is_computed_once() -> None:
    packed = pack(BRANCHED, 0, CPU, 10**6)
    assert packed.inputs.tolist() == [[5, 6, 7, 8, 9, 10, 11, 12, 15, 12, 20, 21, 22, 10]]
    assert packed.position.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 0, 1, 2, 3]]
    assert packed.seen is not None
    assert packed.seen[0, 9].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 8, 9]
    assert packed.seen[0, 13].nonzero()[:, 0].tolist() == [10, 11, 12, 13]
    assert packed.processed_tokens == 14
    assert packed.tokens.tolist() == [10, 11, 12, 13, 14, 15, 12, 13, 22, 10, 11]
    assert packed.tokens[packed.edge].tolist() == [a for _, action in BRANCHED for a in action]


def test_a_tree_is_made_only_where_it_costs_less_and_attention_is_plain(
    model: PreTrainedModel,
) -> None:
    assert branching(model) == 8 * model.config.hidden_size
    assert pack(BRANCHED, 0, CPU, branching(model)).seen is not None
    apart = [((5, 6), tuple(range(10 * i, 10 * i + 9))) for i in range(1, 5)]
    assert pack(apart, 0, CPU, 1).seen is None
    windowed = copy.deepcopy(model.config)
    windowed.sliding_window = 4
    assert branching(SimpleNamespace(config=windowed)) == 0  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 500))
def test_trees_that_share_rows_cost_no_more_than_a_row_for_each(
    sizes: list[int], branching: int
) -> None:
    rows, longest = _shared_rows(sizes, branching)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert longest == max(sum(sizes[i] for i in row) for row in rows) <= 1.5 * max(sizes)
    alone = len(sizes) * max(sizes) * (branching + max(sizes))
    assert len(rows) * longest * (branching + longest) <= alone


ACTIONS = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(tuple)
PROMPTS = st.lists(st.integers(1, 2), min_size=2, max_size=6).map(tuple)


@given(st.lists(st.tuples(PROMPTS, ACTIONS), max_size=40), st.integers(1, 60))
def test_micro_batches_hold_everything_once_and_within_the_budget(
    pairs: list[Pair], budget: int
) -> None:
    batches = micro_batches(pairs, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(pairs)))
    for batch in batches:
        packed = pack([pairs[i] for i in batch], 0, CPU)
        assert packed.processed_tokens <= budget or len(batch) == 1


def test_samples_of_a_prompt_stay_together() -> None:
    pairs: list[Pair] = [((i % 3, 5, 6, 7), (1,) * (1 + i)) for i in range(9)]
    batches = micro_batches(pairs, 3 + 3 * 9)
    assert sorted(sorted({pairs[i][0][0] for i in batch}) for batch in batches) == [[0], [1], [2]]
