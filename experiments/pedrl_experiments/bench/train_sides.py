"""The two sides of `pedrl bench train`: GRPO by this project's own loop, and by TRL's trainer.

Each runs in a process of its own, keeps its state between rounds, and waits for its turn. Both get
the same weights, prompts, sampling, group size, batch, loss, optimizer and verifier.
"""

import importlib
import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from pedrl_agents.learner import LearnerConfig
from pedrl_agents.torch_policy import Sampling, TorchPolicy, load_policy
from pedrl_env.records import Task, Turn
from pedrl_env.registry import make_suite
from pedrl_env.verifier import Verifier
from pedrl_experiments.bases import base_path
from pedrl_experiments.config import CompareConfig
from pedrl_experiments.loop import Run, RunKey
from pedrl_experiments.store import RunStore
from pedrl_sandbox.errors import PedrlError

PARTS: Final = ("sampling", "verifying", "scoring", "learning")
NEEDED: Final = ("trl", "accelerate", "datasets")


@dataclass(frozen=True, slots=True)
class Race:
    """What both sides do.

    Attributes:
        config: tasks, base, group size, learning rate and lengths; its one method is GRPO.
        steps: of a round.
        rounds: that are counted; one more comes first, to warm up.
        threads: of torch, in each process; one side computes at a time.
        passes: TRL cuts each step's sequences into so many forward and backward passes.
        attention: TRL's, by the name that transformers has for it.
    """

    config: CompareConfig
    steps: int
    rounds: int
    threads: int
    passes: int
    attention: str

    @property
    def group_size(self) -> int:
        """Rollouts of a task."""
        size = self.config.knobs("grpo")["group_size"]
        assert isinstance(size, int)
        return size

    @property
    def learning_rate(self) -> float:
        """Of AdamW."""
        return float(self.config.knobs("grpo")["learning_rate"])

    def batches(self) -> list[Sequence[Task]]:
        """The tasks of every step, warming up included."""
        tasks = make_suite(self.config.suite, dict(self.config.dials)).tasks("train")
        size, count = self.config.tasks_per_step, self.steps * (self.rounds + 1)
        if not tasks:
            raise PedrlError(f"suite {self.config.suite!r} has no training tasks")
        return [
            [tasks[(step * size + i) % len(tasks)] for i in range(size)] for step in range(count)
        ]


@dataclass(frozen=True, slots=True)
class Lap:
    """One round of one side.

    Attributes:
        cpu_s: of its process, all threads; sandboxes are not counted.
        times: seconds of its parts; what is left over is other.
        rollouts, passed, tokens: sampled, of those that passed, and tokens of all.
        idle: groups whose rewards were all equal.
    """

    wall_s: float
    cpu_s: float
    times: Mapping[str, float]
    rollouts: int
    passed: float
    tokens: int
    idle: float


