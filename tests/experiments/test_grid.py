"""``--grid``: lists for all methods or one, checked before anything is trained."""

from collections.abc import Sequence

import pytest

from pedrl_experiments.grid import choose_grid
from pedrl_experiments.tune import trials_of
from pedrl_sandbox.errors import PedrlError


def test_a_list_is_for_every_method_or_for_the_one_it_names() -> None:
    words = ["learning_rate=1e-3,3e-3", "grpo.group_size=4,8", "opsd.divergence.beta=0,1"]
    grid = choose_grid({}, "", ["grpo", "opsd"], words)
    assert grid == {
        "grpo": {"learning_rate": [1e-3, 3e-3], "group_size": [4, 8]},
        "opsd": {"learning_rate": [1e-3, 3e-3], "divergence.beta": [0, 1]},
    }
    assert {m: len(t) for m, t in trials_of(grid).items()} == {"grpo": 4, "opsd": 4}
    assert choose_grid({}, "", [], ["grpo.group_size=2"]) == {"grpo": {"group_size": [2]}}


def test_without_lists_every_method_gets_the_same_three_learning_rates() -> None:
    grid = choose_grid({}, "", ["sdpo", "hdpo"], [])
    assert grid == {m: {"learning_rate": [3e-4, 1e-3, 3e-3]} for m in ("sdpo", "hdpo")}


def test_a_preset_has_lists_of_its_own_which_words_replace() -> None:
    preset = {"grpo": {"group_size": [4, 8]}, "opsd": {"learning_rate": [1e-3, 1e-2]}}
    assert choose_grid(preset, "mine", [], []) == preset
    assert choose_grid(preset, "mine", ["opsd"], []) == {"opsd": preset["opsd"]}
    replaced = choose_grid(preset, "mine", ["grpo"], ["learning_rate=1e-4"])
    assert replaced == {"grpo": {"learning_rate": [1e-4]}}


@pytest.mark.parametrize(
    ("preset", "name", "methods", "words", "message"),
    [
        ({}, "", [], [], "nothing to tune: name a method with --methods"),
        ({}, "", [], ["learning_rate=1"], "nothing to tune"),
        ({}, "", ["grop"], [], "unknown method 'grop': did you mean 'grpo'"),
        ({}, "", ["grpo"], ["learning_rte=1"], "did you mean 'learning_rate'"),
        ({}, "", ["grpo"], ["opsd.storage=ema"], "unknown method to tune in --grid 'opsd'"),
        ({}, "", ["grpo"], ["learning_rate"], "write key=value,value"),
        ({}, "", ["opsd"], ["divergence.beta=0,2"], "opsd.divergence.beta must be 0 to 1, not 2"),
        ({"grpo": {}}, "mine", ["gpro"], [], "unknown method in the grid of mine 'gpro'"),
    ],
)
def test_mistakes_are_named(
    preset: dict[str, dict[str, list[float]]],
    name: str,
    methods: Sequence[str],
    words: Sequence[str],
    message: str,
) -> None:
    with pytest.raises(PedrlError, match=message):
        choose_grid(preset, name, methods, words)
