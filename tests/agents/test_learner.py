"""One step of the learner against the same step written out by hand in plain torch."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pedrl_agents.learner import Learner, LearnerConfig
from pedrl_agents.losses import Aggregation, Divergence, PolicyLoss
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import GenerationRequest, Role, Signal
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.lexicon import Lexicon
from tests.tiny import tiny_policy

TASKS = Lexicon(coined=2).tasks("train")[:3]
CONFIG = LearnerConfig(learning_rate=1e-3, lr_warmup=2)
KINDS = ("rl", "imitation", "distillation", "sum")
OTHERS = ("dapo", "dr_grpo")
Weights = dict[str, Tensor]


def sampled(policy: TorchPolicy) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Return (task, prompt, action) of ragged student rollouts."""
    groups = policy.generate([GenerationRequest(t, "student", 3) for t in TASKS], seed=6)
    return [(i, t.prompt_ids, t.action_ids) for i, g in enumerate(groups) for t in g]


def make_signals(policy: TorchPolicy, kind: str, learner: Role = "student") -> list[Signal]:
    """Signals of one kind on the same rollouts, with silent and partial ones among them."""
    rng = np.random.default_rng(0)
    signals = []
    for n, (task, prompt, action) in enumerate(sampled(policy)):
        length = len(action)
        (score,) = policy.score(learner, [(prompt, action)])
        rl = kind == "rl" or (kind == "sum" and n % 3 != 2)
        ce = kind == "imitation" or (kind == "sum" and n % 3 != 1)
        jsd = kind == "distillation" or (kind == "sum" and n % 2 == 0)
        signals.append(
            Signal(
                learner,
                prompt,
                action,
                # One in four has no advantage: it is silent, and counts in every mean.
                advantages=np.full(length, 0.0 if n % 4 == 3 else rng.normal()) if rl else None,
                # Sampled by a slightly different policy, so that the ratio is not 1.
                old_logprobs=score.logprobs + rng.normal(0, 0.3, length) if rl else None,
                ce_weights=rng.uniform(0, 1, length) if ce else None,
                teacher_prompt_ids=policy.prompt_ids(TASKS[task], "teacher") if jsd else None,
            )
        )
    return signals


def logprobs_of(model: PreTrainedModel, prompt: tuple[int, ...], action: tuple[int, ...]) -> Tensor:
    logits = model(input_ids=torch.tensor([prompt + action])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1)


def hand_loss(policy: TorchPolicy, signals: list[Signal], max_length: int, how: str) -> Tensor:
    """The sum of the three terms, from their definitions, one sequence at a time."""
    judged = [s for s in signals if s.advantages is not None]
    gated = [s for s in signals if s.ce_weights is not None]
    distilled = [s for s in signals if s.teacher_prompt_ids is not None]
    total = torch.zeros(())

    def chosen(s: Signal) -> Tensor:
        table = logprobs_of(policy.models[s.learner], s.prompt_ids, s.action_ids)
        return table.gather(-1, torch.tensor(s.action_ids)[:, None]).squeeze(-1)

    for s in judged:
        ratio = (chosen(s) - torch.tensor(s.old_logprobs)).exp()
        advantage = torch.tensor(s.advantages)
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        divisor = {
            "grpo": len(s.action_ids) * len(judged),
            "dapo": sum(len(j.action_ids) for j in judged),
            "dr_grpo": max_length * len(judged),
        }[how]
        total = total - surrogate.sum() / divisor
    for s in gated:
        weight_sum = sum(float(np.sum(g.ce_weights)) for g in gated if g.ce_weights is not None)
        total = total - (torch.tensor(s.ce_weights) * chosen(s)).sum() / weight_sum
    for s in distilled:
        assert s.teacher_prompt_ids is not None
        tokens = sum(len(d.action_ids) for d in distilled)
        student = logprobs_of(policy.models[s.learner], s.prompt_ids, s.action_ids)
        with torch.no_grad():
            teacher = logprobs_of(policy.models["teacher"], s.teacher_prompt_ids, s.action_ids)
        m = (0.3 * teacher.exp() + 0.7 * student.exp()).log()
        jsd = 0.3 * (teacher.exp() * (teacher - m)) + 0.7 * (student.exp() * (student - m))
        total = total + jsd.sum() / tokens
    return total


