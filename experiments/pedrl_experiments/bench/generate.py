"""`pedrl bench generate`: rollouts of the torch backend, beside those of `transformers.generate`.

Both sides hold the same weights in single precision, sample the same prompts at temperature 1 with
nothing cut off, and take turns, so that a noisy machine is noisy for both. What to quote are
medians, and medians of ratios within a round.
"""

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from pedrl_agents.forward import pad_left
from pedrl_agents.torch_policy import Sampling, TorchPolicy, load_policy
from pedrl_agents.vllm_engine import VllmSettings, vllm_engine
from pedrl_env.records import GenerationRequest, Turn
from pedrl_env.registry import make_suite
from pedrl_experiments.bases import base_path
from pedrl_experiments.config import CompareConfig
from pedrl_experiments.sets import Value
from pedrl_sandbox.errors import PedrlError

OURS: Final = "pedrl torch"
PEER: Final = "transformers.generate"
VLLM: Final = "pedrl vLLM"  # where it is installed
FLOOR: Final = 2.5  # tokens a second of ours over the peer's
EXACT: Final = 1e-4  # of log-probabilities, natural logs


@dataclass(frozen=True, slots=True)
class Draw:
    """What is sampled.

    Attributes:
        suite, dials: whose first training tasks (where there are none, test tasks) are the prompts.
        model: checkpoint; the suite's own where empty.
        prompts, samples: how many, and of each.
        tokens: most new ones of a sample.
        threads: of torch; 0 for one per core.
    """

    suite: str
    dials: Mapping[str, Value]
    model: str
    prompts: int
    samples: int
    tokens: int
    threads: int


