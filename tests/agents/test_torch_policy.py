"""Sampling and scoring: one distribution, token for token, whatever the batch looks like."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from pedrl_agents.torch_policy import Sampling, Storage, TorchPolicy, load_policy
from pedrl_env.records import GenerationRequest, Role, Turn
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.lexicon import Lexicon
from tests.tiny import make_task, tiny_policy

TASKS = (
    *Lexicon(coined=2).tasks("train")[:3],
    make_task("short", "# a\n", solution="def f(x):\n    return 2\n"),
    make_task("long", "# " + "zorp, double, " * 9 + "wug\ndef f(x):\n"),
)


@pytest.fixture(scope="module")
def policy(tiny_base: Path) -> TorchPolicy:
    return tiny_policy(tiny_base, max_new_tokens=24, nudge_teacher=True)


def requests(role: Role, samples: int) -> list[GenerationRequest]:
    return [GenerationRequest(task, role, samples) for task in TASKS]


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_sampled_logprobs_equal_a_fresh_score(policy: TorchPolicy, role: Role) -> None:
    turns = [t for group in policy.generate(requests(role, 12), seed=3) for t in group]
    lengths = {len(t.action_ids) for t in turns}
    assert len(lengths) > 3  # they end at different times, so rows left the batch on the way
    scores = policy.score(role, [(t.prompt_ids, t.action_ids) for t in turns])
    for turn, score in zip(turns, scores, strict=True):
        assert score.logprobs == pytest.approx(np.array(turn.logprobs), abs=1e-4)
        assert (score.gaps >= 0).all()
        assert score.entropies.shape == score.gaps.shape == (len(turn.action_ids),)


@pytest.mark.parametrize("storage", ["separate", "lora"])
def test_half_precision_samples_what_it_scores(tiny_base: Path, storage: Storage) -> None:
    half = load_policy(tiny_base, Sampling(24), storage, precision="bf16")
    turns = [t for group in half.generate(requests("student", 12), seed=3) for t in group]
    pairs = [(t.prompt_ids, t.action_ids) for t in turns]
    told = np.concatenate([t.logprobs for t in turns])
    again = np.concatenate([s.logprobs for s in half.score("student", pairs)])
    whole = np.concatenate(
        [s.logprobs for s in load_policy(tiny_base, Sampling()).score("student", pairs)]
    )
    assert np.abs(told - again).mean() < 0.01
    assert np.abs(told - again).max() < 0.2
    assert 1e-4 < np.abs(told - whole).mean() < 0.05  # it is half, and the same model
    assert {w.dtype for w in half.models["student"].parameters()} == {torch.float32}


def test_roles_have_their_own_weights_and_prompts(policy: TorchPolicy) -> None:
    (turn,) = policy.generate([GenerationRequest(TASKS[0], "teacher", 1)], seed=0)[0]
    assert turn.prompt_ids == policy.prompt_ids(TASKS[0], "teacher")
    pair = (turn.prompt_ids, turn.action_ids)
    (student,), (teacher,) = policy.score("student", [pair]), policy.score("teacher", [pair])
    assert np.abs(student.logprobs - teacher.logprobs).max() > 1e-2
    student_view = policy.prompt_ids(TASKS[0], "student")
    assert turn.prompt_ids[-len(student_view) :] == student_view


def test_score_does_not_depend_on_the_batch(policy: TorchPolicy, tiny_base: Path) -> None:
    turns = [t for group in policy.generate(requests("student", 4), seed=5) for t in group]
    pairs = [(t.prompt_ids, t.action_ids) for t in turns]
    whole = policy.score("student", pairs)
    tight = tiny_policy(tiny_base)
    tight.tokens_per_batch = 40
    for together, alone in zip(whole, tight.score("student", pairs), strict=True):
        assert together.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert together.gaps == pytest.approx(alone.gaps, abs=1e-4)
        assert together.entropies == pytest.approx(alone.entropies, abs=1e-4)


def test_same_seed_same_tokens(policy: TorchPolicy) -> None:
    first, again, other = (policy.generate(requests("student", 4), s) for s in (7, 7, 8))
    assert first == again
    assert first != other
    # Samples of a group are independent draws.
    assert len({t.action_ids for t in first[0]}) > 1


@pytest.mark.parametrize("tokens_per_batch", [16384, 60])
def test_turns_are_told_as_they_end_and_telling_changes_no_draw(
    policy: TorchPolicy, tokens_per_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "tokens_per_batch", tokens_per_batch)
    mixed = [*requests("teacher", 3), GenerationRequest(TASKS[0], "student", 0)]
    mixed += requests("student", 6)
    heard: list[tuple[int, int, Turn]] = []
    work: list[int] = []

    def ended(index: int, sample: int, turn: Turn) -> None:
        heard.append((index, sample, turn))
        work.append(policy.processed_tokens)

    told = policy.generate(mixed, 21, ended)
    assert told == policy.generate(mixed, 21)
    assert len(heard) == sum(request.samples for request in mixed)
    assert {(i, n): turn for i, n, turn in heard} == {
        (i, n): turn for i, group in enumerate(told) for n, turn in enumerate(group)
    }
    assert len(set(work)) > 5  # at many different moments
    if tokens_per_batch == 16384:  # one batch a role: the shorter, the sooner
        for role in ("teacher", "student"):
            lengths = [len(t.action_ids) for i, _, t in heard if mixed[i].role == role]
            assert lengths == sorted(lengths)


def test_roles_and_empty_requests_keep_their_places(policy: TorchPolicy) -> None:
    mixed = [
        GenerationRequest(TASKS[0], "student", 0),
        GenerationRequest(TASKS[1], "teacher", 2),
        GenerationRequest(TASKS[3], "student", 3),
        GenerationRequest(TASKS[2], "teacher", 1),
    ]
    turns = policy.generate(mixed, seed=1)
    assert [len(group) for group in turns] == [0, 2, 3, 1]
    for request, group in zip(mixed, turns, strict=True):
        wanted = policy.prompt_ids(request.task, request.role)
        assert all(t.prompt_ids == wanted for t in group)
    nothing = policy.generate([GenerationRequest(TASKS[0], "student", 0)], seed=1)
    assert (policy.generate([], seed=1), nothing) == ([], [[]])
    assert policy.score("student", []) == []


def test_end_of_sequence_is_kept_and_a_cut_is_told(policy: TorchPolicy) -> None:
    turns = [t for group in policy.generate(requests("student", 24), seed=2) for t in group]
    assert {t.stop for t in turns} == {"eos", "length"}
    for turn in turns:
        assert len(turn.logprobs) == len(turn.action_ids) <= 24
        assert policy.eos not in turn.action_ids[:-1]
        if turn.stop == "eos":
            assert turn.action_ids[-1] == policy.eos
        else:
            assert turn.action_ids[-1] != policy.eos
            assert len(turn.action_ids) == 24


def test_requests_are_cut_into_batches_that_fit(tiny_base: Path) -> None:
    """A small token budget gives several prefills; every turn is still a draw from its prompt."""
    tight = tiny_policy(tiny_base, max_new_tokens=8)
    tight.tokens_per_batch = 30
    turns = tight.generate(requests("teacher", 3), seed=4)
    assert [len(group) for group in turns] == [3] * len(TASKS)
    flat = [t for group in turns for t in group]
    scores = tight.score("teacher", [(t.prompt_ids, t.action_ids) for t in flat])
    for turn, score in zip(flat, scores, strict=True):
        assert score.logprobs == pytest.approx(np.array(turn.logprobs), abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_softmax(tiny_base: Path, temperature: float) -> None:
    policy = tiny_policy(tiny_base, max_new_tokens=1, temperature=temperature)
    draws = 4000
    prompt = policy.prompt_ids(TASKS[0], "student")
    (turns,) = policy.generate([GenerationRequest(TASKS[0], "student", draws)], seed=123)
    with torch.no_grad():
        logits = policy.models["student"](input_ids=torch.tensor([prompt])).logits[0, -1].double()
    expected = torch.softmax(logits / temperature, -1).numpy() * draws
    counts = np.bincount([t.action_ids[0] for t in turns], minlength=len(expected))
    common = expected >= 5  # rarer tokens are pooled
    observed = [*counts[common], counts[~common].sum()]
    assert len(observed) > 5
    wanted = [*expected[common], expected[~common].sum()]
    assert chisquare(observed, wanted).pvalue > 1e-3
    logprobs = torch.log_softmax(logits / temperature, -1).numpy()
    for turn in turns[:50]:
        assert turn.logprobs[0] == pytest.approx(logprobs[turn.action_ids[0]], abs=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_what_is_sampled_is_what_is_scored_at_any_temperature(
    tiny_base: Path, temperature: float
) -> None:
    policy = tiny_policy(tiny_base, temperature=temperature)
    turns = [t for group in policy.generate(requests("student", 4), seed=3) for t in group]
    pairs = [(t.prompt_ids, t.action_ids) for t in turns]
    scores = policy.score("student", pairs)
    at_one = tiny_policy(tiny_base).score("student", pairs)
    for turn, score in zip(turns, scores, strict=True):
        assert score.logprobs == pytest.approx(np.array(turn.logprobs), abs=1e-4)
    for score, plain in zip(scores, at_one, strict=True):
        assert score.gaps == pytest.approx(plain.gaps / temperature, abs=1e-4)
    assert (
        max(abs(s.logprobs - p.logprobs).max() for s, p in zip(scores, at_one, strict=True)) > 0.1
    )


def test_temperature_zero_is_the_argmax(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base, max_new_tokens=10, temperature=0.0)
    groups = policy.generate(requests("student", 2), seed=0)
    for first, second in groups:
        assert first == second
        (score,) = policy.score("student", [(first.prompt_ids, first.action_ids)])
        assert score.gaps == pytest.approx(np.zeros(len(first.action_ids)), abs=1e-4)


def test_text_survives_encoding(policy: TorchPolicy) -> None:
    for text in (
        "    x = x + 7\n    return x % 101\n",
        "    return (34 * x + 7) % 101\n",
        'def g(a, b=None):\n\t"""It\'s  , . ! ?"""\n    return {a: [b]}  # ünïcödé \u2028\n',
    ):
        ids = policy.encode_answer(text)
        assert ids[-1] == policy.eos
        assert policy.decode(Turn((1,), ids, (), "eos")) == text


