"""``--grid key=value,value``: what `pedrl tune` tries, if that is not in a preset."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pedrl_agents.registry import methods as known_methods
from pedrl_experiments.config import build_method
from pedrl_experiments.sets import Value, parse_value
from pedrl_sandbox.errors import PedrlError, unknown_name

Grid = dict[str, dict[str, list[Value]]]
LEARNING_RATES = ("learning_rate=3e-4,1e-3,3e-3",)


def choose_grid(
    preset: Mapping[str, Any], name: str, methods: Sequence[str], words: Sequence[str]
) -> Grid:
    """Return the lists to try for each method.

    Args:
        preset: tables of the preset called `name`, if there is one.
        name: of the preset, for messages.
        methods: tune only these; all that have a list if empty.
        words: ``learning_rate=1e-3,3e-3`` for every method, ``grpo.group_size=4,8`` for one. They
            replace the preset's lists. Without either, three learning rates are tried.

    Raises:
        PedrlError: for a method or knob that does not exist, with near matches, for a value that
            does not fit its knob, or if no method is named.
    """
    if preset and not words:
        for method in methods:
            if method not in preset:
                raise unknown_name(f"method in the grid of {name}", method, preset)
        return {m: g for m, g in preset.items() if not methods or m in methods}
    common: dict[str, list[Value]] = {}
    grid: Grid = {m: {} for m in methods}
    for word in words or (() if name else LEARNING_RATES):
        key, values = _split(word)
        head, _, tail = key.partition(".")
        if head not in known_methods():
            common[key] = values
        elif methods and head not in methods:
            raise unknown_name("method to tune in --grid", head, methods)
        else:
            grid.setdefault(head, {})[tail] = values
    if not grid and not name:
        raise PedrlError("nothing to tune: name a method with --methods, or a --preset with a grid")
    grid = {m: common | own for m, own in grid.items() if common or own}
    for method, lists in grid.items():
        _check(method, lists.items())
    return grid


def _split(word: str) -> tuple[str, list[Value]]:
    key, equals, text = word.partition("=")
    if not equals or not key or not text:
        raise PedrlError(f"--grid {word!r}: write key=value,value, as in learning_rate=1e-3,3e-3")
    return key, [parse_value(part) for part in text.split(",")]


def _check(method: str, lists: Iterable[tuple[str, Sequence[Value]]]) -> None:
    for knob, values in lists:
        for value in values:
            build_method(method, {knob: value})