@dataclass(frozen=True, slots=True)
class Speed:
    """One side over all rounds: medians, and tokens per sample, which must be alike."""

    tokens_per_s: float
    seconds: float
    length: float


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Attributes:
        ratio: tokens a second of ours over the peer's, the median of rounds.
        error: the largest difference between a log-probability that came with a sampled token and
            that of a plain forward pass over its sequence alone.
        repeatable: whether the same seed gave the same tokens.
    """

    draw: Draw
    rounds: int
    speeds: Mapping[str, Speed]
    ratio: float
    floor: float
    error: float
    repeatable: bool

    @property
    def held(self) -> bool:
        """Whether all that is promised was so."""
        return self.ratio >= self.floor and self.error <= EXACT and self.repeatable


def bench(draw: Draw, rounds: int, as_json: bool, console: Console) -> int:
    """Measure and print; return 1 if a promise was not held."""
    report = measure(draw, rounds, Progress(console=console, disable=as_json))
    if as_json:
        sys.stdout.write(json.dumps({"held": report.held} | asdict(report), indent=2) + "\n")
    else:
        _print(report, console)
    return 0 if report.held else 1


def measure(draw: Draw, rounds: int, progress: Progress) -> Report:
    """Hold the rounds, and check what ours sampled."""
    if draw.threads:
        torch.set_num_threads(draw.threads)
    config = CompareConfig(suite=draw.suite, dials=draw.dials, base=draw.model)
    folder = base_path(config)
    suite = make_suite(draw.suite, dict(draw.dials))
    tasks = (suite.tasks("train") or suite.tasks("test"))[: draw.prompts]
    if len(tasks) < draw.prompts:
        raise PedrlError(f"suite {draw.suite!r} has {len(tasks)} tasks, not {draw.prompts}")
    policy = load_policy(folder, Sampling(draw.tokens), storage="shared")
    requests = [GenerationRequest(task, "student", draw.samples) for task in tasks]
    prompts = [policy.prompt_ids(task, "student") for task in tasks]
    peer = Peer(folder, prompts, draw, policy)
    sides: dict[str, Callable[[int], int]] = {
        OURS: lambda seed: _count(policy.generate(requests, seed)),
        PEER: peer.generate,
    }
    if importlib.util.find_spec("vllm") is not None:
        engine = vllm_engine(folder, VllmSettings())
        served = load_policy(folder, policy.sampling, storage="shared", engine=engine)
        sides[VLLM] = lambda seed: _count(served.generate(requests, seed))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    counts: dict[str, list[int]] = {name: [] for name in sides}
    with progress:
        bar = progress.add_task("rounds", total=rounds)
        for number in range(-1, rounds):  # the first is for warming up
            for name in list(sides)[:: 1 if number % 2 else -1]:
                start = time.perf_counter()
                count = sides[name](number + 1)
                if number >= 0:
                    seconds[name].append(time.perf_counter() - start)
                    counts[name].append(count)
            progress.update(bar, completed=number + 1)
    speeds = {
        name: Speed(
            statistics.median(c / s for c, s in zip(counts[name], seconds[name], strict=True)),
            statistics.median(seconds[name]),
            statistics.fmean(counts[name]) / (draw.prompts * draw.samples),
        )
        for name in sides
    }
    per_s = [[c / s for c, s in zip(counts[n], seconds[n], strict=True)] for n in (OURS, PEER)]
    turns = policy.generate(requests, 7)
    again = policy.generate(requests, 7)
    flat = [turn for group in turns for turn in group]
    return Report(
        draw,
        rounds,
        speeds,
        statistics.median(a / b for a, b in zip(*per_s, strict=True)),
        FLOOR,
        largest_error(peer.model, flat),
        [t.action_ids for g in turns for t in g] == [t.action_ids for g in again for t in g],
    )


class Peer:
    """`transformers.generate` as one would use it for this: one batch, prompts padded on the left.

    Args:
        folder: of the checkpoint.
        prompts: token ids.
        draw: how much is sampled.
        policy: whose ends of sequences are meant.
    """

    def __init__(
        self, folder: Path, prompts: Sequence[tuple[int, ...]], draw: Draw, policy: TorchPolicy
    ) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()
        self.ids, self.mask = pad_left(prompts, policy.pad, torch.device("cpu"))
        self.eos = policy.eos
        self.settings = GenerationConfig(
            max_new_tokens=draw.tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=draw.samples,
            use_cache=True,
            eos_token_id=policy.eos,
            pad_token_id=policy.pad,
        )

    def generate(self, seed: int) -> int:
        """Sample; return the tokens up to the ends of sequences, those included."""
        torch.manual_seed(seed)
        with torch.no_grad():
            found = self.model.generate(
                input_ids=self.ids, attention_mask=self.mask, generation_config=self.settings
            )
        actions = found[:, self.ids.shape[1] :]
        ended = (actions == self.eos).int().cumsum(-1)
        before = ended - (actions == self.eos).int() == 0
        return int(before.sum())


def _count(turns: Sequence[Sequence[Turn]]) -> int:
    return sum(len(turn.action_ids) for group in turns for turn in group)


@torch.no_grad()
def largest_error(model: PreTrainedModel, turns: Sequence[Turn]) -> float:
    """Compare log-probabilities of sampled tokens with plain passes, a sequence at a time."""
    worst = 0.0
    for turn in turns:
        start = len(turn.prompt_ids)
        ids = torch.tensor([[*turn.prompt_ids, *turn.action_ids]])
        logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1]
        chosen = logits.log_softmax(-1).gather(-1, ids[0, start:, None]).squeeze(-1)
        worst = max(worst, float((chosen - torch.tensor(turn.logprobs)).abs().max()))
    return worst


def _print(report: Report, console: Console) -> None:
    draw = report.draw
    size = f"{draw.prompts} prompts x {draw.samples} samples x at most {draw.tokens} tokens"
    title = f"{draw.model or draw.suite + ' base'}: {size}, {torch.get_num_threads()} threads"
    table = Table("sampler", "tokens a second", "seconds", "tokens a sample", title=title)
    for name, speed in report.speeds.items():
        cells = f"{speed.tokens_per_s:,.0f}", f"{speed.seconds:.3f}", f"{speed.length:.1f}"
        table.add_row(name, *cells)
    console.print(table)
    for text, kept in (
        (
            f"{OURS} over {PEER}: {report.ratio:.2f}, floor {report.floor:g}",
            report.ratio >= report.floor,
        ),
        (
            f"log-probabilities differ from a fresh forward pass by at most {report.error:.1e}, "
            f"promised {EXACT:g}",
            report.error <= EXACT,
        ),
        ("the same seed gives the same tokens", report.repeatable),
    ):
        console.print(f"{text}: {'held' if kept else '[bold red]NOT HELD[/]'}", highlight=False)
    console.print(f"medians of {report.rounds} interleaved rounds", highlight=False)
