"""What the processes of `test_distributed` do; the same code does it in one process."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from pedrl_agents.adapters import Lora
from pedrl_agents.distributed import (
    ShardedLearner,
    ShardedPolicy,
    complete,
    gather,
    join,
    joined,
    leave,
    rank,
)
from pedrl_agents.learner import Learner, LearnerConfig
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.torch_policy import Sampling, Storage, TorchPolicy, load_policy
from pedrl_env.records import GenerationRequest, Group, Role, Signal, TokenScores
from pedrl_env.rollout import rollout
from pedrl_env.verifier import Verifier
from pedrl_experiments import cli
from pedrl_experiments.launch import together
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.lexicon import Lexicon

CASES: dict[str, tuple[Storage, float]] = {  # storage, weight of the KL
    "separate": ("separate", 0.1),
    "shared": ("shared", 0.0),
    "ema": ("ema", 0.0),
    "lora": ("lora", 0.1),
}
TASKS = Lexicon(coined=2).tasks("train")[:3]
STEPS = 3


@dataclass(frozen=True, slots=True)
class Trained:
    """What is left of a few updates: metrics of each, and all state, whole."""

    metrics: list[dict[str, float]]
    models: dict[str, dict[str, torch.Tensor]]
    learner: dict[str, Any]


def signals_of(policy: TorchPolicy, step: int) -> list[Signal]:
    """Ragged answers, with each kind of term; one alone has a teacher's distributions for target.

    In the last step there are fewer sequences than processes.
    """
    rng = np.random.default_rng(step)
    signals = []
    for n in range(7 if step < STEPS - 1 else 1):
        learner: Role = "teacher" if n % 3 == 2 and policy.storage != "ema" else "student"
        length = int(rng.integers(2, 9))
        view = policy.prompt_ids(TASKS[n % 3], "teacher")
        signals.append(
            Signal(
                learner,
                policy.prompt_ids(TASKS[n % 3], learner),
                tuple(rng.integers(5, 100, length).tolist()),
                advantages=rng.normal(size=length) if n % 2 == 0 else None,
                old_logprobs=rng.normal(-3, 0.3, length) if n % 2 == 0 else None,
                ce_weights=rng.uniform(size=length) if n % 2 else None,
                teacher_prompt_ids=view if n == 4 else None,
            )
        )
    return signals


def learner_of(base: Path, name: str) -> tuple[TorchPolicy, Learner]:
    """Load a policy and its learner, sharded if this process has joined others."""
    storage, kl = CASES[name]
    config = LearnerConfig(learning_rate=1e-3, lr_warmup=0, tokens_per_batch=96, lora=Lora(rank=2))
    torch.set_num_threads(1)
    kind = ShardedPolicy if joined() else TorchPolicy
    policy = load_policy(base, Sampling(8), storage, lora=config.lora, kind=kind)
    made = ShardedLearner if joined() else Learner
    return policy, made(policy, config, PolicyLoss(kl=kl), Divergence())


def train(base: Path, name: str, then: Trained | None = None) -> Trained:
    """Make a few updates, from the base or from what others left."""
    policy, learner = learner_of(base, name)
    if then is not None:
        policy.load_state(then.models)
        learner.load_state(then.learner)
    metrics = [learner.step(signals_of(policy, step)) for step in range(STEPS)]
    return Trained(metrics, policy.state(), learner.state())


def train_together(base: Path, out: Path) -> None:
    """Train each case, then go on from that; and say how much of the weights each process has."""
    join()
    for name in CASES:
        left = train(base, name)
        parts = gather(left if rank() == 0 else None)
        again = train(base, name, parts[0])
        if rank() == 0:
            torch.save((left, again), out / f"{name}.pt")
    leave()


def held(base: Path, out: Path) -> None:
    """Write down the numbers that this process holds of weights, gradients and moments."""
    join()
    policy, learner = learner_of(base, "separate")
    learner.step(signals_of(policy, 0))
    counts = {}
    for role, model in policy.models.items():
        weights = list(model.parameters())
        state = learner.optimizers[role].state
        tensors: dict[str, list[Any]] = {
            "weights": weights,
            "gradients": [w.grad for w in weights],
            "moments": [state[w]["exp_avg"] for w in weights],
        }
        assert all(isinstance(t, DTensor) for kind in tensors.values() for t in kind)
        counts[role] = {
            kind: sum(t.to_local().numel() for t in of_kind) for kind, of_kind in tensors.items()
        }
        counts[role]["all"] = sum(w.numel() for w in weights)
    torch.save(counts, out / f"held{rank()}.pt")
    leave()


def sample_together(base: Path, out: Path) -> None:
    """Sample groups of both roles, judge them and let the student read them; save the model."""
    join()
    policy, _ = learner_of(base, "lora")
    for name, weight in policy.models["teacher"].named_parameters():
        if ".lora_B." in name:
            with torch.no_grad():
                weight.add_(0.3)
    roles: tuple[Role, ...] = ("student", "teacher", "teacher")
    requests = [GenerationRequest(t, r, 3) for t, r in zip(TASKS, roles, strict=True)]
    with Verifier("zygote", workers=1) as verifier:
        groups: list[Group] = complete(
            rollout(requests, policy, verifier, seed=5, policy_version=0)
        )
    pairs = [(t.turns[0].prompt_ids, t.turns[0].action_ids) for g in groups for t in g.trajectories]
    scores: list[TokenScores] = policy.score("teacher", pairs)
    policy.save("teacher", out / "saved")
    torch.save((groups, scores), out / f"sampled{rank()}.pt")
    leave()


def command(words: list[str]) -> None:
    """Run ``pedrl``."""
    sys.argv = ["pedrl", *words]
    cli.main()


def fail(failing: tuple[int, ...], killed: bool = False) -> None:
    """Fail in some of the processes, or kill the last, while the others wait for them."""
    try:
        with together("compare"):
            if killed and rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if rank() in failing:
                raise PedrlError("no luck: try again")
            gather(None)
    except PedrlError as error:
        print(f"pedrl: {error}", flush=True)  # noqa: T201
        sys.exit(2)
