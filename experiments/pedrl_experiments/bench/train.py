"""`pedrl bench train`: GRPO end to end, raced against TRL's GRPOTrainer in one interleaved run.

Each side has a process of its own, started and warmed up before anything is counted; then they take
turns, a round of a few steps each, in an order that alternates. What to quote are medians, and
medians of ratios within a round. Pass rates are printed to show that both do the same work.
"""

import json
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pedrl_experiments.bench.train_profile import Shares, profile
from pedrl_experiments.bench.train_sides import PARTS, Lap, Race, check_peer, ours, theirs
from pedrl_sandbox.errors import PedrlError

OURS: Final = "pedrl"
PEER: Final = "TRL GRPOTrainer"
SIDES: Final[Mapping[str, Callable[[Race, Connection], None]]] = {OURS: ours, PEER: theirs}
# Rollouts a second of ours over TRL's, by base: at least this much is promised.
FLOORS: Final = {("lexicon", ""): 3.0, ("starter", "smollm2"): 2.0}
MOST_OVERHEAD: Final = 0.1  # of a step: what is neither model arithmetic nor verification


@dataclass(frozen=True, slots=True)
class Side:
    """One side over all rounds: medians of rounds, but for the pass rate, which is of all.

    Attributes:
        step_s, cpu_s: wall and CPU seconds of a step; sandboxes use CPU time of their own.
        shares: part of a step -> share of wall time; ``other`` is what no part took.
        pass_rate: of all rollouts that were counted.
        length: tokens per rollout.
        idle: share of groups whose rewards were all equal.
    """

    rollouts_per_s: float
    tokens_per_s: float
    step_s: float
    cpu_s: float
    shares: Mapping[str, float]
    pass_rate: float
    length: float
    idle: float


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Attributes:
        ratio: rollouts a second of ours over TRL's, the median of rounds; tokens_ratio, and
            cpu_ratio of rollouts per CPU second, alike.
        floor: what is promised of the ratio; None where nothing is.
        overhead: the shares of a step of ours that was profiled.
    """

    race: Race
    sides: Mapping[str, Side]
    ratios: Sequence[float]
    ratio: float
    tokens_ratio: float
    cpu_ratio: float
    floor: float | None
    overhead: Shares

    @property
    def held(self) -> bool:
        """Whether all that is promised was so."""
        return self.overhead.other <= MOST_OVERHEAD and self.ratio >= (self.floor or 0.0)


def bench(race: Race, as_json: bool, console: Console) -> int:
    """Race and print; return 1 if a promise was not held.

    Raises:
        PedrlError: TRL is not installed, or a side ended early.
    """
    check_peer()
    report = measure(race, Progress(console=console, disable=as_json))
    if as_json:
        sys.stdout.write(json.dumps({"held": report.held} | asdict(report), indent=2) + "\n")
    else:
        _print(report, console)
    return 0 if report.held else 1


def measure(race: Race, progress: Progress) -> Report:
    """Hold the race, and profile a step."""
    laps: dict[str, list[Lap]] = {name: [] for name in SIDES}
    with ExitStack() as stack:
        stack.enter_context(progress)
        lines = {name: stack.enter_context(_started(name, race)) for name in SIDES}
        bar = progress.add_task("rounds", total=race.rounds)
        for number in range(-1, race.rounds):  # the first is for warming up
            for name in list(SIDES)[:: 1 if number % 2 else -1]:
                lap = _lap(name, lines[name])
                if number >= 0:
                    laps[name].append(lap)
            progress.update(bar, completed=number + 1)
    ratios = _ratios(laps, lambda lap: lap.rollouts / lap.wall_s)
    tokens = _ratios(laps, lambda lap: lap.tokens / lap.wall_s)
    cpu = _ratios(laps, lambda lap: lap.rollouts / lap.cpu_s)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        overhead = pool.submit(profile, race).result()
    return Report(
        race,
        {name: _side(of, race) for name, of in laps.items()},
        ratios,
        statistics.median(ratios),
        statistics.median(tokens),
        statistics.median(cpu),
        FLOORS.get((race.config.suite, race.config.base)),
        overhead,
    )


@contextmanager
def _started(name: str, race: Race) -> Iterator[Connection]:
    """Start a side in a process of its own, and end it with the block."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=SIDES[name], args=(race, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here
        here.send("end")
        process.join()
    finally:
        process.terminate()
        process.join()


