"""The training loop: one run of one method with one seed, from base model to final evaluation.

Everything an algorithm does not see is here: the task stream, rollouts, verification, budgets,
evaluation, logging, checkpoints. The task stream and the evaluation draws depend on the seed alone,
so every method of a comparison meets the same tasks in the same order.
"""

import hashlib
import random
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from pedrl_agents.algorithm import FollowsUp, State
from pedrl_agents.distributed import (
    ShardedLearner,
    ShardedPolicy,
    complete,
    gather,
    joined,
    rank,
    totals,
)
from pedrl_agents.engine import Engine
from pedrl_agents.forward import Pair
from pedrl_agents.learner import Learner
from pedrl_agents.mechanism import rollout_metrics
from pedrl_agents.torch_policy import Sampling, TorchPolicy, load_policy
from pedrl_agents.views import Context
from pedrl_agents.vllm_engine import vllm_engine
from pedrl_agents.vllm_server import vllm_server
from pedrl_env.records import GenerationRequest, Group, MetricsRow, Split, Task, TaskResult
from pedrl_env.registry import make_suite
from pedrl_env.rollout import Sampled, rollout
from pedrl_env.suite import Suite
from pedrl_env.verifier import Verifier
from pedrl_experiments.bases import base_path
from pedrl_experiments.config import CompareConfig, build_method, build_vllm
from pedrl_experiments.store import RunStore
from pedrl_sandbox.errors import PedrlError

CHECKPOINT_EVERY = 10  # steps


