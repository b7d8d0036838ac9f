"""docs/metrics.md defines every number that a run logs, and no number that none does."""

import re
from pathlib import Path

import pytest

from pedrl_experiments.config import CompareConfig
from pedrl_experiments.loop import RunKey, run_one
from pedrl_experiments.store import read_rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
# Between them they log everything that any method does; the others log a part of it.
METHODS = ("pedagogical", "grpo", "opsd", "oracle-sft", "sdpo", "jolt", "hdpo")


def generic(name: str) -> str:
    """A logged name as the page writes it: roles and styles stand for any."""
    return re.sub(r":.*$", ":NAME", name)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names by split, of three steps of each method from the shipped base, whose teacher passes."""
    out = tmp_path_factory.mktemp("logged")
    settings: dict[str, dict[str, bool | int | float | str]] = {
        method: {"group_size": 4} for method in METHODS
    }
    settings["pedagogical"]["warmup"] = 0
    config = CompareConfig(
        dials={"coined": 1},
        methods=METHODS,
        settings=settings,
        seeds=1,
        budget=48,
        tasks_per_step=4,
        eval_points=0,
        eval_tasks=2,
        final_tasks=2,
        final_samples=1,
        gates=False,
    )
    for method in METHODS:
        run_one(config, RunKey(method, 0), out / method, lambda *news: None)
    names: dict[str, set[str]] = {}
    for row in read_rows([out / method for method in METHODS], "metrics"):
        names.setdefault(row["split"], set()).add(row["name"])
    return names


@pytest.fixture(scope="module")
def defined() -> dict[str, set[str]]:
    """Names by split, with both roles filled in."""
    text = PAGE.read_text(encoding="utf-8")
    found: dict[str, set[str]] = {"test": set(), "train": set()}
    for section in text.split("\n## ")[1:]:
        split = "test" if section.startswith("Evaluation") else "train"
        for line in section.splitlines():
            if line.startswith("| `"):
                for name in re.findall(r"`([^`]+)`", line.split("|")[1]):
                    found[split] |= {
                        name.replace("{role}", role) for role in ("student", "teacher")
                    }
    return found


@pytest.mark.parametrize("split", ["test", "train"])
def test_every_logged_name_is_defined(
    logged: dict[str, set[str]], defined: dict[str, set[str]], split: str
) -> None:
    assert {name for name in logged[split] if generic(name) not in defined[split]} == set()


@pytest.mark.parametrize("split", ["test", "train"])
def test_every_defined_name_is_logged(
    logged: dict[str, set[str]], defined: dict[str, set[str]], split: str
) -> None:
    assert defined[split] - {generic(name) for name in logged[split]} == set()
