"""Writes ``curves.png`` and ``report.html``: one file, no script, nothing fetched from anywhere.

The page is built from the same summary as ``summary.json``; every sentence of its verdict comes
from intervals (`pedrl_experiments.verdict`), and figures are inline SVG in the page's own ink, so
it reads on a light or dark page, at the width of a desk or a phone.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes

from pedrl_experiments import canvas, plots
from pedrl_experiments.evidence import Evidence, load
from pedrl_experiments.panels import GLOSSARY, panels
from pedrl_experiments.summary import BASELINE, THRESHOLDS, summary_of
from pedrl_experiments.verdict import CONTROLS, caveats, interval_text, percent

BUDGET_COLUMNS = {
    "rollouts": "rollouts",
    "demonstrations": "demonstrations",
    "sampled_tokens": "sampled tokens",
    "processed_tokens": "processed tokens",
    "executions": "verifier executions",
    "cache_hits": "verdict cache hits",
    "infra_errors": "infrastructure errors",
    "cpu_s": "CPU s",
}
NUMBERS = {5: "Five", 6: "Six", 7: "Seven", 8: "Eight", 9: "Nine", 10: "Ten", 11: "Eleven"}
BARS = {
    "sampled_tokens": "Tokens sampled",
    "processed_tokens": "Tokens processed, scoring passes included",
    "executions": "Submissions executed in the sandbox",
}


@dataclass(frozen=True, slots=True)
class FigureBlock:
    """One figure of the page: heading, SVG, how to read it, and the methods drawn."""

    title: str
    svg: Markup
    reading: str
    methods: tuple[tuple[str, str], ...] = ()


def write_report(out: Path) -> None:
    """Write ``OUT/curves.png``, ``OUT/curves/METHOD.png`` and ``OUT/report.html``, each atomically.

    Args:
        out: folder with ``config.json``, ``metrics.parquet`` and ``results.parquet``.

    Raises:
        PedrlError: if a file is missing, unreadable or holds no result on the held-out split.
    """
    evidence = load(out)
    page = render(evidence, summary_of(evidence))
    plots.save_curves(evidence, out / "curves.png")
    (out / "curves").mkdir(exist_ok=True)
    for runs in evidence.methods:
        plots.save_highlight(evidence, runs.method, out / "curves" / f"{runs.method}.png")
    draft = out / "report.html.tmp"
    draft.write_text(page, encoding="utf-8")
    draft.replace(out / "report.html")


def render(evidence: Evidence, summary: dict[str, Any]) -> str:
    """The page as text, from loaded evidence and its summary."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pedrl_experiments", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval_text, "count": _count}
    methods = [runs.method for runs in evidence.methods]
    order = sorted(methods, key=lambda m: -summary["methods"][m]["final"]["iqm"]["value"])
    mechanism = _mechanism(evidence)
    return environment.get_template("report.html.j2").render(
        s=summary,
        title=_title(evidence),
        order=order,
        controls=CONTROLS,
        baseline=BASELINE,
        thresholds=[str(t) for t in THRESHOLDS],
        colors={m: canvas.color_of(m, methods) for m in methods},
        caveats=caveats(summary),
        curves=_curves(evidence),
        profile=_profile(evidence),
        main=[block for main, block in mechanism if main],
        more=[block for main, block in mechanism if not main],
        costs=_costs(summary),
        budget_columns=_used_budgets(summary),
        glossary=GLOSSARY,
        config=_flat(evidence.setup.raw),
        command=_command(evidence),
    )


def _title(evidence: Evidence) -> str:
    setup = evidence.setup
    dials = ", ".join(f"{key}={value}" for key, value in setup.dials.items())
    names = [runs.method for runs in evidence.methods]
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    if len(names) > 4:
        listed = f"{NUMBERS.get(len(names), len(names))} methods"
    return f"{listed} on {setup.suite}{f' ({dials})' if dials else ''}"


def _draw(salt: str, width: float, height: float, paint: Callable[[Axes], object]) -> Markup:
    with canvas.styled(canvas.PAGE):
        fig, axes = canvas.figure(canvas.PAGE, width, height)
        paint(axes[0])
    return Markup(canvas.svg(fig, salt))


