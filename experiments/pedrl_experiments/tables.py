"""What a comparison prints at its end."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

THRESHOLDS = ("0.25", "0.5", "0.75")


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the summary table, the two gates and the share of time spent verifying."""
    table = Table(
        "method",
        "pass@1 (IQM, 95% CI)",
        "mean",
        "area",
        *(f"rollouts to {float(t):.0%}" for t in THRESHOLDS),
        "rollouts",
        "verifying",
        title=f"{summary['suite']} {summary['dials']} · base {_percent(summary['base'])} "
        f"· {len(summary['seeds'])} seeds · {summary['tasks']} held-out tasks",
    )
    ranked = sorted(summary["methods"].items(), key=lambda kv: -(kv[1]["final"]["iqm"]["value"]))
    for name, method in ranked:
        share = method["verifying_share"]
        table.add_row(
            name,
            _percent(method["final"]["iqm"]),
            f"{100 * method['final']['mean']['value']:.1f}",
            "–" if method["aulc"] is None else f"{method['aulc']['value']:.3f}",
            *(method["to_threshold"][t]["text"] for t in THRESHOLDS),
            f"{method['budget'].get('rollouts') or 0:,.0f}",
            "–" if share is None else f"{share:.0%}",
        )
    console.print(table)
    times = [method["time"] for _, method in ranked if method["verifying_share"] is not None]
    if times:
        waited = sum(time["verifying"] for time in times) / sum(time["total"] for time in times)
        console.print(f"verifying, all methods: {waited:.1%} of wall time", highlight=False)
    for name, gate in summary["gates"].items():
        console.print(
            f"gate {name}: {gate['status']} ({gate.get('text', gate.get('hint', ''))}; "
            f"{gate['requires']})",
            highlight=False,
        )
    for warning in summary["warnings"]:
        console.print(f"note: {warning}", highlight=False)


def _percent(interval: Mapping[str, Any] | None) -> str:
    """Show a fraction with its interval in percent."""
    if interval is None or interval["value"] is None:
        return "unknown"
    value = f"{100 * interval['value']:.1f}%"
    if interval.get("low") is None or interval.get("high") is None:
        return value
    return f"{value} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"
