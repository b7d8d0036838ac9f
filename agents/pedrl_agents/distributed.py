"""One run over several GPUs: a process for each runs the same loop, on its share of the work.

A launcher starts them (``torchrun``, or ``accelerate launch --use_fsdp``). Weights, gradients and
AdamW's moments are sharded by FSDP2, layer by layer. While a model samples, scores or learns, its
weights are gathered: then no process waits for another within a pass, so shares need not be alike,
and what they compute may take as many passes as it likes. Gradients are summed once per update.
The frozen base beneath adapters is not sharded: it works all the time, for both of them.

Every process knows all rollouts and all scores of a step, and so decides alike what comes next. A
row's draws depend on its request and number alone: how many processes there are changes rounding.
"""

import dataclasses
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from pedrl_agents.decoding import Draws, Ints
from pedrl_agents.forward import Pair
from pedrl_agents.learner import Learner, LearnerConfig, Normalisers
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.torch_policy import ROLES, TorchPolicy
from pedrl_env.policy import Ended
from pedrl_env.records import GenerationRequest, Group, Role, Signal, TokenScores, Turn
from pedrl_sandbox.errors import PedrlError

_FAILED: Final = "pedrl/failed"
T = TypeVar("T")


def joined() -> bool:
    """Whether a launcher started this process, and it joined the others."""
    # Not that alone: a vLLM engine makes a process group of its own, of one.
    return dist.is_initialized() and "RANK" in os.environ


def rank() -> int:
    """Number this process, from 0."""
    return dist.get_rank() if joined() else 0


def world() -> int:
    """Count the processes of the run."""
    return dist.get_world_size() if joined() else 1


@cache
def _store() -> Any:
    """Return the launcher's store, which outlives any of its processes."""
    store, _, _ = next(rendezvous("env://"))
    return store


def join() -> None:
    """Take part in the run that a launcher started, on the GPU that it assigned, if there are any.

    Raises:
        PedrlError: there are fewer GPUs than processes on this machine.
    """
    # Each process loads weights by itself: accelerate would leave all but one without data.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    local, backend = int(os.environ["LOCAL_RANK"]), "gloo"
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise PedrlError(
                f"process {local} of this machine has no GPU of its own, there are "
                f"{torch.cuda.device_count()}: launch one process per GPU"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    world_size = int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        backend, store=_store(), rank=int(os.environ["RANK"]), world_size=world_size
    )


def leave() -> None:
    """End together with the other processes."""
    dist.barrier()
    if "vllm" not in sys.modules:  # which does that itself, at exit, after its own groups
        dist.destroy_process_group()


def first_to_fail() -> bool:
    """Whether no other process of the run has failed yet: one of them is to say why."""
    try:
        return int(_store().add(_FAILED, 1)) == 1
    except dist.DistError:  # its holder is gone, so another one failed before
        return False


def is_loss(error: Exception) -> bool:
    """Whether an error says that another process is gone."""
    # gloo has no error of its own: its connections are closed, or reset, by the other one
    return isinstance(error, dist.DistError) or "by peer" in str(error)


def gather(mine: T) -> list[T]:
    """Return what each process has, in their order, on all of them."""
    if not joined():
        return [mine]
    everyone: list[T] = [mine] * world()
    dist.all_gather_object(everyone, mine)
    return everyone


def totals(mine: Mapping[str, float]) -> dict[str, float]:
    """Add up what each process spent."""
    everyone = gather(dict(mine))
    return {name: sum(spent[name] for spent in everyone) for name in mine}


@contextmanager
def in_turns() -> Iterator[None]:
    """Let the first process do something, and the others once it is done."""
    if rank() > 0:
        gather(None)
    yield
    if joined() and rank() == 0:
        gather(None)


def complete(groups: Sequence[Group]) -> list[Group]:
    """Put in the rollouts that other processes sampled; see `ShardedPolicy.generate`."""
    parts = gather([g.trajectories for g in groups])
    return [
        dataclasses.replace(g, trajectories=parts[i % len(parts)][i]) for i, g in enumerate(groups)
    ]


