"""vLLM as the sampler: its weights are the learner's, its log-probabilities theirs to 1e-4."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from pedrl_agents.engine import Engine
from pedrl_agents.learner import Learner, LearnerConfig
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.torch_policy import Sampling, Storage, TorchPolicy, load_policy
from pedrl_agents.views import PromptFormat
from pedrl_agents.vllm_engine import VllmEngine, VllmSettings, vllm_engine
from pedrl_env.records import GenerationRequest, Role, Signal, Turn
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.lexicon import Lexicon
from tests.tiny import make_task

EXACT = 1e-4
MOVED = 1e-2  # what the smallest of the changes below makes of a log-probability, at least
TASKS = (
    *Lexicon(coined=2).tasks("train")[:3],
    make_task("short", "# a\n", solution="def f(x):\n    return 2\n"),
    make_task("long", "# " + "zorp, double, " * 9 + "wug\ndef f(x):\n"),
)


def make_policy(
    base: Path,
    engine: Engine | None,
    *,
    storage: Storage = "separate",
    tokens: int = 24,
    temperature: float = 1.0,
    prompt_format: PromptFormat = "auto",
) -> TorchPolicy:
    sampling = Sampling(tokens, temperature)
    return load_policy(base, sampling, storage, prompt_format=prompt_format, engine=engine)


def requests(role: Role, samples: int) -> list[GenerationRequest]:
    return [GenerationRequest(task, role, samples) for task in TASKS]


def sampled(policy: TorchPolicy, role: Role, samples: int = 8, seed: int = 3) -> list[Turn]:
    return [t for group in policy.generate(requests(role, samples), seed) for t in group]


def apart(policy: TorchPolicy, role: Role, turns: Sequence[Turn]) -> float:
    """The largest |log pi_sampler - log pi_trainer| of any token."""
    scores = policy.score(role, [(t.prompt_ids, t.action_ids) for t in turns])
    return max(
        float(np.abs(score.logprobs - np.array(turn.logprobs)).max())
        for turn, score in zip(turns, scores, strict=True)
    )


def nudge(policy: TorchPolicy, role: Role, seed: int = 11) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.models[role].parameters():
            if weight.requires_grad:
                weight.add_(0.01 * torch.randn(weight.shape, generator=generator))


def flatten(policy: TorchPolicy, share: float) -> None:
    """Make the student unsure of everything."""
    with torch.no_grad():
        policy.models["student"].model.norm.weight.mul_(share)


def stale(policy: TorchPolicy, role: Role, engine: VllmEngine) -> list[Turn]:
    """Sample with the weights that the engine happens to have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "sync", lambda policy, role: None)
        return sampled(policy, role)


@pytest.mark.parametrize("storage", ["separate", "lora"])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_sampled_logprobs_equal_the_learners_after_a_sync_and_not_before(
    base: Path, engine: VllmEngine, storage: Storage, role: Role
) -> None:
    policy = make_policy(base, engine, storage=storage)
    first = sampled(policy, role)  # ragged prompts, ragged answers
    assert len({len(t.prompt_ids) for t in first}) > 2
    assert len({len(t.action_ids) for t in first}) > 3
    assert apart(policy, role, first) < EXACT
    nudge(policy, role)
    assert apart(policy, role, stale(policy, role, engine)) > MOVED
    after = apart(policy, role, sampled(policy, role))
    print(f"{storage} {role}: |log pi_vllm - log pi_torch| <= {after:.1e}")  # noqa: T201
    assert after < EXACT


def test_sampled_logprobs_are_those_at_the_temperature(base: Path, engine: VllmEngine) -> None:
    policy = make_policy(base, engine, temperature=0.5)
    turns = sampled(policy, "student")
    assert apart(policy, "student", turns) < EXACT
    assert apart(make_policy(base, None), "student", turns) > MOVED


def test_each_role_has_its_view_and_its_weights(base: Path, engine: VllmEngine) -> None:
    policy = make_policy(base, engine)
    nudge(policy, "teacher")
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
        if group:
            assert apart(policy, request.role, group) < EXACT
    other = apart(policy, "student", turns[1])
    assert other > MOVED
    assert policy.generate([], 1) == []