@dataclass(frozen=True, slots=True)
class RunKey:
    """One run of a comparison."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """Folder and display name."""
        return f"{self.method}-s{self.seed}"


@dataclass(slots=True)
class Budget:
    """What a run has spent so far; cumulative, and carried across resumes.

    `cpu_s` is this process's own, or that of all which train together; what is logged under that
    name has the sandbox's added.
    """

    axis: int = 0  # rollouts, or for methods that sample none, what their steps would have cost
    rollouts: int = 0
    sampled_tokens: int = 0
    demonstrations: int = 0
    infra_errors: int = 0
    executions: int = 0
    cache_hits: int = 0
    processed_tokens: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    sandbox_cpu_s: float = 0.0


class Run:
    """One run in progress. `train` is the whole story; the rest is bookkeeping."""

    def __init__(self, config: CompareConfig, key: RunKey, store: RunStore) -> None:
        self.config, self.key, self.store = config, key, store
        self.suite: Suite = make_suite(config.suite, dict(config.dials))
        self.algorithm, learner_config = build_method(key.method, config.knobs(key.method))
        self.policy = load_policy(
            base_path(config),
            Sampling(config.max_new_tokens, config.temperature, config.rows_per_batch),
            self.algorithm.storage,
            _context(config),
            learner_config.lora,
            config.prompt_format,
            _engine(config),
            learner_config.tokens_per_batch,
            learner_config.logits_per_chunk,
            learner_config.precision,
            ShardedPolicy if joined() else TorchPolicy,
        )
        self.learner = (ShardedLearner if joined() else Learner)(
            self.policy, learner_config, self.algorithm.policy_loss, self.algorithm.divergence
        )
        # Runs fill the cores, but one that waits for verdicts waits for these alone.
        self.verifier = Verifier(config.sandbox, workers=2)
        self.budget = Budget()
        self.times: defaultdict[str, float] = defaultdict(float)
        per_step = config.tasks_per_step * self.algorithm.group_size
        self.steps = config.budget // per_step
        # In rollouts, because a method that follows up pays more for some steps than for others.
        self.eval_marks = [
            round(i * self.steps / (config.eval_points + 1)) * per_step
            for i in range(config.eval_points + 1)
        ]
        self.evaluated = 0  # marks
        self.replay: tuple[Pair, ...] = ()
        self.step = 0
        self.score = float("nan")
        self._evaluation: Sampled | None = None
        self._since = self._meters()

    def train(self, tell: Callable[[int, int, float], None]) -> None:
        """Train to the budget; `tell` hears (step, steps, pass@1) after every step."""
        self._restore()
        stream = _task_stream(self.suite.tasks("train"), self.config.tasks_per_step, self.key.seed)
        batches = [next(stream) for _ in range(self.steps)]
        while not self.spent:
            due = sum(mark <= self.budget.axis for mark in self.eval_marks)
            if due > self.evaluated:
                self.evaluated = due
                self.begin_evaluation(self.config.eval_tasks, self.config.eval_samples)
            self.advance(batches[self.step])
            if self.step % CHECKPOINT_EVERY == 0 and not self.spent:
                self._checkpoint()
            tell(self.step, self.steps, self.score)
        self.begin_evaluation(self.config.final_tasks, self.config.final_samples)
        self.end_evaluation()
        self._log({})
        self.policy.save("student", self.store.folder / "final")
        tell(self.step, self.steps, self.score)

    @property
    def spent(self) -> bool:
        """Whether another step would overrun the budget."""
        per_step = self.config.tasks_per_step * self.algorithm.group_size
        return self.budget.axis + per_step > self.config.budget

    def advance(self, tasks: Sequence[Task]) -> dict[str, float]:
        """Make one step, log it, and return its metrics."""
        metrics = self.train_step(tasks)
        self.step += 1
        self._log(metrics)
        return metrics

    def train_step(self, tasks: Sequence[Task]) -> dict[str, float]:
        """Sample, verify, assign credit, learn; return the step's metrics."""
        state = State(self.step, self.steps, self.suite.style, self.replay)
        with self._timed("sampling"):
            groups = self._rollouts(self.algorithm.plan(tasks, state), "train")
            groups += self._follow_ups(groups, len(tasks), state)
        with self._timed("scoring"):
            annotation = self.algorithm.signal(groups, self.policy, state)
        self.replay = annotation.replay
        with self._timed("learning"):
            losses = self.learner.step(annotation.signals)
        self.end_evaluation()
        self._charge(groups, annotation.demonstrations, len(tasks))
        self.store.trajectories(self.step, groups)
        return {**rollout_metrics(groups, self.suite.style), **annotation.metrics, **losses}

    def _rollouts(self, requests: Sequence[GenerationRequest], purpose: str) -> list[Group]:
        seed = _seed(purpose, self.key.seed, self.step)
        return complete(
            rollout(requests, self.policy, self.verifier, seed=seed, policy_version=self.step)
        )

    def _follow_ups(self, first: Sequence[Group], tasks: int, state: State) -> list[Group]:
        """Sample what the algorithm asks for on seeing a step's rollouts, if the budget allows."""
        groups: list[Group] = []
        if not isinstance(self.algorithm, FollowsUp):
            return groups
        left = self.config.budget - self.budget.axis - sum(len(g.trajectories) for g in first)
        known = self.suite.tasks("train")
        known = [*known] * -(-tasks // len(known))  # a step may have more than there are
        attempt = 0
        while True:
            rng = random.Random(_seed(f"spare/{attempt}", self.key.seed, self.step))
            spare = rng.sample(known, tasks)
            requests = self.algorithm.follow_up([*first, *groups], spare, attempt, state)
            cost = sum(r.samples for r in requests)
            if not requests or cost > left:
                return groups
            left -= cost
            groups += self._rollouts(requests, f"train/{attempt}")
            attempt += 1

    def begin_evaluation(self, tasks: int, samples: int) -> None:
        """Sample the student on held-out tasks; they are verified while training goes on.

        Not charged to the budget.
        """
        held_out = self.suite.tasks(self.config.eval_split)[:tasks]
        requests = [GenerationRequest(task, "student", samples) for task in held_out]
        before = self._meters()
        with self._timed("evaluating"):
            self._evaluation = Sampled(
                requests,
                self.policy,
                self.verifier,
                seed=_seed("evaluate", self.key.seed, self.step),
                policy_version=self.step,
            )
        after = self._meters()
        for name in after.keys() - {"wall_s", "sandbox_cpu_s"}:
            self._since[name] += after[name] - before[name]

    def end_evaluation(self) -> None:
        """Log what became of an evaluation that was begun in this step."""
        if self._evaluation is None:
            return
        with self._timed("evaluating"):
            groups = complete(self._evaluation.groups())
        self._since["sandbox_cpu_s"] += self._evaluation.cpu_s
        self._evaluation = None
        split = self.config.eval_split
        results = [self._result(g, split) for g in groups]
        self.store.results(results)
        judged = sum(r.samples for r in results)
        self.score = sum(r.correct for r in results) / judged if judged else float("nan")
        metrics = rollout_metrics(groups, self.suite.style)
        styles = {k.removeprefix("student/"): v for k, v in metrics.items() if "style" in k}
        self.store.metrics(self._rows({"pass@1": self.score, **styles}, split))

    def _result(self, group: Group, split: Split) -> TaskResult:
        verdicts = [t.verdict for t in group.trajectories if t.verdict.judged]
        return TaskResult(
            run=self.key.name,
            method=self.key.method,
            seed=self.key.seed,
            step=self.step,
            rollouts=self.budget.axis,
            split=split,
            task_id=group.task.id,
            samples=len(verdicts),
            correct=sum(v.status == "passed" for v in verdicts),
        )

    def _charge(self, groups: Sequence[Group], demonstrations: int, tasks: int) -> None:
        budget = self.budget
        rollouts = [t for g in groups for t in g.trajectories]
        budget.axis += len(rollouts) or tasks * self.algorithm.group_size
        budget.rollouts += len(rollouts)
        budget.sampled_tokens += sum(len(turn.action_ids) for t in rollouts for turn in t.turns)
        budget.demonstrations += demonstrations
        budget.infra_errors += sum(t.verdict.status == "infra_error" for t in rollouts)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Book wall time under `name`, but for waiting for verdicts."""
        start, before = time.perf_counter(), self.verifier.stats.wall_s
        yield
        waited = self.verifier.stats.wall_s - before
        self.times["verifying"] += waited
        self.times[name] += time.perf_counter() - start - waited

    def _log(self, metrics: dict[str, float]) -> None:
        self._clock()
        budget = {f"budget/{k}": getattr(self.budget, k) for k in Budget.__slots__ if k != "axis"}
        budget["budget/cpu_s"] += self.budget.sandbox_cpu_s
        times = {f"time/{k}": v for k, v in {**self.times, "total": self.budget.wall_s}.items()}
        self.store.metrics(self._rows({**metrics, **budget, **times}, "train"))

    def _clock(self) -> None:
        """Add what was spent since the last call, by all processes and their sandboxes."""
        now = self._meters()
        spent = {name: value - self._since[name] for name, value in now.items()}
        for name, value in (totals(spent) | {"wall_s": spent["wall_s"]}).items():
            setattr(self.budget, name, getattr(self.budget, name) + value)
        self._since = now

    def _meters(self) -> dict[str, float]:
        stats = self.verifier.stats
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "executions": stats.executions,
            "cache_hits": stats.cache_hits,
            "processed_tokens": self.policy.processed_tokens,
            "wall_s": time.perf_counter(),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "sandbox_cpu_s": stats.cpu_s,
        }

    def _rows(self, metrics: dict[str, float], split: str) -> list[MetricsRow]:
        return [
            MetricsRow(
                run=self.key.name,
                method=self.key.method,
                seed=self.key.seed,
                step=self.step,
                rollouts=self.budget.axis,
                tokens=self.budget.sampled_tokens,
                wall_s=round(self.budget.wall_s, 3),
                split=split,
                name=name,
                value=float(value),
            )
            for name, value in metrics.items()
        ]

    def _checkpoint(self) -> None:
        self._clock()
        self.store.checkpoint(
            {
                "step": self.step,
                "evaluated": self.evaluated,
                "replay": self.replay,
                "models": self.policy.state(),
                "learner": self.learner.state(),
                "budget": {k: getattr(self.budget, k) for k in Budget.__slots__},
                "times": dict(self.times),
                "verdicts": self.verifier.cache_state(),
            }
        )

    def _restore(self) -> None:
        state = self.store.resume()
        if len(set(gather(state and state["step"]))) > 1:
            raise PedrlError(
                f"processes find different checkpoints in {self.store.folder}: --out must be a "
                "folder that all of them share"
            )
        if state is None:
            return
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.replay = state["replay"]
        self.policy.load_state(state["models"])
        self.learner.load_state(state["learner"])
        self.budget = Budget(**state["budget"])
        self.times.update(state["times"])
        self.verifier.load_cache_state(state["verdicts"])

    def close(self) -> None:
        """Stop the sandbox."""
        if self._evaluation is not None:
            self._evaluation.close()
        self.verifier.close()


def run_one(
    config: CompareConfig, key: RunKey, folder: Path, tell: Callable[[int, int, float], None]
) -> None:
    """Train one run to its end, taking up an interrupted one; does nothing if it has ended.

    The same seed gives the same curve bit by bit, since torch has ``config.threads`` threads.
    """
    torch.set_num_threads(config.threads)
    store = RunStore(folder, writes=rank() == 0)
    if store.done:
        store.close()
        return
    run = Run(config, key, store)
    try:
        run.train(tell)
    finally:
        run.close()
    store.finish()


def _task_stream(tasks: Sequence[Task], batch: int, seed: int) -> Iterator[list[Task]]:
    """Yield batches of tasks, reshuffled every epoch; the same for every method."""
    rng = random.Random(f"stream/{seed}")
    queue: list[Task] = []
    while True:
        while len(queue) < batch:
            epoch = list(tasks)
            rng.shuffle(epoch)
            queue += epoch
        yield queue[:batch]
        queue = queue[batch:]


def _seed(purpose: str, seed: int, step: int) -> int:
    """Return an independent 63-bit seed; stateless, so a resumed run draws what it would have."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _engine(config: CompareConfig) -> Engine | None:
    if config.backend == "torch":
        return None
    settings = build_vllm(config.vllm)
    return (vllm_server if settings.url else vllm_engine)(base_path(config), settings)


def _context(config: CompareConfig) -> tuple[Context, ...]:
    return tuple(config.context)  # type: ignore[arg-type]  # names are checked when rendered