def shard(model: PreTrainedModel, whole: Collection[nn.Parameter] = ()) -> None:
    """Leave this process its share of each parameter, layer by layer, on its device.

    Args:
        model: on any device.
        whole: parameters that are moved and not sharded.

    Raises:
        PedrlError: the model does not say which of its modules are layers.
    """
    names = model._no_split_modules or ()
    layers = [m for m in model.modules() if type(m).__name__ in names]
    if not layers:
        raise PedrlError(
            f"models like {model.config.model_type} cannot be sharded over several GPUs: "
            "transformers does not say what their layers are"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for weight in whole:
        weight.data = weight.data.to(device)
    mesh = init_device_mesh(device, (world(),))
    for module in [*layers, model]:
        fully_shard(module, mesh=mesh, ignored_params=set(whole))
    assert isinstance(model, FSDPModule)
    # Which module is the root is found out by the first pass; ours begin beneath it.
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)
    model.set_reshard_after_forward(False)
    model.set_reshard_after_backward(False)
    _reshard(model)


def _reshard(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def whole(models: Iterable[PreTrainedModel]) -> Iterator[None]:
    """Gather the weights of models for a while. All processes must do it at once."""
    distinct = list({id(m): m for m in models}.values())
    try:
        for model in distinct:
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    module.unshard()
        yield
    finally:
        for model in distinct:
            _reshard(model)


def _unsharded(tree: Any) -> Any:
    """Gather all tensors of a tree, into the memory of the first process's host."""

    def full(tensor: DTensor) -> Tensor | None:
        gathered = tensor.full_tensor()
        return gathered.cpu() if rank() == 0 else None

    return tree_map_only(DTensor, full, tree)


def _like(value: Any, weight: DTensor) -> Any:
    """Shard a tensor as a weight of its shape is; leave everything else."""
    if not isinstance(value, Tensor) or value.shape != weight.shape:
        return value
    return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)