def _curves(evidence: Evidence) -> list[FigureBlock]:
    def paint(log: bool) -> Callable[[Axes], object]:
        return lambda ax: plots.draw_curves(ax, evidence, canvas.PAGE, log=log)

    methods = [runs.method for runs in evidence.methods]
    legend = tuple(
        (plots.label_of(runs), canvas.color_of(runs.method, methods)) for runs in evidence.methods
    )
    return [
        FigureBlock(
            "Over rollouts",
            _draw("linear", 5.4, 3.9, paint(log=False)),
            "Bold: mean over seeds. Band: 95% interval, pointwise. Thin: single seeds. Dashed: the "
            "base model; faint: the thresholds. Higher and further left is better.",
            legend,
        ),
        FigureBlock(
            "Over doublings of the budget",
            _draw("log", 5.4, 3.9, paint(log=True)),
            "The same curves; each tick doubles the rollouts. The horizontal distance between two "
            "curves at one height is the speed-up.",
            legend,
        ),
    ]


def _profile(evidence: Evidence) -> FigureBlock:
    return FigureBlock(
        "How evenly the skill is spread",
        _draw("profile", 5.4, 3.4, lambda ax: plots.draw_profile(ax, evidence)),
        "Share of all seed-and-task cells solved more often than x at the end. A flat line is a "
        "method that solves some tasks always and the others never.",
        _legend(evidence, [runs.method for runs in evidence.methods]),
    )


def _legend(evidence: Evidence, drawn: list[str]) -> tuple[tuple[str, str], ...]:
    methods = [runs.method for runs in evidence.methods]
    return tuple((method, canvas.color_of(method, methods)) for method in drawn)


def _mechanism(evidence: Evidence) -> list[tuple[bool, FigureBlock]]:
    """Every logged training metric as a figure; True marks those shown at once."""
    rows = evidence.metrics[evidence.metrics["split"] == "train"]
    known = {runs.method for runs in evidence.methods}
    names = rows.loc[rows["method"].isin(known), "name"].unique()
    blocks = []
    for number, panel in enumerate(panels(names)):
        drawn: list[str] = []

        def paint(ax: Axes, panel: Any = panel, drawn: list[str] = drawn) -> None:
            drawn += plots.draw_panel(ax, panel, evidence)

        picture = _draw(f"panel-{number}", 4.0, 2.4, paint)
        if drawn:
            block = FigureBlock(panel.title, picture, panel.reading, _legend(evidence, drawn))
            blocks.append((panel.main, block))
    return blocks


def _costs(summary: dict[str, Any]) -> list[FigureBlock]:
    """Bars of time and budgets; a budget that no method logged leaves its figure out."""
    entries = summary["methods"].values()
    count = len(entries)
    blocks = []
    if any(entry["time"]["total"] for entry in entries):
        picture = _draw("time", 5, 1.5 + 0.3 * count, lambda ax: plots.draw_times(ax, summary))
        blocks.append(FigureBlock("Wall time of one run", picture, "Median over seeds."))
    for name, title in BARS.items():
        if any(entry["budget"][name] for entry in entries):
            picture = _draw(
                f"bars-{name}",
                5,
                0.7 + 0.3 * count,
                lambda ax, name=name: plots.draw_bars(ax, summary, name),  # type: ignore[misc]
            )
            blocks.append(FigureBlock(title, picture, "Per run, median over seeds."))
    return blocks


def _used_budgets(summary: dict[str, Any]) -> dict[str, str]:
    entries = summary["methods"].values()
    return {
        name: label
        for name, label in BUDGET_COLUMNS.items()
        if any(entry["budget"][name] is not None for entry in entries)
    }


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested config as dotted keys, in the order of the file."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            rows += _flat(item, f"{name}.")
        elif isinstance(item, list):
            rows.append((name, ", ".join(map(str, item))))
        else:
            rows.append((name, "" if item is None else str(item)))
    return rows


def _command(evidence: Evidence) -> str:
    """The command as recorded, else one that says the same."""
    setup = evidence.setup
    if setup.command:
        return setup.command
    parts = ["pedrl", "compare", "--suite", setup.suite, "--methods", *setup.methods]
    parts += ["--seeds", str(len(setup.seeds)), "--budget", str(setup.budget)]
    for key, value in setup.dials.items():
        parts += ["--set", f"{key}={value}"]
    return shlex.join([*parts, "--out", "OUT"])


def _count(value: float | None) -> str:
    """A count for a table cell; an en dash where it was not logged."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2f}"