def _lap(name: str, line: Connection) -> Lap:
    try:
        line.send("go")
        lap = line.recv()
    except (EOFError, ConnectionError) as error:
        raise PedrlError(f"the process of {name} ended early: its own words are above") from error
    assert isinstance(lap, Lap)
    return lap


def _ratios(laps: Mapping[str, Sequence[Lap]], of: Callable[[Lap], float]) -> list[float]:
    return [of(a) / of(b) for a, b in zip(laps[OURS], laps[PEER], strict=True)]


def _side(laps: Sequence[Lap], race: Race) -> Side:
    def median(of: Callable[[Lap], float]) -> float:
        return statistics.median(map(of, laps))

    rollouts = sum(lap.rollouts for lap in laps)
    shares = {part: median(lambda lap, part=part: lap.times[part] / lap.wall_s) for part in PARTS}  # type: ignore[misc]
    return Side(
        median(lambda lap: lap.rollouts / lap.wall_s),
        median(lambda lap: lap.tokens / lap.wall_s),
        median(lambda lap: lap.wall_s / race.steps),
        median(lambda lap: lap.cpu_s / race.steps),
        shares | {"other": median(lambda lap: 1 - sum(lap.times.values()) / lap.wall_s)},
        sum(lap.passed for lap in laps) / rollouts,
        sum(lap.tokens for lap in laps) / rollouts,
        sum(lap.idle for lap in laps) * race.group_size / rollouts,
    )


def _print(report: Report, console: Console) -> None:
    race = report.race
    config = race.config
    title = (
        f"{config.base or config.suite + ' base'} on {config.suite} {dict(config.dials) or ''}: "
        f"{config.tasks_per_step} tasks x {race.group_size} samples x at most "
        f"{config.max_new_tokens} tokens a step, temperature {config.temperature:g}, "
        f"{race.threads} threads"
    )
    table = Table("", *report.sides, title=title)

    def row(name: str, show: Callable[[Side], str]) -> None:
        table.add_row(name, *map(show, report.sides.values()))

    row("rollouts a second", lambda side: f"{side.rollouts_per_s:.1f}")
    row("tokens a second", lambda side: f"{side.tokens_per_s:,.0f}")
    row("seconds a step", lambda side: f"{side.step_s:.3f}")
    row("CPU seconds a step", lambda side: f"{side.cpu_s:.3f}")
    for part in (*PARTS, "other"):
        row(f"  {part}", lambda side, part=part: f"{side.shares[part]:.1%}")  # type: ignore[misc]
    row("pass rate", lambda side: f"{side.pass_rate:.1%}")
    row("tokens a rollout", lambda side: f"{side.length:.1f}")
    row("groups of equal rewards", lambda side: f"{side.idle:.0%}")
    console.print(table)
    for text, promise, kept in (
        (
            f"{OURS} over {PEER}, rollouts a second: {report.ratio:.2f} (tokens a second: "
            f"{report.tokens_ratio:.2f}, rollouts a CPU second: {report.cpu_ratio:.2f})",
            None if report.floor is None else f"floor {report.floor:g}",
            report.ratio >= (report.floor or 0.0),
        ),
        (
            f"neither model arithmetic nor verification: {report.overhead.other:.1%} of a step",
            f"at most {MOST_OVERHEAD:.0%}",
            report.overhead.other <= MOST_OVERHEAD,
        ),
    ):
        verdict = f", {promise}: {'held' if kept else '[bold red]NOT HELD[/]'}" if promise else ""
        console.print(text + verdict, highlight=False)
    console.print(report.overhead.text, highlight=False)
    ratios = " ".join(f"{ratio:.2f}" for ratio in report.ratios)
    console.print(
        f"medians of {race.rounds} interleaved rounds of {race.steps} steps; ratios of the rounds: "
        f"{ratios}",
        highlight=False,
    )
