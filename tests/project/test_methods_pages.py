"""A page for each method whose defaults and commands are the code's, and one that adds a method."""

import re
import sys
from pathlib import Path

import pytest

import pedrl_agents.algorithms
from pedrl_agents.registry import METHODS, Method
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.records import Group, Status, Task, Trajectory, Verdict
from pedrl_experiments.config import CompareConfig, build_method, load_preset
from pedrl_experiments.loop import RunKey, run_one
from pedrl_experiments.methods_command import knobs
from pedrl_experiments.sets import parse_value
from pedrl_experiments.store import read_rows
from tests.project.conftest import ROOT
from tests.tiny import tiny_policy

FOLDER = ROOT / "docs" / "methods"
GUIDE = "add-a-method.md"
COMMAND = re.compile(r"^pedrl (compare|tune) (.*)$", re.MULTILINE)


def page(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def test_every_method_has_a_page_and_every_page_a_method() -> None:
    pages = {path.stem for path in FOLDER.glob("*.md")} - {"README", "add-a-method"}
    assert pages == set(METHODS)
    assert all(f"]({name}.md)" in page("README.md") for name in METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_page_says_what_the_code_does(name: str) -> None:
    text, method = page(f"{name}.md"), METHODS[name]
    assert f"Source: {method.source}." in text
    assert f"Samples: {method.samples}. Privileged information: {method.privileged}." in text
    for part in ("## Equation\n\n    ", "## Defaults, and who says so", "## Command", "curves.png"):
        assert part in text
    rows = re.findall(rf"^\| `{name}\.([a-z_.]+)` \| (\S+) \| (.+) \|$", text, re.MULTILINE)
    told = {knob: parse_value(value) for knob, value, _ in rows}
    real = {knob.name: knob.default for knob in knobs(name)}
    elsewhere = {knob for knob in real if knob.startswith("policy_loss.") and name != "grpo"}
    assert told == {knob: value for knob, value in real.items() if knob not in elsewhere}
    assert ("(grpo.md)" in text) == bool(elsewhere)
    assert all(who.strip() for _, _, who in rows)


@pytest.mark.parametrize("name", METHODS)
def test_the_command_of_a_page_is_that_of_its_picture(name: str) -> None:
    text = page(f"{name}.md")
    ((_, words),) = COMMAND.findall(text)
    assert words == f"--preset methods --methods {name} --out runs/{name}"
    (picture,) = re.findall(r"!\[[^]]+\]\((.+)\)", text)
    assert Path(picture).stem == name
    assert (FOLDER / picture).read_bytes().startswith(b"\x89PNG")


def test_options_that_pages_name_exist() -> None:
    sets = re.findall(r"`((?:[a-z_.]+=[\w.-]+ ?)+)`", page("grpo.md"))
    assert len(sets) == 3
    for line in sets:
        knob_values = dict(item.split("=") for item in line.split())
        build_method("grpo", {k: parse_value(v) for k, v in knob_values.items()})


def test_the_commands_for_all_methods_are_those_of_the_preset() -> None:
    plain = load_preset("methods")
    assert set(plain["methods"]) == set(METHODS)
    sizes = set()
    for name, lists in plain["grid"].items():
        assert name in METHODS
        size = 1
        for values in lists.values():
            size *= len(values)
        sizes.add(size)
    assert set(plain["grid"]) == set(METHODS)
    assert sizes == {9}
    assert [
        c for c, words in COMMAND.findall(page("README.md")) if "--preset methods" in words
    ] == [
        "tune",
        "compare",
    ]


BLOCKS = re.findall(r"^```python\n(.*?)^```", page(GUIDE), re.MULTILINE | re.DOTALL)


def test_the_guides_method_has_thirty_lines() -> None:
    body = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len([line for line in body if not re.match(r"(from|import) ", line)]) <= 30


def test_the_guide_adds_a_method_that_trains(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, line, test = BLOCKS
    (tmp_path / "shortest_sft.py").write_text(source)
    monkeypatch.setattr(
        pedrl_agents.algorithms, "__path__", [*pedrl_agents.algorithms.__path__, str(tmp_path)]
    )
    monkeypatch.delitem(sys.modules, "pedrl_agents.algorithms.shortest_sft", raising=False)
    added: dict[str, Method] = eval("{" + line + "}", {"Method": Method})
    for name, method in added.items():
        monkeypatch.setitem(METHODS, name, method)
    assert [k.name for k in knobs("shortest-sft")] == ["group_size"]

    policy = tiny_policy(tiny_base)

    def make_groups(role: str, statuses: list[list[Status]]) -> list[Group]:
        config = CompareConfig(base=str(tiny_base), dials={"coined": 1})
        return groups_of(policy, config, statuses)

    namespace: dict[str, object] = {}
    exec(test, namespace)
    (check,) = (f for name, f in namespace.items() if name.startswith("test_"))
    assert callable(check)
    check(policy, make_groups)

    config = CompareConfig(
        suite="tests.e2e.canary_suite:CanarySuite",  # where nearly everything passes
        base=str(tiny_base),
        methods=("shortest-sft",),
        settings={"shortest-sft": {"group_size": 2}},
        seeds=1,
        budget=8,
        tasks_per_step=2,
        eval_points=0,
        eval_tasks=2,
        final_tasks=2,
        final_samples=1,
        max_new_tokens=6,
        gates=False,
    )
    run_one(config, RunKey("shortest-sft", 0), tmp_path / "run", lambda *news: None)
    rows = read_rows([tmp_path / "run"], "metrics")
    assert [r["value"] for r in rows if r["name"] == "budget/rollouts"][-1] == 8
    assert any(r["name"] == "loss/student" for r in rows)


def groups_of(
    policy: TorchPolicy, config: CompareConfig, statuses: list[list[Status]]
) -> list[Group]:
    """What the fixture `make_groups` of tests/agents makes, for a page that names it."""
    from pedrl_env.records import GenerationRequest
    from pedrl_env.registry import make_suite

    tasks: list[Task] = list(make_suite(config.suite, dict(config.dials)).tasks("train"))
    groups = []
    for task, row in zip(tasks, statuses, strict=False):
        (turns,) = policy.generate([GenerationRequest(task, "student", len(row))], 3)
        trajectories = tuple(
            Trajectory(
                task.id, 0, "student", 0, (t,), "", Verdict(s, float(s == "passed"), 0, 1), 3, False
            )
            for t, s in zip(turns, row, strict=True)
        )
        groups.append(Group(task, "student", trajectories))
    return groups