def test_whoever_moves_weights_vllm_follows(base: Path, engine: VllmEngine) -> None:
    policy = make_policy(base, engine, storage="ema")
    learner = Learner(policy, LearnerConfig(learning_rate=1e-2), PolicyLoss(), Divergence())
    before = {role: {k: w.clone() for k, w in s.items()} for role, s in policy.state().items()}
    turns = sampled(policy, "student")
    signals = [
        Signal("student", t.prompt_ids, t.action_ids, ce_weights=np.ones(len(t.action_ids)))
        for t in turns
    ]
    for _ in range(4):
        learner.step(signals)  # AdamW moves the student, the moving average the teacher
    roles: tuple[Role, ...] = ("student", "teacher")
    for role in roles:
        assert apart(policy, role, stale(policy, role, engine)) > MOVED
        assert apart(policy, role, sampled(policy, role)) < EXACT
    policy.load_state(before)
    for role in roles:
        assert apart(policy, role, sampled(policy, role)) < EXACT
    assert sampled(policy, "student") == turns


def test_weights_travel_only_when_they_are_others(base: Path, engine: VllmEngine) -> None:
    policy = make_policy(base, engine, storage="shared")
    sampled(policy, "student")
    syncs = engine.syncs
    sampled(policy, "student")
    sampled(policy, "teacher")
    assert engine.syncs == syncs
    nudge(policy, "student")
    sampled(policy, "student")
    assert engine.syncs == syncs + 1


def test_same_seed_same_tokens(base: Path, engine: VllmEngine) -> None:
    policy = make_policy(base, engine)
    first, again, other = (sampled(policy, "student", seed=s) for s in (7, 7, 8))
    assert [t.action_ids for t in first] == [t.action_ids for t in again]
    assert apart(policy, "student", again) < EXACT
    assert [t.action_ids for t in first] != [t.action_ids for t in other]
    assert len({t.action_ids for t in first[:8]}) > 1  # draws of a group are independent
    # What is sampled beside an answer changes no draw of it.
    few = policy.generate(requests("student", 8)[:2], 7)
    assert [t.action_ids for g in few for t in g] == [t.action_ids for t in first[:16]]


def test_stop_reasons(base: Path, engine: VllmEngine) -> None:
    turns = sampled(make_policy(base, engine), "student", 24)
    assert {t.stop for t in turns} == {"eos", "length"}
    for turn in turns:
        assert len(turn.action_ids) == len(turn.logprobs) <= 24
        assert (turn.stop == "eos") == (turn.action_ids[-1] == 0)
        assert 0 not in turn.action_ids[:-1]
        assert turn.stop == "eos" or len(turn.action_ids) == 24


def test_an_answer_ends_with_its_code(base: Path, engine: VllmEngine) -> None:
    policy = make_policy(base, engine, prompt_format="completion")
    task = make_task("bare", "# zorp\ndef f(x):\n    return x\n")
    flatten(policy, 0.2)  # it now begins a line with whatever comes to its mind
    groups = policy.generate([GenerationRequest(task, "student", 48)], 5)
    for turn in groups[0]:
        over = [policy.view.over(list(turn.action_ids[:n])) for n in range(1, 25)]
        ends = [n + 1 for n, stop in enumerate(over[: len(turn.action_ids)]) if stop]
        assert ends == ([] if turn.stop == "length" else [len(turn.action_ids)])
    assert "stop" in {turn.stop for turn in groups[0]}
    assert apart(policy, "student", groups[0]) < EXACT


def test_turns_are_told_as_they_end(base: Path, engine: VllmEngine) -> None:
    policy = make_policy(base, engine)
    heard: list[tuple[int, int, Turn]] = []
    told = policy.generate(requests("student", 8), 21, lambda *turn: heard.append(turn))
    assert {(i, n): turn for i, n, turn in heard} == {
        (i, n): turn for i, group in enumerate(told) for n, turn in enumerate(group)
    }
    lengths = [len(turn.action_ids) for _, _, turn in heard]
    assert lengths == sorted(lengths)  # the shorter, the sooner