def test_processed_tokens_count_what_was_computed(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base, max_new_tokens=1)
    length = len(policy.prompt_ids(TASKS[0], "student"))
    policy.generate([GenerationRequest(TASKS[0], "student", 5)], seed=0)
    assert policy.processed_tokens == length  # the prompt once
    policy.score("student", [(policy.prompt_ids(TASKS[0], "student"), (3, 4))] * 5)
    assert policy.processed_tokens == length + (length - 1) + 2  # the same answer five times


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_samples_that_are_alike_so_far_are_computed_once(
    tiny_base: Path, temperature: float
) -> None:
    policy = tiny_policy(tiny_base, max_new_tokens=12, temperature=temperature)
    turns = policy.generate([GenerationRequest(t, "student", 6) for t in TASKS[:2]], seed=0)
    prompts = 2 * max(len(group[0].prompt_ids) for group in turns)
    fed = {  # what was sampled after is the row's next token; after the last comes nothing
        (i, turn.action_ids[:n])
        for i, group in enumerate(turns)
        for turn in group
        for n in range(1, len(turn.action_ids))
    }
    rows = sum(len(turn.action_ids) - 1 for group in turns for turn in group)
    assert prompts + len(fed) <= policy.processed_tokens < prompts + rows
    if temperature == 0:
        assert len(fed) == rows / 6
        assert policy.processed_tokens <= prompts + 2 * 11


