"""Figures of a comparison: the learning curves, the mechanism behind them, and what they cost.

Every panel is a function that draws on one axes, so that ``curves.png`` (for a README) and the
report (one SVG per panel, re-flowing on a phone) show the same thing. Nothing here is interactive
and no display is needed: figures are made without pyplot.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator, PercentFormatter

from pedrl_experiments.canvas import DASHES, PAPER, Theme, color_of, count, figure, styled
from pedrl_experiments.evidence import Evidence, MethodRuns
from pedrl_experiments.panels import Panel
from pedrl_experiments.statistics import CONFIDENCE, Floats, mean, performance_profile, replicates
from pedrl_experiments.summary import THRESHOLDS, TIMES

TIME_COLORS = {
    "sampling": "#4477AA",
    "verifying": "#EE6677",
    "scoring": "#CCBB44",
    "learning": "#228833",
    "evaluating": "#66CCEE",
    "other": "#BBBBBB",
}
MAX_POINTS = 32
MAX_WITH_SEEDS = 6  # methods; with more, single seeds hide the bands


def save_curves(evidence: Evidence, path: Path) -> None:
    """Write the learning curves as PNG, readable at the width of a README."""
    fig, axes = figure(PAPER, 10.4, 5.0, panels=2)
    methods = [runs.method for runs in evidence.methods]
    with styled(PAPER):
        draw_curves(axes[0], evidence, PAPER)
        draw_curves(axes[1], evidence, PAPER, log=True)
        axes[1].set_ylabel("")
        fig.suptitle(f"{title(evidence)}\n", x=0.012, ha="left", fontsize=13, fontweight="bold")
        fig.text(0.012, 0.925, subtitle(evidence), ha="left", va="top", fontsize=9)
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower left", ncols=5 if len(methods) < 5 else 4)
    _save_png(fig, path)


def save_highlight(evidence: Evidence, method: str, path: Path) -> None:
    """Write one method's learning curve as PNG, bold before thin ones of all the others."""
    fig, (ax,) = figure(PAPER, 6.4, 3.3)
    methods = [runs.method for runs in evidence.methods]
    with styled(PAPER):
        _prepare_curves(ax, evidence, PAPER)
        ends = []
        for runs in sorted(evidence.methods, key=lambda runs: runs.method == method):
            center = runs.rates.mean(axis=-1).mean(axis=0)
            if runs.method != method:
                ax.plot(runs.budgets, center, color=PAPER.faint, lw=1.1)
                continue
            color = color_of(method, methods)
            for run in runs.runs:
                ax.plot(run.budgets, run.scores, color=color, lw=0.6, alpha=0.5)
            low, high = _band(runs, methods.index(method))
            ax.fill_between(runs.budgets, low, high, color=color, alpha=0.16, lw=0)
            ax.plot(runs.budgets, center, color=color, lw=2.2)
            ends.append((float(center[-1]), label_of(runs), color))
        _label_ends(ax, ends, _top(evidence))
        fig.suptitle(f"{title(evidence)}\n", x=0.015, ha="left", fontsize=10, fontweight="bold")
        fig.text(0.015, 0.915, f"{subtitle(evidence)}  ·  grey: the others", va="top", fontsize=6.2)
    _save_png(fig, path, dpi=120)


