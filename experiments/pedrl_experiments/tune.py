"""`pedrl tune`: choose each method's settings on validation tasks, with equal trials for all.

A grid gives each method the cartesian product of its lists. Grids of unequal size are refused: a
comparison whose baselines were tuned less flatters the method.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pedrl_experiments.config import CompareConfig
from pedrl_experiments.loop import RunKey
from pedrl_experiments.runner import Job, check_ready, check_workers, claim, run_all
from pedrl_experiments.sets import Value
from pedrl_experiments.store import read_rows
from pedrl_sandbox.errors import PedrlError

Grid = Mapping[str, Mapping[str, Sequence[Value]]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting of one method and its validation pass@1, mean over seeds."""

    method: str
    knobs: Mapping[str, Value]
    scores: tuple[float, ...]

    @property
    def score(self) -> float:
        """Mean over seeds."""
        return sum(self.scores) / len(self.scores)


def trials_of(grid: Grid) -> dict[str, list[dict[str, Value]]]:
    """Expand a grid into settings per method.

    Raises:
        PedrlError: if methods would get different numbers of trials.
    """
    expanded = {}
    for method, lists in grid.items():
        for knob, values in lists.items():
            if not isinstance(values, list) or not values:
                raise PedrlError(f"grid.{method}.{knob} must be a list of values, not {values!r}")
        expanded[method] = [
            dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())
        ]
    sizes = {method: len(trials) for method, trials in expanded.items()}
    if len(set(sizes.values())) > 1:
        raise PedrlError(f"every method must get the same number of trials, not {sizes}")
    if not sizes:
        raise PedrlError("the preset has no [grid.METHOD] tables: there is nothing to tune")
    return expanded


def tune(
    config: CompareConfig, grid: Grid, out: Path, workers: int, console: Console
) -> dict[str, Trial]:
    """Run every trial on the validation split, print the table, return each method's best.

    Writes ``tuning.json``. Interrupted trials are taken up by the same call.

    Raises:
        PedrlError: for an uneven grid, or if `out` holds trials of another configuration.
    """
    # Only the final score counts, so nothing is evaluated on the way.
    config = dataclasses.replace(config, eval_split="validation", eval_points=0, gates=False)
    trials_by_method = trials_of(grid)
    check_workers(workers, config)
    check_ready(config)
    # Trials are kept by setting, so methods may be tuned one after another; the rest must agree.
    claim({k: v for k, v in config.to_json().items() if k != "methods"}, out, "")
    planned: list[tuple[str, dict[str, Value], list[Job]]] = []
    for method, settings in trials_by_method.items():
        for knobs in settings:
            label = ",".join(f"{k}={v}" for k, v in knobs.items())
            merged = {**config.knobs(method), **knobs}
            variant = dataclasses.replace(config, methods=(method,), settings={method: merged})
            jobs = [
                Job(variant, RunKey(method, seed), out / "trials" / f"{method}[{label}]-s{seed}")
                for seed in range(config.seeds)
            ]
            planned.append((method, merged, jobs))
    # Seeds first, then trials: an early look sees every method.
    run_all([job for _, _, jobs in planned for job in jobs], workers, console)
    trials = [
        Trial(method, knobs, tuple(_final_score(job.folder) for job in jobs))
        for method, knobs, jobs in planned
    ]
    best = {m: max((t for t in trials if t.method == m), key=lambda t: t.score) for m in grid}
    table = Table("method", "setting", "validation pass@1", "chosen")
    for trial in sorted(trials, key=lambda t: (t.method, -t.score)):
        shown = ", ".join(f"{k}={v}" for k, v in trial.knobs.items())
        chosen = "yes" if trial is best[trial.method] else ""
        table.add_row(trial.method, shown, f"{100 * trial.score:.1f}%", chosen)
    console.print(table)
    plain: dict[str, Any] = {
        "config": config.to_json(),
        "trials": [{**dataclasses.asdict(t), "score": t.score} for t in trials],
        "best": {m: dict(t.knobs) for m, t in best.items()},
    }
    (out / "tuning.json").write_text(json.dumps(plain, indent=2) + "\n")
    return best


def _final_score(folder: Path) -> float:
    rows = [r for r in read_rows([folder], "metrics") if r["name"] == "pass@1"]
    score = float(rows[-1]["value"])
    return -1.0 if math.isnan(score) else score
