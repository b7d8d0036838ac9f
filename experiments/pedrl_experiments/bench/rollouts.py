"""`pedrl bench rollouts`: do many rollouts take linear time, and flat memory?

One policy and one verifier answer the training tasks of a suite over and over, as a long run does.
Memory is what the kernel says is resident of this process; that of sandboxes is `bench sandbox`'s.
"""

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pedrl_agents.torch_policy import Sampling, load_policy
from pedrl_env.records import GenerationRequest
from pedrl_env.registry import make_suite
from pedrl_env.rollout import rollout
from pedrl_env.verifier import Verifier
from pedrl_experiments.bases import base_path
from pedrl_experiments.bench.memory import memory_of
from pedrl_experiments.config import CompareConfig
from pedrl_experiments.sets import Value
from pedrl_sandbox.errors import PedrlError

PARTS: Final = 10
MOST_DRIFT: Final = 0.05  # of memory, from after the first part to the end
MOST_SLOWING: Final = 0.1  # of the second half against the first
MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Endurance:
    """What is sampled.

    Attributes:
        suite, dials: whose training tasks are answered, in turn.
        model: checkpoint; the suite's own where empty.
        total: rollouts.
        tasks, samples: of one batch.
        tokens: most new ones of a rollout.
        verify: whether answers are run.
        threads: of torch; 0 for one per core.
    """

    suite: str
    dials: Mapping[str, Value]
    model: str
    total: int
    tasks: int
    samples: int
    tokens: int
    verify: bool
    threads: int


@dataclass(frozen=True, slots=True)
class Part:
    """One tenth of the rollouts.

    Attributes:
        cpu_s: of this process alone; unlike wall time it knows nothing of other programs.
        rss: bytes at its end.
    """

    rollouts: int
    wall_s: float
    cpu_s: float
    rss: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Attributes:
        before: resident bytes after a batch to warm up.
        drift: of memory from the end of the first part to the largest later one, as a share.
        slowing: wall time of the second half over the first, less 1; slowing_cpu alike.
        pass_rate: of what was verified.
    """

    endurance: Endurance
    before: int
    parts: Sequence[Part]
    drift: float
    slowing: float
    slowing_cpu: float
    tokens: int
    pass_rate: float | None

    @property
    def flat(self) -> bool:
        """Whether memory was."""
        return self.drift <= MOST_DRIFT

    @property
    def linear(self) -> bool:
        """Whether time was; where other programs took their share, CPU time decides."""
        return min(self.slowing, self.slowing_cpu) <= MOST_SLOWING


def bench(endurance: Endurance, as_json: bool, console: Console) -> int:
    """Sample and print; return 1 if time was not linear or memory not flat."""
    columns = TextColumn("rollouts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    report = measure(endurance, Progress(*columns, console=console, disable=as_json))
    kept = report.flat and report.linear
    if as_json:
        sys.stdout.write(json.dumps({"held": kept} | asdict(report), indent=2) + "\n")
    else:
        _print(report, console)
    return 0 if kept else 1


def measure(endurance: Endurance, progress: Progress) -> Report:
    """Sample everything.

    Raises:
        PedrlError: the rollouts are not a multiple of what is needed.
    """
    size = endurance.tasks * endurance.samples
    if endurance.total < PARTS * size:
        raise PedrlError(f"--total must be at least {PARTS * size}: {PARTS} batches of {size}")
    if endurance.threads:
        torch.set_num_threads(endurance.threads)
    config = CompareConfig(suite=endurance.suite, dials=endurance.dials, base=endurance.model)
    policy = load_policy(base_path(config), Sampling(endurance.tokens), storage="shared")
    tasks = make_suite(endurance.suite, dict(endurance.dials)).tasks("train")
    passed = judged = tokens = done = 0
    parts: list[Part] = []

    def batch(verifier: Verifier, number: int) -> None:
        nonlocal passed, judged, tokens
        requests = [
            GenerationRequest(
                tasks[(number * endurance.tasks + i) % len(tasks)],
                "student",
                endurance.samples,
                judge=endurance.verify,
            )
            for i in range(endurance.tasks)
        ]
        for group in rollout(requests, policy, verifier, seed=number, policy_version=0):
            verdicts = [t.verdict for t in group.trajectories if t.verdict.judged]
            judged += len(verdicts)
            passed += sum(v.status == "passed" for v in verdicts)
            tokens += sum(len(t.turns[0].action_ids) for t in group.trajectories)

    with Verifier("zygote", workers=2) as verifier, progress:
        bar = progress.add_task("rollouts", total=endurance.total)
        batch(verifier, 0)
        before, number = memory_of("VmRSS"), 0
        for part in range(1, PARTS + 1):
            first, start, cpu = done, time.perf_counter(), time.process_time()
            while done < endurance.total * part // PARTS:
                number += 1
                batch(verifier, number)
                done += size
                progress.update(bar, completed=min(done, endurance.total))
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            parts.append(Part(done - first, wall, cpu, memory_of("VmRSS")))
    rate = passed / judged if judged else None
    return judge(endurance, before, parts, tokens=tokens, pass_rate=rate)


def judge(
    endurance: Endurance,
    before: int,
    parts: Sequence[Part],
    *,
    tokens: int,
    pass_rate: float | None,
) -> Report:
    """Compare the parts with each other."""
    return Report(
        endurance,
        before,
        parts,
        max(part.rss for part in parts) / parts[0].rss - 1,
        _slowing([part.wall_s / part.rollouts for part in parts]),
        _slowing([part.cpu_s / part.rollouts for part in parts]),
        tokens,
        pass_rate,
    )


def _slowing(costs: Sequence[float]) -> float:
    half = len(costs) // 2
    return statistics.median(costs[half:]) / statistics.median(costs[:half]) - 1


def _print(report: Report, console: Console) -> None:
    what = report.endurance
    title = (
        f"{what.model or what.suite + ' base'}: batches of {what.tasks} tasks x {what.samples} "
        f"samples x at most {what.tokens} tokens, {torch.get_num_threads()} threads, "
        f"{'verified' if what.verify else 'not verified'}"
    )
    table = Table("rollouts", "seconds", "CPU seconds", "a second", "memory, MiB", title=title)
    done = 0
    for part in report.parts:
        done += part.rollouts
        times = f"{part.wall_s:.1f}", f"{part.cpu_s:.1f}", f"{part.rollouts / part.wall_s:.0f}"
        table.add_row(f"{done:,}", *times, f"{part.rss / MIB:.1f}")
    console.print(table)
    for text, kept in (
        (
            f"time: second half over first {1 + report.slowing:.3f}, CPU time "
            f"{1 + report.slowing_cpu:.3f}; linear within {MOST_SLOWING:.0%}",
            report.linear,
        ),
        (
            f"memory: {report.drift:+.1%} from after the first tenth to its most; flat within "
            f"{MOST_DRIFT:.0%}",
            report.flat,
        ),
    ):
        console.print(f"{text}: {'held' if kept else '[bold red]NOT HELD[/]'}", highlight=False)
    wall = sum(part.wall_s for part in report.parts)
    rate = "" if report.pass_rate is None else f", {report.pass_rate:.1%} passed"
    console.print(
        f"{done:,} rollouts, {report.tokens:,} tokens in {wall:.0f} s{rate}", highlight=False
    )