def test_prefixes_are_computed_once_and_never_with_old_weights(
    base: Path, engine: VllmEngine
) -> None:
    policy = make_policy(base, engine)
    turns = sampled(policy, "teacher", 16)
    everything = sum(len(t.prompt_ids) + len(t.action_ids) for t in turns)
    assert policy.processed_tokens < 0.7 * everything
    nudge(policy, "teacher")
    with pytest.MonkeyPatch.context() as patch:  # what a sync that forgets it would do
        patch.setattr(engine._llm, "reset_prefix_cache", lambda: True)
        assert apart(policy, "teacher", sampled(policy, "teacher")) > EXACT
    nudge(policy, "teacher", 12)
    assert apart(policy, "teacher", sampled(policy, "teacher")) < EXACT


def check_giving_up(policy: TorchPolicy) -> None:
    """Break a rollout off: what is sampled after it is as if it had never been."""
    wanted = sampled(policy, "student", seed=4)

    def fail(index: int, sample: int, turn: Turn) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        policy.generate(requests("student", 8), 4, fail)
    nudge(policy, "teacher")
    assert apart(policy, "teacher", sampled(policy, "teacher")) < EXACT
    again = [t.action_ids for t in sampled(policy, "student", seed=4)]
    assert again == [t.action_ids for t in wanted]


def test_a_rollout_that_is_given_up_leaves_nothing_behind(base: Path, engine: VllmEngine) -> None:
    check_giving_up(make_policy(base, engine))


def test_draws_follow_the_whole_distribution(base: Path, engine: VllmEngine) -> None:
    policy = make_policy(base, engine, tokens=1)
    flatten(policy, 0.3)
    drawn = policy.generate([GenerationRequest(TASKS[3], "student", 3000)], 17)[0]
    prompt = policy.prompt_ids(TASKS[3], "student")
    with torch.no_grad():
        logits = policy.models["student"](torch.tensor([prompt])).logits[0, -1].double()
    expected = 3000 * torch.softmax(logits, -1).numpy()
    counts = np.bincount([t.action_ids[0] for t in drawn], minlength=len(expected))
    likely = expected >= 5
    assert 3 < likely.sum() < len(likely)
    observed = np.append(counts[likely], counts[~likely].sum())
    wanted = np.append(expected[likely], expected[~likely].sum())
    assert chisquare(observed, wanted * 3000 / wanted.sum()).pvalue > 1e-3


def test_in_half_precision_the_mismatch_is_told(base: Path) -> None:
    policy = make_policy(base, vllm_engine(base, VllmSettings(dtype="bfloat16")))
    turns = sampled(policy, "student")
    signals = [
        Signal(
            "student",
            t.prompt_ids,
            t.action_ids,
            advantages=np.ones(len(t.action_ids)),
            old_logprobs=np.array(t.logprobs),
        )
        for t in turns
    ]
    learner = Learner(policy, LearnerConfig(), PolicyLoss(truncation=2.0), Divergence())
    told = learner.step(signals)
    print({k: f"{v:.1e}" for k, v in told.items() if k.startswith("mismatch/")})  # noqa: T201
    assert 1e-4 < told["mismatch/student_mean"] < told["mismatch/student_max"] < 1
    assert 0 < told["mismatch/student_k3"] < 0.01


def test_temperature_0_takes_the_likeliest_as_the_torch_backend_does(
    base: Path, engine: VllmEngine
) -> None:
    ours = sampled(make_policy(base, None, temperature=0), "student", 1)
    theirs = sampled(make_policy(base, engine, temperature=0), "student", 1)
    assert [t.action_ids for t in ours] == [t.action_ids for t in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.logprobs == pytest.approx(its.logprobs, abs=EXACT)


def test_a_prompt_without_room_for_its_answer_is_refused(base: Path, engine: VllmEngine) -> None:
    policy = make_policy(base, engine, tokens=500)
    with pytest.raises(PedrlError, match=r"vLLM was started for 512: raise vllm\.max_model_len"):
        sampled(policy, "student")
