"""`pedrl methods`: what can be compared, who says so, what each sees, and what can be set."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pedrl_agents.knobs import Knob, knobs_of
from pedrl_agents.learner import LearnerConfig
from pedrl_agents.registry import Method, method_class, methods

LEARNER = "learner"


def knobs(name: str) -> list[Knob]:
    """Return the settings of a method, or those of the learner, which every method has."""
    return knobs_of(LearnerConfig() if name == LEARNER else method_class(name)())


def show(names: Sequence[str], as_json: bool, console: Console) -> None:
    """Print all methods in a line each, or those named with all that can be set.

    Raises:
        PedrlError: for a name that is not known, with near matches.
    """
    known = methods()
    if as_json:
        chosen = {n: _plain(known[n], n) for n in known if not names or n in _checked(names)}
        plain = {"methods": chosen, LEARNER: [dataclasses.asdict(k) for k in knobs(LEARNER)]}
        console.print_json(json.dumps(plain))
    elif names:
        for name in _checked(names):
            _describe(name, known[name], console)
        console.print(_knob_table(f"of the {LEARNER}, for every method", knobs(LEARNER)))
    else:
        table = Table(
            "method", "what it is", "source", "samples", "privileged information", "knobs"
        )
        for name, method in known.items():
            summary = f"{method.summary} [dim](control)[/]" if method.control else method.summary
            count = str(len(knobs(name)))
            row = (name, summary, method.source, method.samples, method.privileged, count)
            table.add_row(*row)
        console.print(table)
        console.print("`pedrl methods NAME` lists what can be set, with ranges.", markup=False)


def _checked(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        method_class(name)
    return names


def _describe(name: str, method: Method, console: Console) -> None:
    facts = f"{method.source}; samples: {method.samples}; privileged: {method.privileged}"
    console.print(f"{name}: {method.summary}\n{facts}", markup=False, highlight=False)
    console.print(_knob_table(f"--set {name}.KNOB=VALUE", knobs(name)))


def _knob_table(title: str, listed: Sequence[Knob]) -> Table:
    table = Table("knob", "default", "values", "others", "what it does", title=title)
    for k in listed:
        table.add_row(k.name, _text(k.default), k.values, k.usual, k.about.replace("``", "`"))
    return table


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _plain(method: Method, name: str) -> dict[str, Any]:
    about = {k: v for k, v in dataclasses.asdict(method).items() if k != "path"}
    return {**about, "knobs": [dataclasses.asdict(k) for k in knobs(name)]}