def _save_png(fig: Figure, path: Path, dpi: int = 160) -> None:
    """Write atomically; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    draft = path.with_name(path.name + ".tmp")
    draft.write_bytes(buffer.getvalue())
    draft.replace(path)


def title(evidence: Evidence) -> str:
    """What is compared on what: ``lexicon (coined=2): pass@1 on held-out tasks``."""
    setup = evidence.setup
    dials = ", ".join(f"{key}={value}" for key, value in setup.dials.items())
    return f"{setup.suite}{f' ({dials})' if dials else ''}: pass@1 on held-out tasks"


def subtitle(evidence: Evidence) -> str:
    """Seeds, tasks, budget and sandbox in one line."""
    counts = sorted({len(runs.used) for runs in evidence.methods})
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    band = "over tasks only" if counts[-1] == 1 else "over seeds and tasks"
    parts = [
        f"mean of {seeds} seeds" if seeds != "1" else "one seed",
        f"95% bootstrap band {band}",
        f"{min(runs.rates.shape[2] for runs in evidence.methods)} tasks",
    ]
    if evidence.setup.sandbox:
        parts.append(f"verified by execution in {evidence.setup.sandbox}")
    return "  ·  ".join(parts)


def _top(evidence: Evidence) -> float:
    """Upper end of the score axis: 100% unless every run stays in the lowest quarter."""
    highest = max(float(run.scores.max()) for runs in evidence.methods for run in runs.runs)
    return next(top for top in (0.05, 0.1, 0.25, 1.0) if highest <= 0.9 * top or top == 1.0)


def label_of(runs: MethodRuns) -> str:
    """Name of a curve, with its unit where that is not rollouts sampled."""
    return runs.method if runs.axis == "rollouts" else f"{runs.method} (by {runs.axis})"


def draw_curves(ax: Axes, evidence: Evidence, theme: Theme, *, log: bool = False) -> None:
    """Learning curves: mean over seeds, 95% band, thin seeds, base, thresholds, direct labels.

    Args:
        ax: where to draw.
        evidence: loaded results.
        theme: colours of ink and rules.
        log: draw over log2 of the budget; the base model at 0 is then left of the axis.
    """
    methods = [runs.method for runs in evidence.methods]
    end = max(float(runs.budgets[-1]) for runs in evidence.methods) or 1.0
    ends: list[tuple[float, str, str]] = []
    for stream, runs in enumerate(evidence.methods):
        color, dash = color_of(runs.method, methods), DASHES.get(runs.method, "-")
        first = 1 if log and runs.budgets[0] == 0 else 0
        for run in runs.runs if len(methods) <= MAX_WITH_SEEDS else ():
            start = 1 if log and run.budgets[0] == 0 else 0
            ax.plot(run.budgets[start:], run.scores[start:], color=color, lw=0.6, alpha=0.35)
        x = runs.budgets[first:]
        curves = runs.rates.mean(axis=-1)
        low, high = _band(runs, stream)
        ax.fill_between(x, low[first:], high[first:], color=color, alpha=0.16, lw=0)
        center = curves.mean(axis=0)
        ax.plot(x, center[first:], color=color, lw=2, ls=dash, label=label_of(runs))
        if len(x):
            ends.append((float(center[-1]), runs.method, color))
    _prepare_curves(ax, evidence, theme)
    if log:
        ax.set_xlabel(f"{ax.get_xlabel()} (log scale)")
        starts = [r.budgets[r.budgets > 0] for r in evidence.methods]
        least = min((float(s[0]) for s in starts if len(s)), default=1.0)
        ax.set_xscale("log", base=2)
        ax.set_xlim(least / 1.05, end * 1.02)
        ticks = [end / 2**k for k in range(6) if end / 2**k >= least * 0.99]
        ax.set_xticks(ticks)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
    _label_ends(ax, ends, _top(evidence))


def _prepare_curves(ax: Axes, evidence: Evidence, theme: Theme) -> None:
    """Scores against budget: base, thresholds, both axes and their labels."""
    for threshold in (t for t in THRESHOLDS if t <= _top(evidence)):
        ax.axhline(threshold, color=theme.faint, lw=0.8, ls=(0, (4, 3)), zorder=0.5)
    if evidence.base is not None and not np.isnan(evidence.base).all():
        ax.axhline(
            float(np.nanmean(evidence.base)), color=theme.ink, lw=1, ls="--", label="base model"
        )
    top = _top(evidence)
    ax.set_ylim(-0.02 * top, 1.02 * top)
    ax.set_yticks([0, *THRESHOLDS, 1] if top == 1 else np.linspace(0, top, 6))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylabel("pass@1, held-out tasks")
    ax.grid(visible=False)
    units = sorted({runs.axis for runs in evidence.methods})
    unit = "training rollouts" if "rollouts" in units else units[0]
    ax.set_xlabel(unit)
    end = max(float(runs.budgets[-1]) for runs in evidence.methods) or 1.0
    ax.set_xlim(0, end * 1.005)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))


def _label_ends(ax: Axes, ends: list[tuple[float, str, str]], top: float) -> None:
    """Name each curve at its right end, pushed apart so that no two labels touch."""
    gap = 0.052 * top
    places: list[float] = []
    for value, _, _ in sorted(ends):
        places.append(max(value, places[-1] + gap) if places else value)
    overshoot = max(places[-1] - top, 0.0) if places else 0.0
    ceiling = np.inf
    for index in range(len(places) - 1, -1, -1):  # push back down from the top
        places[index] = min(places[index], (top if overshoot else np.inf), ceiling - gap)
        ceiling = places[index]
    for place, (_, method, color) in zip(places, sorted(ends), strict=True):
        ax.annotate(
            method,
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            color=color,
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )


def _band(runs: MethodRuns, stream: int) -> tuple[Floats, Floats]:
    """(E,) lower and upper edge of the pointwise 95% band of the mean curve."""
    drawn = mean(np.swapaxes(replicates(runs.rates, stream=stream), -1, -2))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


def draw_panel(ax: Axes, panel: Panel, evidence: Evidence) -> list[str]:
    """One mechanism metric over the budget: mean over seeds, range of seeds as a band.

    Steps are averaged into at most ``MAX_POINTS`` equal bins, because single training steps are
    too noisy to read.

    Returns:
        the methods that logged it, in drawing order.
    """
    methods = [runs.method for runs in evidence.methods]
    rows = evidence.metrics[
        (evidence.metrics["name"] == panel.metric) & (evidence.metrics["split"] == "train")
    ]
    drawn = []
    for runs in evidence.methods:
        own = rows[(rows["method"] == runs.method) & rows["seed"].isin(runs.used)]
        own = own[np.isfinite(own["value"])]
        if own.empty:
            continue
        if "/style:" in panel.metric:
            own = _with_unused_steps(own, evidence.metrics, runs.method)
        if not runs.axis.startswith(
            "rollout"
        ):  # no rollouts to count: spread the steps over its own budget
            own = own.assign(rollouts=own["step"] * runs.budgets[-1] / own["step"].max())
        x, low, center, high = _binned(own)
        color = color_of(runs.method, methods)
        ax.fill_between(x, low, high, color=color, alpha=0.16, lw=0)
        ax.plot(x, center, color=color, lw=1.8, ls=DASHES.get(runs.method, "-"), label=runs.method)
        drawn.append(runs.method)
    ax.set_xlim(0, max(float(runs.budgets[-1]) for runs in evidence.methods) or 1.0)
    ax.set_xlabel("training rollouts")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    ax.locator_params(axis="x", nbins=5)
    ax.margins(y=0.06)
    if panel.share:
        ax.set_ylim(-0.03, 1.03)
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif panel.from_zero:
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]) if (rows["value"] < 0).any() else 0.0)
    return drawn


def _with_unused_steps(shares: pd.DataFrame, metrics: pd.DataFrame, method: str) -> pd.DataFrame:
    """Add the zeros: a style that nobody used at a step is not logged there, its share is 0."""
    role = str(shares["name"].iloc[0]).partition("/")[0]
    steps = metrics[
        (metrics["method"] == method)
        & (metrics["name"] == f"{role}/length")
        & (metrics["split"] == "train")
        & metrics["seed"].isin(shares["seed"].unique())
    ]
    # only steps at which the role wrote something; every such step logs how much
    unused = steps.assign(value=0.0)
    return pd.concat([shares, unused]).drop_duplicates(["seed", "step"], keep="first")


def _binned(rows: pd.DataFrame) -> tuple[Floats, Floats, Floats, Floats]:
    """Budget, lowest seed, mean and highest seed in equal bins of steps."""
    first, last = int(rows["step"].min()), int(rows["step"].max())
    width = max(1, -(-(last - first + 1) // MAX_POINTS))
    table = rows.assign(bin=(rows["step"] - first) // width)
    seeds = table.pivot_table(index="bin", columns="seed", values="value", aggfunc="mean")
    x = table.groupby("bin")["rollouts"].mean().reindex(seeds.index)
    return (
        x.to_numpy(np.float64),
        seeds.min(axis=1).to_numpy(np.float64),
        seeds.mean(axis=1).to_numpy(np.float64),
        seeds.max(axis=1).to_numpy(np.float64),
    )


def draw_profile(ax: Axes, evidence: Evidence) -> None:
    """Performance profile: share of (seed, task) cells solved more often than x [2108.13264]."""
    methods = [runs.method for runs in evidence.methods]
    x = np.linspace(0, 1, 201)[:-1]
    for runs in evidence.methods:
        ax.plot(
            x,
            performance_profile(runs.final, x),
            color=color_of(runs.method, methods),
            ls=DASHES.get(runs.method, "-"),
            lw=1.8,
            drawstyle="steps-post",
        )
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.03, 1.03)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("success rate on one task")
    ax.set_ylabel("share of tasks above it")


def draw_times(ax: Axes, summary: dict[str, Any]) -> None:
    """Where the wall time of one run went: stacked bars, medians over seeds."""
    names = [m for m, entry in summary["methods"].items() if entry["time"]["total"]][::-1]
    left = np.zeros(len(names))
    totals = np.array([summary["methods"][m]["time"]["total"] for m in names])
    for part in (*TIMES[:-1], "other"):
        values = np.array([summary["methods"][m]["time"].get(part) or 0.0 for m in names])
        if part == "other":
            values = np.maximum(totals - left, 0.0)
        if values.any():
            ax.barh(names, values, left=left, color=TIME_COLORS[part], label=part, height=0.62)
        left = left + values
    for place, total in enumerate(totals):
        ax.annotate(
            f"{total:,.0f} s",
            (total, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    _finish_bars(ax)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.02), ncols=3, fontsize=8.5)


def draw_bars(ax: Axes, summary: dict[str, Any], budget: str) -> None:
    """One budget per method as plain bars, medians over seeds."""
    methods = list(summary["methods"])
    names = [m for m in methods if summary["methods"][m]["budget"][budget] is not None][::-1]
    values = [summary["methods"][m]["budget"][budget] for m in names]
    ax.barh(names, values, color=[color_of(m, methods) for m in names], height=0.62)
    for place, value in enumerate(values):
        ax.annotate(
            count(value),
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    _finish_bars(ax)


def _finish_bars(ax: Axes) -> None:
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.16)
    ax.set_xlim(left=0)
    ax.spines["bottom"].set_visible(False)
    ax.set_xticks([])  # every bar carries its number