def check_peer() -> None:
    """Refuse to race alone.

    Raises:
        PedrlError: TRL, or what it imports, is not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise PedrlError(
            f"pedrl bench train races TRL's GRPOTrainer, and {missing[0]} is not installed here: "
            "run `pip install trl accelerate datasets`"
        )


def ours(race: Race, turns: Connection) -> None:
    """Run the training loop of `pedrl compare`, a round for each word that comes."""
    torch.set_num_threads(race.threads)
    batches = race.batches()
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(race, Path(folder))
        for start in range(0, len(batches), race.steps):
            turns.recv()
            turns.send(lap(run, batches[start : start + race.steps]))
        turns.recv()  # to end takes time, too: not while the other has its turn
        run.close()


def start_run(race: Race, folder: Path) -> Run:
    """A run that stops an answer only where TRL can stop it: at its end of sequence."""
    run = Run(race.config, RunKey("grpo", 0), RunStore(folder))
    run.policy.view.over = lambda action_ids: False
    return run


def lap(run: Run, batches: Sequence[Sequence[Task]]) -> Lap:
    """Train for a few steps."""
    before, tokens = dict(run.times), run.budget.sampled_tokens
    rollouts, passed, idle = run.budget.rollouts, 0.0, 0.0
    start, cpu = time.perf_counter(), time.process_time()
    for tasks in batches:
        metrics = run.advance(tasks)
        passed += metrics["student/correct"] * run.algorithm.group_size * len(tasks)
        idle += metrics["groups/degenerate"] * len(tasks)
    wall = time.perf_counter() - start
    return Lap(
        wall,
        time.process_time() - cpu,
        {part: run.times[part] - before.get(part, 0.0) for part in PARTS},
        run.budget.rollouts - rollouts,
        passed,
        run.budget.sampled_tokens - tokens,
        idle,
    )


def theirs(race: Race, turns: Connection) -> None:
    """Run TRL's GRPOTrainer likewise: what it waits for comes between two of its steps."""
    trl: Any = importlib.import_module("trl")
    datasets: Any = importlib.import_module("datasets")
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)  # of TRL's own calls
    torch.set_num_threads(race.threads)
    batches, learner = race.batches(), LearnerConfig()
    tasks = [task for batch in batches for task in batch]
    policy = load_policy(
        base_path(race.config),
        Sampling(race.config.max_new_tokens),
        storage="shared",
        prompt_format=race.config.prompt_format,
    )
    model = policy.models["student"]
    model.set_attn_implementation(race.attention)
    size = race.config.tasks_per_step * race.group_size
    with (
        tempfile.TemporaryDirectory() as folder,
        Verifier(race.config.sandbox, workers=2) as verifier,
    ):
        stopwatch = Stopwatch(race, turns)
        trainer = trl.GRPOTrainer(
            model,
            Reward(tasks, policy, verifier, stopwatch),
            trl.GRPOConfig(
                output_dir=folder,
                # What the race is about: the same on both sides.
                num_generations=race.group_size,
                max_completion_length=race.config.max_new_tokens,
                temperature=race.config.temperature,
                top_p=1.0,
                top_k=0,
                beta=0.0,
                num_iterations=1,
                loss_type="grpo",
                scale_rewards="group",
                learning_rate=race.learning_rate,
                lr_scheduler_type="constant_with_warmup",
                warmup_steps=learner.lr_warmup,
                adam_beta1=learner.betas[0],
                adam_beta2=learner.betas[1],
                weight_decay=learner.weight_decay,
                max_grad_norm=learner.max_grad_norm,
                max_steps=len(batches),
                shuffle_dataset=False,
                # As fast as it goes on CPUs: one batch to generate, no recomputing, no logging.
                use_cpu=True,
                bf16=False,
                per_device_train_batch_size=size // race.passes,
                gradient_accumulation_steps=race.passes,
                gradient_checkpointing=False,
                pad_to_multiple_of=None,
                dataloader_pin_memory=False,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list(
                [{"prompt": prompt(policy, task), "task": i} for i, task in enumerate(tasks)]
            ),
            processing_class=policy.tokenizer,
            callbacks=[stopwatch.callback()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        stopwatch.time_sampling(trainer)
        trainer.train()


def prompt(policy: TorchPolicy, task: Task) -> str:
    """A task's prompt as text that TRL will encode to the very same tokens.

    Raises:
        PedrlError: it would not: the tokenizer adds tokens of its own.
    """
    text = policy.view.text(task, "student")
    if tuple(policy.tokenizer(text)["input_ids"]) != policy.prompt_ids(task, "student"):
        raise PedrlError(
            f"{task.id}: TRL would encode the prompt of this model otherwise than we do"
        )
    return text


class Stopwatch:
    """Waits for the turns of TRL's trainer, and tells what became of each round."""

    def __init__(self, race: Race, turns: Connection) -> None:
        self.race, self.turns = race, turns
        self._clear()

    def _clear(self) -> None:
        self.start, self.cpu = time.perf_counter(), time.process_time()
        self.times = dict.fromkeys(PARTS, 0.0)
        self.rollouts = self.tokens = 0
        self.passed = self.idle = 0.0

    def callback(self) -> transformers.TrainerCallback:
        """What the trainer calls before its first step and after each."""
        watch = self

        class Turns(transformers.TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                watch.turns.recv()
                watch._clear()

            def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                if state.global_step % watch.race.steps == 0:
                    watch.tell()
                    watch.turns.recv()  # the last time it is the word to end
                    watch._clear()

        return Turns()

    def tell(self) -> None:
        """Report the round that ends here; what is neither sampled nor verified is learning."""
        wall = time.perf_counter() - self.start
        self.times["learning"] = wall - self.times["sampling"] - self.times["verifying"]
        cpu = time.process_time() - self.cpu
        sampled = self.rollouts, self.passed, self.tokens, self.idle
        self.turns.send(Lap(wall, cpu, self.times, *sampled))

    def time_sampling(self, trainer: Any) -> None:
        """Book what the trainer's generation takes."""
        generate: Callable[..., Any] = trainer._generate_single_turn

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            found = generate(*arguments)
            self.times["sampling"] += time.perf_counter() - start
            return found

        trainer._generate_single_turn = timed


class Reward:
    """The verdicts of pedrl's verifier, as a reward function of TRL."""

    __name__ = "verdict"

    def __init__(
        self, tasks: Sequence[Task], policy: TorchPolicy, verifier: Verifier, watch: Stopwatch
    ) -> None:
        self.tasks, self.policy, self.verifier, self.watch = tasks, policy, verifier, watch

    def __call__(
        self, completion_ids: Sequence[Sequence[int]], task: Sequence[int], **rest: Any
    ) -> list[float | None]:
        """One reward per completion; None where infrastructure failed."""
        start, watch = time.perf_counter(), self.watch
        answers = [self.policy.decode(Turn((), tuple(ids), (), "eos")) for ids in completion_ids]
        asked = [self.tasks[i] for i in task]
        verdicts = self.verifier.verify_batch(list(zip(asked, answers, strict=True)))
        rewards = [v.reward if v.judged else None for v in verdicts]
        size = watch.race.group_size
        groups = [set(rewards[i : i + size]) for i in range(0, len(rewards), size)]
        watch.rollouts += len(rewards)
        watch.passed += sum(r or 0.0 for r in rewards)
        watch.tokens += sum(map(len, completion_ids))
        watch.idle += sum(len(group) < 2 for group in groups)
        watch.times["verifying"] += time.perf_counter() - start
        return rewards