def step_by_hand(policy: TorchPolicy, loss: Callable[[], Tensor], role: Role, steps: int) -> None:
    model = policy.models[role]
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 2)
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def weights(policy: TorchPolicy, role: Role = "student") -> Weights:
    return {k: v.detach().clone() for k, v in policy.models[role].state_dict().items()}


def distance(a: Weights, b: Weights) -> float:
    return max((a[k] - b[k]).abs().max().item() for k in a)


def make_learner(
    policy: TorchPolicy, config: LearnerConfig = CONFIG, how: Aggregation = "grpo"
) -> Learner:
    return Learner(policy, config, PolicyLoss(aggregation=how, max_length=10), Divergence(0.3))


@pytest.mark.parametrize(
    ("kind", "how"),
    [*((kind, "grpo") for kind in KINDS), *((k, h) for k in ("rl", "sum") for h in OTHERS)],
)
def test_loss_and_gradient_equal_those_written_by_hand(
    tiny_base: Path, kind: str, how: Aggregation
) -> None:
    ours, theirs = (tiny_policy(tiny_base, nudge_teacher=True) for _ in range(2))
    signals = make_signals(ours, kind)
    metrics = make_learner(ours, how=how).step(signals)
    loss = hand_loss(theirs, signals, 10, how)
    assert metrics["loss/student"] == pytest.approx(loss.item(), abs=1e-5)
    loss.backward()
    model = theirs.models["student"]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert metrics["grad_norm/student"] == pytest.approx(norm.item(), rel=1e-3)
    for mine, other in zip(ours.models["student"].parameters(), model.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert (mine.grad - other.grad).abs().max().item() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_those_written_by_hand(tiny_base: Path, kind: str) -> None:
    ours, theirs = (tiny_policy(tiny_base, nudge_teacher=True) for _ in range(2))
    signals = make_signals(ours, kind)
    learner = make_learner(ours)
    for _ in range(3):
        learner.step(signals)
    step_by_hand(theirs, lambda: hand_loss(theirs, signals, 10, "grpo"), "student", 3)
    moved = distance(weights(ours), weights(tiny_policy(tiny_base)))
    assert moved > 1e-3
    # Adam turns the sign of a vanishing gradient into a whole step: compare with the distance.
    assert distance(weights(ours), weights(theirs)) < 0.05 * moved


@pytest.mark.parametrize("kind", KINDS)
def test_cutting_into_micro_batches_changes_nothing(tiny_base: Path, kind: str) -> None:
    whole, cut = (tiny_policy(tiny_base, nudge_teacher=True) for _ in range(2))
    signals = make_signals(whole, kind)
    first = make_learner(whole).step(signals)
    second = make_learner(cut, LearnerConfig(tokens_per_batch=1, lr_warmup=2)).step(signals)
    assert second["loss/student"] == pytest.approx(first["loss/student"], abs=1e-6)
    assert second["grad_norm/student"] == pytest.approx(first["grad_norm/student"], rel=1e-4)
    for mine, other in zip(
        whole.models["student"].parameters(), cut.models["student"].parameters(), strict=True
    ):
        assert mine.grad is not None
        assert other.grad is not None
        assert (mine.grad - other.grad).abs().max().item() < 1e-6


def test_no_advantage_anywhere_means_no_update_at_all(tiny_base: Path) -> None:
    """Not even by the optimizer's momentum."""
    policy = tiny_policy(tiny_base)
    signals = make_signals(policy, "rl")
    learner = make_learner(policy)
    learner.step(signals)
    before = weights(policy)
    silent = [
        Signal(
            "student",
            s.prompt_ids,
            s.action_ids,
            advantages=np.zeros(len(s.action_ids)),
            old_logprobs=s.old_logprobs,
        )
        for s in signals
    ]
    assert learner.step(silent) == {}
    assert learner.step([]) == {}
    assert distance(weights(policy), before) == 0.0


@pytest.mark.parametrize("how", get_args(Aggregation))
def test_silent_sequences_count_in_the_mean(tiny_base: Path, how: Aggregation) -> None:
    policy = tiny_policy(tiny_base)
    speaking = [s for s in make_signals(policy, "rl") if s.advantages is not None][:2]
    silent = Signal(
        "student",
        speaking[0].prompt_ids,
        tuple(range(1, 1 + sum(len(s.action_ids) for s in speaking))),
        advantages=np.zeros(sum(len(s.action_ids) for s in speaking)),
        old_logprobs=np.zeros(sum(len(s.action_ids) for s in speaking)),
    )
    alone = make_learner(tiny_policy(tiny_base), how=how).step(speaking)["loss/student"]
    diluted = make_learner(tiny_policy(tiny_base), how=how).step([*speaking, silent])
    # One silent sequence beside two; as many silent tokens as speaking ones.
    share = 1 / 2 if how == "dapo" else 2 / 3
    assert diluted["loss/student"] == pytest.approx(alone * share, rel=1e-4)


def test_imitation_of_gates_that_are_all_shut_moves_nothing(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base)
    before = weights(policy)
    shut = Signal("student", (3, 4), (5, 6), ce_weights=np.zeros(2))
    assert make_learner(policy).step([shut]) == {}
    assert distance(weights(policy), before) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_student_signals_leave_a_separate_teacher_alone(tiny_base: Path, kind: str) -> None:
    policy = tiny_policy(tiny_base, nudge_teacher=True)
    before = weights(policy, "teacher")
    make_learner(policy).step(make_signals(policy, kind))
    assert distance(weights(policy, "teacher"), before) == 0.0
    assert all(p.grad is None for p in policy.models["teacher"].parameters())


def test_teacher_signals_move_the_teacher_alone_at_its_own_rate(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base, nudge_teacher=True)
    student, teacher = weights(policy), weights(policy, "teacher")
    config = LearnerConfig(learning_rate=1e-3, teacher_learning_rate=1e-5, lr_warmup=1)
    make_learner(policy, config).step(make_signals(policy, "rl", "teacher"))
    assert distance(weights(policy), student) == 0.0
    assert 0 < distance(weights(policy, "teacher"), teacher) < 2e-5


def signals_of_both_roles(policy: TorchPolicy) -> list[Signal]:
    return [*make_signals(policy, "rl", "teacher"), *make_signals(policy, "imitation")]


@pytest.mark.parametrize("storage", get_args(Storage))
def test_each_set_of_weights_takes_one_step(tiny_base: Path, storage: Storage) -> None:
    ours, theirs = (tiny_policy(tiny_base, storage=storage) for _ in range(2))
    signals = signals_of_both_roles(ours)
    learner = make_learner(ours)
    metrics = learner.step(signals)
    assert dict(learner.updates) == (
        {"student": 1} if storage in ("shared", "ema") else {"student": 1, "teacher": 1}
    )
    if storage in ("shared", "ema"):  # the sum of both terms, at once
        loss = hand_loss(theirs, signals, 10, "grpo").item()
        moved = {k: v for k, v in metrics.items() if not k.startswith("mismatch/")}
        assert moved == {
            "loss/student": pytest.approx(loss, abs=1e-5),
            "grad_norm/student": metrics["grad_norm/student"],
        }


def test_a_micro_batch_without_distillation_beside_one_with_it(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base)
    signals = make_signals(policy, "distillation")[:1] + make_signals(policy, "imitation")[1:2]
    config = LearnerConfig(tokens_per_batch=1)
    metrics = make_learner(policy, config).step(signals)
    expected = hand_loss(tiny_policy(tiny_base), signals, 10, "grpo").item()
    assert metrics["loss/student"] == pytest.approx(expected, abs=1e-5)


def test_learning_rate_rises_and_stays(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base)
    learner = make_learner(policy, LearnerConfig(learning_rate=0.004, lr_warmup=4))
    signals = make_signals(policy, "imitation")
    rates = []
    for _ in range(6):
        learner.step(signals)
        rates.append(learner.optimizers["student"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.004, 0.004])


@pytest.mark.parametrize(
    ("role", "config", "knob"),
    [
        ("student", LearnerConfig(learning_rate=1e36, lr_warmup=1), "learning_rate"),
        ("teacher", LearnerConfig(learning_rate=1e36, lr_warmup=1), "learning_rate"),
        (
            "teacher",
            LearnerConfig(teacher_learning_rate=1e36, lr_warmup=1),
            "teacher_learning_rate",
        ),
    ],
)
def test_divergence_ends_in_one_sentence_and_moves_nothing(
    tiny_base: Path, role: Role, config: LearnerConfig, knob: str
) -> None:
    policy = tiny_policy(tiny_base)
    learner = make_learner(policy, config)
    signals = make_signals(policy, "imitation", role)
    learner.step(signals)  # finite, and the last step that is
    before = weights(policy, role)
    message = rf"diverged at update 2 of the {role}'s weights \(loss .*\): lower {knob}, now 1e\+36"
    with pytest.raises(PedrlError, match=message):
        learner.step(signals)
    after = weights(policy, role)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert learner.updates[role] == 1


def test_same_seed_gives_the_same_weights_to_the_bit(tiny_base: Path) -> None:
    runs = []
    for _ in range(2):
        policy = tiny_policy(tiny_base)
        learner = make_learner(policy)
        for _ in range(2):
            learner.step(make_signals(policy, "sum"))
        runs.append(weights(policy))
    assert distance(*runs) == 0.0


def test_state_continues_a_run_to_the_bit(tiny_base: Path, tmp_path: Path) -> None:
    whole = tiny_policy(tiny_base)
    learner = make_learner(whole)
    signals = signals_of_both_roles(whole)
    learner.step(signals)
    torch.save({"models": whole.state(), "learner": learner.state()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torn = tiny_policy(tiny_base)
    torn.load_state(state["models"])
    resumed = make_learner(torn)
    resumed.load_state(state["learner"])
    for one in (learner, resumed):
        one.step(signals)
        one.step(signals)
    for role in ("student", "teacher"):
        assert distance(weights(whole, role), weights(torn, role)) == 0.0
    assert resumed.updates == learner.updates


def test_state_from_before_the_first_update_forgets_it(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base)
    learner, signals = make_learner(policy), make_signals(policy, "sum")
    weights_then, learner_then = copy.deepcopy((policy.state(), learner.state()))
    ends = []
    for _ in range(2):
        learner.step(signals)
        ends.append(weights(policy))
        policy.load_state(weights_then)
        learner.load_state(learner_then)
    assert distance(*ends) == 0.0
    assert not learner.updates


@pytest.mark.parametrize("storage", get_args(Storage))
def test_an_update_shows_in_the_stamp_of_every_role_it_moves(
    storage: Storage, tiny_base: Path
) -> None:
    policy = tiny_policy(tiny_base, storage=storage)
    learner, stamps = make_learner(policy), set()
    for _ in range(3):
        stamps.add(policy.stamp("student"))
        teacher = policy.stamp("teacher")
        learner.step(make_signals(policy, "imitation"))
        follows = storage in ("shared", "ema")
        assert (policy.stamp("teacher") != teacher) == follows
    assert len(stamps | {policy.stamp("student")}) == 4


def test_several_threads_repeat_their_steps_to_the_bit(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base)
    # So wide that torch's operations are shared out among threads.
    config = copy.copy(policy.models["student"].config)
    assert isinstance(config, LlamaConfig)
    config.hidden_size = config.intermediate_size = 768
    torch.manual_seed(0)
    first = LlamaForCausalLM(config).eval()
    ends, draws, threads = [], [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(3):
            model = copy.deepcopy(first)
            policy.models = dict.fromkeys(policy.models, model)
            learner = make_learner(policy)
            for _ in range(2):
                learner.step(make_signals(policy, "sum"))
            ends.append(weights(policy))
            draws.append(sampled(policy))
    finally:
        torch.set_num_threads(threads)
    assert distance(*ends[:2]) == distance(*ends[1:]) == 0.0
    assert draws[0] == draws[1] == draws[2]