def test_state_restores_both_roles(tiny_base: Path) -> None:
    nudged, fresh = tiny_policy(tiny_base, nudge_teacher=True), tiny_policy(tiny_base)
    assert set(nudged.state()) == {"student", "teacher"}
    fresh.load_state(nudged.state())
    pair = [((3, 4, 5), (6, 7))]
    for role in ("student", "teacher"):
        mine, theirs = fresh.score(role, pair)[0], nudged.score(role, pair)[0]
        assert mine.logprobs.tolist() == theirs.logprobs.tolist()


def test_shared_storage_is_one_set_of_weights(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base, storage="shared")
    assert policy.models["student"] is policy.models["teacher"]
    assert set(policy.state()) == {"student"}


def test_saved_policy_loads_again(policy: TorchPolicy, tmp_path: Path) -> None:
    policy.save("teacher", tmp_path / "saved")
    again = load_policy(tmp_path / "saved", Sampling(), "shared")
    pair = [((3, 4, 5), (6, 7))]
    saved, loaded = policy.score("teacher", pair)[0], again.score("student", pair)[0]
    assert saved.logprobs.tolist() == loaded.logprobs.tolist()


def test_unreadable_checkpoints_are_one_sentence(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(PedrlError, match="no checkpoint at"):
        load_policy(tmp_path, Sampling())
    for file in tiny_base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(PedrlError, match="cannot be loaded") as caught:
        load_policy(tmp_path, Sampling())
    assert "\n" not in str(caught.value)
