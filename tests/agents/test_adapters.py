"""LoRA storage: one base, an adapter per role, and nothing that leaks from one to the other."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from pedrl_agents.adapters import Lora, bare, ordinary, whole_weights
from pedrl_agents.algorithm import Algorithm, State
from pedrl_agents.algorithms.grpo import GRPO
from pedrl_agents.algorithms.opsd import OPSD
from pedrl_agents.algorithms.pedagogical import Pedagogical
from pedrl_agents.learner import Learner, LearnerConfig
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.torch_policy import Sampling, TorchPolicy, load_policy
from pedrl_env.records import GenerationRequest, Role, Signal, Status
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.lexicon import Lexicon, style_of
from tests.agents.conftest import MakeGroups
from tests.tiny import tiny_policy

TASKS = Lexicon(coined=2).tasks("train")[:3]
LORA = Lora(rank=4, alpha=8.0)
ROWS: list[list[Status]] = [["passed", "failed", "passed"], ["failed", "passed", "failed"]]
PAIRS = [((3, 4, 5), (6, 7)), ((8, 9), (10, 11, 12))]
ROLES: tuple[Role, ...] = ("student", "teacher")


def adapted(base: Path, *, nudge: bool = False) -> TorchPolicy:
    """The tiny base under two adapters; `nudge` moves both away from it, each its own way."""
    torch.set_num_threads(1)
    policy = load_policy(base, Sampling(12), "lora", lora=LORA)
    if nudge:
        generator = torch.Generator().manual_seed(3)
        for weights in policy.state().values():
            for name, weight in weights.items():
                if ".lora_B." in name:
                    weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return policy


def copied(policy: TorchPolicy) -> dict[str, dict[str, Tensor]]:
    return {r: {k: w.clone() for k, w in s.items()} for r, s in policy.state().items()}


def moved(policy: TorchPolicy, before: dict[str, dict[str, Tensor]]) -> set[str]:
    return {
        role
        for role, weights in policy.state().items()
        if any(not torch.equal(w, before[role][name]) for name, w in weights.items())
    }


def scores(policy: TorchPolicy, role: Role) -> list[list[float]]:
    return [s.logprobs.tolist() for s in policy.score(role, PAIRS)]


def learner_of(policy: TorchPolicy, method: Algorithm, kl: float = 0.0) -> Learner:
    loss = dataclasses.replace(method.policy_loss, kl=kl)
    return Learner(policy, LearnerConfig(lora=LORA), loss, method.divergence)


def test_an_untouched_adapter_is_the_base_to_the_bit(tiny_base: Path) -> None:
    policy, plain = adapted(tiny_base), tiny_policy(tiny_base)
    for role in ROLES:
        assert scores(policy, role) == scores(plain, role)
        requests = [GenerationRequest(t, role, 3) for t in TASKS]
        assert policy.generate(requests, 5) == plain.generate(requests, 5)


def test_the_base_is_held_once_and_frozen(tiny_base: Path) -> None:
    policy = adapted(tiny_base)
    student, teacher = (dict(policy.models[r].named_parameters()) for r in ROLES)
    plain = dict(tiny_policy(tiny_base).models["student"].named_parameters())
    base = {n: w for n, w in student.items() if ".lora_" not in n}
    assert sum(w.numel() for w in base.values()) == sum(w.numel() for w in plain.values())
    for name, weight in base.items():
        assert teacher[name] is weight
        assert not weight.requires_grad
    reference = dict(bare(policy.models["student"]).named_parameters())
    assert {id(w) for w in reference.values()} == {id(w) for w in base.values()}
    own = {r: {n for n, w in policy.models[r].named_parameters() if w.requires_grad} for r in ROLES}
    assert {role: set(weights) for role, weights in policy.state().items()} == own
    assert not {id(student[n]) for n in own["student"]} & {id(teacher[n]) for n in own["teacher"]}


@pytest.mark.parametrize("role", ROLES)
def test_teaching_one_role_moves_its_adapter_only(tiny_base: Path, role: Role) -> None:
    policy = adapted(tiny_base)
    before, other = copied(policy), "teacher" if role == "student" else "student"
    base = {n: w.clone() for n, w in bare(policy.models["student"]).named_parameters()}
    signal = Signal(role, (3, 4, 5), (6, 7), ce_weights=torch.ones(2).numpy())
    learner_of(policy, Pedagogical()).step([signal])
    assert moved(policy, before) == {role}
    assert all(w.grad is None for w in policy.models[other].parameters())  # type: ignore[index]
    now = dict(bare(policy.models["student"]).named_parameters())
    assert all(torch.equal(base[n], now[n]) for n in base)


@pytest.mark.parametrize(
    ("method", "role", "learns"),
    [
        (Pedagogical(warmup=0, storage="lora"), "teacher", {"student", "teacher"}),
        (GRPO(storage="lora"), "student", {"student"}),
        (OPSD(storage="lora"), "student", {"student"}),
    ],
)
def test_steps_of_methods_move_who_learns_and_the_same_seed_gives_the_same_weights(
    tiny_base: Path, make_groups: MakeGroups, method: Algorithm, role: Role, learns: set[str]
) -> None:
    assert method.storage == "lora"
    runs = []
    for _ in range(2):
        policy = adapted(tiny_base)
        before = copied(policy)
        learner = learner_of(policy, method)
        for step in range(2):
            groups = make_groups(role, ROWS)
            learner.step(method.signal(groups, policy, State(step, 9, style_of)).signals)
        assert moved(policy, before) == learns
        runs.append(copied(policy))
    assert moved(policy, runs[0]) == set()


@pytest.mark.parametrize("role", ROLES)
def test_gradients_under_an_adapter_equal_those_written_by_hand(
    tiny_base: Path, role: Role
) -> None:
    """The teacher is read between forward and backward, and logits are made twice."""
    policy, plain = adapted(tiny_base, nudge=True), adapted(tiny_base, nudge=True)
    view = policy.prompt_ids(TASKS[0], "teacher")
    signal = Signal(role, (3, 4, 5), (6, 7, 8), teacher_prompt_ids=view)
    config = LearnerConfig(logits_per_chunk=1, lora=LORA)
    Learner(policy, config, PolicyLoss(), Divergence(0.0)).step([signal])

    def logprobs(which: Role, prompt: tuple[int, ...]) -> Tensor:
        ids = torch.tensor([prompt + signal.action_ids])
        logits: Tensor = plain.models[which](input_ids=ids).logits
        return logits[0, len(prompt) - 1 : -1].log_softmax(-1)

    with torch.no_grad():
        teacher = logprobs("teacher", view)
    loss = (teacher.exp() * (teacher - logprobs(role, (3, 4, 5)))).sum() / 3
    loss.backward()
    by_hand = {n: w for n, w in plain.models[role].named_parameters() if w.requires_grad}
    torch.nn.utils.clip_grad_norm_(by_hand.values(), 1.0)
    for name, weight in policy.models[role].named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None
            expected = by_hand[name].grad
            assert expected is not None
            assert torch.allclose(weight.grad, expected, atol=1e-5)


def test_the_reference_of_the_kl_is_the_base(tiny_base: Path) -> None:
    """What the adapter has learned so far does not move it."""
    policy = adapted(tiny_base)
    learner = learner_of(policy, GRPO(), kl=0.5)
    policy.load_state(copied(adapted(tiny_base, nudge=True)))
    prompt, action = PAIRS[0]
    signal = Signal(
        "student",
        prompt,
        action,
        advantages=torch.zeros(2).numpy(),
        old_logprobs=policy.score("student", PAIRS[:1])[0].logprobs,
    )
    then = tiny_policy(tiny_base).score("student", PAIRS[:1])[0].logprobs
    gap = torch.tensor(then - policy.score("student", PAIRS[:1])[0].logprobs)
    k3 = (gap.exp() - gap - 1).mean().item()
    assert k3 > 1e-4
    assert learner.step([signal])["loss/student"] == pytest.approx(0.5 * k3, rel=1e-3)


def test_state_continues_a_run_to_the_bit(tiny_base: Path, tmp_path: Path) -> None:
    def step(policy: TorchPolicy, learner: Learner) -> None:
        for role in ROLES:
            learner.step([Signal(role, *PAIRS[1], ce_weights=torch.ones(3).numpy())])

    whole = adapted(tiny_base)
    learner = learner_of(whole, Pedagogical())
    step(whole, learner)
    torch.save({"models": whole.state(), "learner": learner.state()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torn = adapted(tiny_base)
    torn.load_state(state["models"])
    resumed = learner_of(torn, Pedagogical())
    resumed.load_state(state["learner"])
    for policy, one in ((whole, learner), (torn, resumed)):
        step(policy, one)
    assert moved(torn, copied(whole)) == set()


@pytest.mark.parametrize("role", ROLES)
def test_a_saved_adapter_is_an_ordinary_model(tiny_base: Path, tmp_path: Path, role: Role) -> None:
    policy = adapted(tiny_base, nudge=True)
    base = {n: w.clone() for n, w in bare(policy.models["student"]).named_parameters()}
    policy.save(role, tmp_path / "saved")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert not any("lora" in name for name, _ in model.named_parameters())
    again = load_policy(tmp_path / "saved", Sampling(), "shared")
    for mine, theirs in zip(scores(again, "student"), scores(policy, role), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    # Merging left the base and both adapters as they were.
    now = dict(bare(policy.models["student"]).named_parameters())
    assert all(torch.equal(base[n], now[n]) for n in base)
    assert moved(policy, copied(adapted(tiny_base, nudge=True))) == set()


def test_buffers_and_ways_to_generate_are_saved_too(tmp_path: Path) -> None:
    shape = dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_group"), 2)
    shape |= dict.fromkeys(("hidden_size", "intermediate_size", "moe_intermediate_size"), 8)
    shape |= {"num_hidden_layers": 1, "first_k_dense_replace": 0, "n_routed_experts": 4}
    shape |= {"num_experts_per_tok": 2, "topk_group": 1, "vocab_size": 16}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("deepseek_v3", **shape))
    bias = "model.layers.0.mlp.gate.e_score_correction_bias"
    model.get_buffer(bias).copy_(torch.arange(4.0))
    model.generation_config.update(do_sample=True, top_k=7)
    assert {n for n, _ in whole_weights(model)} == set(model.state_dict())
    ordinary(model).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.get_buffer(bias).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert again.generation_config.top_k == 7


def test_targets_by_name(tiny_base: Path) -> None:
    lora = Lora(rank=2, targets="q_proj, v_proj")
    state = load_policy(tiny_base, Sampling(), "lora", lora=lora).state()["teacher"]
    assert {name.split(".")[4] for name in state} == {"q_proj", "v_proj"}
    assert {min(w.shape) for w in state.values()} == {2}
    with pytest.raises(PedrlError, match=r"lora\.targets='wug' does not fit this model: .*wug"):
        load_policy(tiny_base, Sampling(), "lora", lora=Lora(targets="wug"))
