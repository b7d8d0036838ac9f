"""`pedrl evaluate`: sample what is missing, judge it, keep it, and say what it comes to."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pedrl_env.records import Split, Task
from pedrl_env.registry import make_suite
from pedrl_env.verifier import Verifier
from pedrl_experiments.evaluate_store import EvaluationStore, Place, Rollout
from pedrl_experiments.sets import Value
from pedrl_experiments.statistics import Interval, final_mean, pass_at_k, score_interval
from pedrl_sandbox.errors import PedrlError


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is asked of whom: all that decides the answers, and nothing else.

    Attributes:
        suite, dials, split, limit: the tasks; the first `limit` of them, all when 0.
        policy: who answers.
        samples: rollouts per task.
        max_new_tokens, temperature, seed: of sampling.
    """

    suite: str
    dials: Mapping[str, Value]
    split: Split
    limit: int
    policy: str
    samples: int
    max_new_tokens: int
    temperature: float
    seed: int

    def __post_init__(self) -> None:
        if self.samples < 1 or self.limit < 0:
            raise PedrlError(
                f"samples must be at least 1 ({self.samples}) and limit at least 0 ({self.limit})"
            )
        if self.max_new_tokens < 1 or self.temperature < 0:
            raise PedrlError(
                f"max-new-tokens must be at least 1 ({self.max_new_tokens}) and temperature at "
                f"least 0 ({self.temperature:g})"
            )

    def tasks(self) -> list[Task]:
        """The tasks.

        Raises:
            PedrlError: there are none.
        """
        tasks = list(make_suite(self.suite, dict(self.dials)).tasks(self.split))
        if not tasks:
            raise PedrlError(f"suite {self.suite!r} has no {self.split} tasks")
        return tasks[: self.limit or None]

    def draw(self, *what: object, bits: int = 63) -> int:
        """An independent seed for one draw; stateless, so a resumed run draws the same."""
        text = "/".join(map(str, ("evaluate", self.seed, *what)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - bits)


class Sampler(Protocol):
    """Somebody who answers, whether a model of this process or a server."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What else decides the answers, as plain data for `config.json`; never a key."""
        ...

    def units(self) -> Sequence[Sequence[Place]]:
        """Every rollout, in order, in groups that are sampled together or not at all."""
        ...

    def sample(
        self, units: Sequence[Sequence[Place]], verifier: Verifier
    ) -> Iterator[Sequence[Rollout]]:
        """Answer these and have them judged; rollouts that cannot be had are left out."""
        ...

    @property
    def trouble(self) -> str:
        """Why rollouts were left out last; empty if none were."""
        ...


def ranks(text: str, samples: int) -> list[int]:
    """Read `--k 1,5,10`; 1 and all samples when empty.

    Raises:
        PedrlError: it is no list of numbers, or asks for more attempts than are sampled.
    """
    try:
        chosen = sorted({int(part) for part in text.split(",")} if text else {1, samples})
    except ValueError as error:
        raise PedrlError(f"--k {text!r}: write numbers with commas, for example 1,5,10") from error
    if chosen[0] < 1:
        raise PedrlError(f"--k {text}: every k must be at least 1")
    if chosen[-1] > samples:
        raise PedrlError(f"pass@{chosen[-1]} needs --samples {chosen[-1]} or more, not {samples}")
    return chosen


def run(
    evaluation: Evaluation,
    tasks: Sequence[Task],
    sampler: Sampler,
    chosen: Sequence[int],
    out: Path | None,
    sandbox: str,
    as_json: bool,
    console: Console,
) -> None:
    """Evaluate, taking up what `out` holds, and print a table or JSON.

    Raises:
        PedrlError: rollouts could not be had; those that could are printed and kept.
    """
    units = sampler.units()
    order = [place for unit in units for place in unit]
    store = EvaluationStore(out, asdict(evaluation) | dict(sampler.facts))
    with Verifier(sandbox) as verifier, _progress() as progress:
        missing = store.start(units)
        wanted = sum(map(len, missing))
        bar = progress.add_task("rollouts", total=len(order), completed=len(order) - wanted)
        store.add(_again(store, tasks, verifier))
        for rollouts in sampler.sample(missing, verifier):
            store.add(rollouts)
            progress.advance(bar, len(rollouts))
    results = score(list(store.rollouts.values()), tasks, chosen, len(order))
    results = {**asdict(evaluation), **results}
    store.finish(order, results)
    if as_json:
        console.print_json(json.dumps(results))
    else:
        show(results, console)
        if out is not None:
            console.print(f"kept in {out}", markup=False, highlight=False)
    again = "the same command again asks for them" if out else "give --out to be able to go on"
    if results["lost"]:
        raise PedrlError(
            f"{results['lost']} of {len(order)} answers could not be had ({sampler.trouble}): "
            f"they count for nothing; {again}"
        )
    if results["infra_errors"]:
        raise PedrlError(
            f"{results['infra_errors']} of {len(order)} verdicts could not be had (infra_error): "
            f"they count for nothing; see `pedrl doctor`, then {again}"
        )


def _again(store: EvaluationStore, tasks: Sequence[Task], verifier: Verifier) -> list[Rollout]:
    """Judge again what an earlier command could not."""
    by_id = {task.id: task for task in tasks}
    broken = [r for r in store.rollouts.values() if r.status == "infra_error"]
    verdicts = verifier.verify_batch([(by_id[r.task], r.program) for r in broken])
    return [r.judged(verdict) for r, verdict in zip(broken, verdicts, strict=True)]


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def score(
    rollouts: Sequence[Rollout], tasks: Sequence[Task], chosen: Sequence[int], wanted: int
) -> dict[str, Any]:
    """What rollouts come to, as plain data.

    Tasks that lost so many rollouts to infrastructure that fewer than k are left have no pass@k;
    `pass` says over how many tasks each is.
    """
    judged = [r for r in rollouts if r.status not in ("infra_error", "unjudged")]
    n, c = Counter(r.task for r in judged), Counter(r.task for r in judged if r.status == "passed")
    rates: dict[str, Any] = {}
    for k in chosen:
        whole = [task.id for task in tasks if n[task.id] >= k]
        if whole:
            each = pass_at_k([n[i] for i in whole], [c[i] for i in whole], k)
            interval = score_interval(np.asarray(each)[None, :], final_mean)
            rates[str(k)] = {**asdict(interval), "tasks": len(whole)}
    counted = [r.tokens for r in judged if r.tokens is not None]
    return {
        "tasks": len(tasks),
        "pass": rates,
        "rollouts": len(judged),
        "correct": sum(c.values()),
        "statuses": dict(sorted(Counter(r.status for r in judged).items())),
        "truncated": sum(r.truncated for r in judged),
        "tokens": sum(counted) if len(counted) == len(judged) else None,
        "lost": wanted - len(rollouts),
        "infra_errors": len(rollouts) - len(judged),
        "by_task": [{"task": t.id, "samples": n[t.id], "correct": c[t.id]} for t in tasks],
    }


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print results for people."""
    table = Table(
        "k",
        "pass@k",
        "95% interval",
        "over",
        "tasks",
        title=f"{results['suite']} {results['split']} · {results['policy']}",
    )
    for k, rate in results["pass"].items():
        interval = Interval(rate["value"], rate["low"], rate["high"], rate["over"])
        table.add_row(
            k,
            f"{100 * interval.value:.1f}%",
            f"{100 * interval.low:.1f} to {100 * interval.high:.1f}",
            interval.over,
            str(rate["tasks"]),
        )
    console.print(table)
    judged = results["rollouts"]
    parts = [f"{results['correct']}/{judged} rollouts passed"]
    parts += [f"{status} {n}" for status, n in results["statuses"].items() if status != "passed"]
    parts += [f"cut off at --max-new-tokens {results['truncated']}"]
    if results["tokens"] is not None and judged:
        parts += [f"{results['tokens'] / judged:.0f} tokens each"]
    console.print(" · ".join(parts), markup=False, highlight=False)