class Streams:
    """Draws of a stream for each row: splitmix64 (Steele et al., 2014) of its seed and a count."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        unsigned = np.array(seeds, dtype=np.uint64)
        self._keys = torch.from_numpy(unsigned.view(np.int64)).to(device)

    def __call__(self, rows: Ints) -> Tensor:
        """Return (B, 1) uniform on [0, 1); see `decoding.Draws`."""
        self._keys = self._keys - 0x61C8864680B583EB  # plus 2^64 / phi, modulo 2^64
        x = self._keys[torch.as_tensor(rows, device=self._keys.device)]
        x = (x ^ _shifted(x, 30)) * -0x40A7B892E31B1A47
        x = (x ^ _shifted(x, 27)) * -0x6B2FB644ECCEEE15
        x = x ^ _shifted(x, 31)
        return (_shifted(x, 11).double() * 2.0**-53)[:, None]


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift to the right without the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class ShardedPolicy(TorchPolicy):
    """A policy each of whose processes samples and scores a share, with weights that are gathered.

    `ShardedLearner` shards its models.
    """

    _mine: Sequence[int] = ()  # numbers of the requests that this process samples
    _stamps: Mapping[Role, tuple[int, ...]] = {}

    @staticmethod
    def loads_to(device: torch.device) -> torch.device:
        """Load into the host's memory: layers go to the device when they are sharded."""
        return torch.device("cpu")

    def generate(
        self, requests: Sequence[GenerationRequest], seed: int, ended: Ended | None = None
    ) -> list[list[Turn]]:
        """Sample every n-th request, and no turns for the others; see `complete`."""
        self._mine = range(rank(), len(requests), world())
        roles = [role for role in ROLES if any(r.role == role for r in requests)]
        self._stamps = {role: super(ShardedPolicy, self).stamp(role) for role in roles}

        def told(index: int, sample: int, turn: Turn) -> None:
            if ended is not None:
                ended(self._mine[index], sample, turn)

        turns: list[list[Turn]] = [[] for _ in requests]
        with whole(self.models[role] for role in roles):
            mine = super().generate([requests[i] for i in self._mine], seed, told)
        for i, sampled in zip(self._mine, mine, strict=True):
            turns[i] = sampled
        return turns

    def _row_seeds(self, seed: int, role: Role, places: Sequence[tuple[int, int]]) -> Sequence[int]:
        sequences = (
            np.random.SeedSequence((seed, ROLES.index(role), self._mine[i], n)) for i, n in places
        )
        return [int(s.generate_state(1, np.uint64)[0]) >> 1 for s in sequences]

    def _draws(self, generator: torch.Generator, seeds: Sequence[int]) -> Draws:
        return Streams(seeds, generator.device)

    def score(self, role: Role, pairs: Sequence[Pair]) -> list[TokenScores]:
        """Score a share of the pairs, and gather the others' scores."""
        cuts = [len(pairs) * i // world() for i in range(world() + 1)]
        with whole([self.models[role]]):
            mine = super().score(role, pairs[cuts[rank()] : cuts[rank() + 1]])
        return [scores for part in gather(mine) for scores in part]

    def stamp(self, role: Role) -> tuple[int, ...]:
        """Return that of the shards: gathered weights do not count their versions."""
        return self._stamps[role]

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights of every distinct model, whole, to the first process."""
        state: dict[str, dict[str, Tensor]] = _unsharded(super().state())
        return state

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take up weights that `state` returned, of however many processes."""
        sharded = {}
        for role, weights in state.items():
            own = self.models[role].state_dict()  # type: ignore[index]
            sharded[role] = {name: _like(weight, own[name]) for name, weight in weights.items()}
        super().load_state(sharded)

    def save(self, role: Role, folder: Path) -> None:
        """Write one role as an ordinary Hugging Face folder, from the first process."""
        with whole([self.models[role]]):
            if rank() == 0:
                super().save(role, folder)


class ShardedLearner(Learner):
    """A learner each of whose processes passes over a share of the micro-batches.

    It shards the models of its policy.
    """

    def __init__(
        self,
        policy: TorchPolicy,
        config: LearnerConfig,
        policy_loss: PolicyLoss,
        divergence: Divergence,
    ) -> None:
        super().__init__(policy, config, policy_loss, divergence)
        models = [*policy.models.values(), *([self.reference] if self.reference else [])]
        for model in {id(m): m for m in models}.values():
            frozen = [w for w in model.parameters() if not w.requires_grad]
            shard(model, frozen if policy.storage == "lora" else ())

    def _accumulate(self, role: Role, batches: list[list[Signal]], norms: Normalisers) -> float:
        model = self.policy.models[role]
        assert isinstance(model, FSDPModule)
        passing = [model, *([self.reference] if self.reference else [])]
        if norms.distilled:
            passing.append(self.policy.models["teacher"])
        with whole(passing):
            model.set_requires_gradient_sync(False)
            total = super()._accumulate(role, batches[rank() :: world()], norms)
            # FSDP sums gradients in backward passes: so all make one more, of one token, for 0.
            model.set_requires_gradient_sync(True)
            token = torch.zeros(1, 1, dtype=torch.long, device=self.policy.device)
            (0.0 * model(input_ids=token, use_cache=False).logits.sum()).backward()
        for weight in model.parameters():
            if weight.grad is not None:
                weight.grad.mul_(world())  # FSDP divided by it
        everyone = gather((total, {r: torch.cat(rows).cpu() for r, rows in self._apart.items()}))
        self._apart.clear()
        for _, apart in everyone:
            for learner, rows in apart.items():
                self._apart[learner].append(rows)
        return sum(loss for loss, _ in everyone)

    def _clip(self, model: PreTrainedModel) -> float:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), self.config.max_grad_norm)
        assert isinstance(norm, DTensor)
        return float(norm.full_tensor())

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, whole, to the first process; weights excluded."""
        state: dict[str, Any] = _unsharded(super().state())
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the state of an interrupted run, of however many processes."""
        optimizers = {}
        for role, saved in state["optimizers"].items():
            weights = self._optimizer(role).param_groups[0]["params"]
            moments = {
                i: {name: _like(value, weights[i]) for name, value in of_weight.items()}
                for i, of_weight in saved["state"].items()
            }
            optimizers[role] = {**saved, "state": moments}
        super().load_state({**state, "optimizers": optimizers})
