"""The starter suite's own files: whole, balanced, and right; nothing in a prompt gives it away.

The programs are the project's own, so they run here, in this process. Mutants run in the sandbox
(`pedrl tasks validate starter`); here only those that are argued to be equivalent.
"""

import ast
import doctest
import json
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

import pedrl_tasks
from pedrl_env.comparison import matches
from pedrl_env.records import Comparison, Split
from pedrl_env.registry import make_suite
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.mutation import mutants

FOLDER = Path(pedrl_tasks.__file__).parent / "data" / "starter"
LINES = (FOLDER / "tasks.jsonl").read_text(encoding="utf-8").splitlines()
TASKS: list[dict[str, Any]] = [json.loads(line) for line in LINES]
SUITE = tomllib.loads((FOLDER / "suite.toml").read_text(encoding="utf-8"))
EQUIVALENT = tomllib.loads((FOLDER / "equivalent.toml").read_text(encoding="utf-8"))["mutant"]
TOPICS = {"strings", "lists", "dicts", "numbers", "algorithms"}
FIELDS = {
    "id": str, "family": str, "topic": str, "band": int, "split": str, "entry_point": str,
    "prompt": str, "solution": str, "terse": str, "tests": list, "comparison": str,
}  # fmt: skip

each_task = pytest.mark.parametrize("task", TASKS, ids=[task["id"] for task in TASKS])


def load(task: dict[str, Any], body: str) -> Callable[..., Any]:
    space: dict[str, Any] = {}
    exec(compile(task["prompt"] + body, task["id"], "exec"), space)
    function: Callable[..., Any] = space[task["entry_point"]]
    return function


def parse(test: str) -> tuple[str, list[Any], Any]:
    """Return the called name, the arguments and the expected value of ``f(args) == literal``."""
    match ast.parse(test, mode="eval").body:
        case ast.Compare(
            left=ast.Call(func=ast.Name(id=name), args=args, keywords=[]),
            ops=[ast.Eq()],
            comparators=[expected],
        ):
            return name, [ast.literal_eval(arg) for arg in args], ast.literal_eval(expected)
    raise AssertionError(f"not of the form f(args) == literal: {test}")


def failures(task: dict[str, Any], body: str) -> list[str]:
    """The tests that a body fails."""
    function = load(task, body)
    cases = [(test, *parse(test)[1:]) for test in task["tests"]]
    return [
        test
        for test, args, expected in cases
        if not matches(expected, function(*args), task["comparison"])
    ]


def test_fields_and_order() -> None:
    for task in TASKS:
        assert {name: type(value) for name, value in task.items()} == FIELDS, task["id"]
        assert all(type(test) is str for test in task["tests"])
        assert task["comparison"] in get_args(Comparison)
    ids = [task["id"] for task in TASKS]
    assert ids == sorted(ids)
    for name in ("id", "entry_point", "prompt", "solution", "terse"):
        assert len({task[name] for task in TASKS}) == len(TASKS) >= 220
    assert [json.dumps(task, ensure_ascii=False) for task in TASKS] == LINES


def test_suite_file() -> None:
    assert SUITE["name"] == SUITE["contamination_group"] == "starter"
    assert SUITE["licence"] == "Apache-2.0"
    assert all(SUITE[name] for name in ("title", "description", "citation", "version"))
    assert SUITE["splits"] == Counter(task["split"] for task in TASKS)


def test_families_lie_in_one_split() -> None:
    splits = defaultdict(set)
    for task in TASKS:
        splits[task["family"]].add(task["split"])
        assert task["family"].startswith(task["topic"] + "-")
        assert task["id"].startswith(task["topic"] + "-")
    assert len(splits) >= 55
    assert all(len(found) == 1 for found in splits.values())


def test_splits_are_balanced_over_topics_and_bands() -> None:
    cells = Counter((task["split"], task["topic"], task["band"]) for task in TASKS)
    assert {topic for _, topic, _ in cells} == TOPICS
    for split, share in zip(get_args(Split), (0.60, 0.15, 0.25), strict=True):
        sizes = [cells[split, topic, band] for topic in sorted(TOPICS) for band in (1, 2, 3, 4)]
        assert len(set(sizes)) == 1, split
        assert sum(sizes) / len(TASKS) == pytest.approx(share, abs=0.025)
    assert sum(cells.values()) == len(TASKS)


@each_task
def test_task(task: dict[str, Any]) -> None:
    """Both references pass; the tests are distinct calls with plain literals, and telling."""
    assert failures(task, task["solution"]) == failures(task, task["terse"]) == []
    parsed = [parse(test) for test in task["tests"]]
    assert len({repr(args) for _, args, _ in parsed}) == len(parsed) >= 8
    assert {name for name, _, _ in parsed} == {task["entry_point"]}
    _, _, first = parsed[0]
    compare = task["comparison"]
    assert not all(matches(expected, first, compare) for _, _, expected in parsed), "a constant"
    assert not all(matches(expected, args[0], compare) for _, args, expected in parsed), "identity"
    assert failures(task, "    pass\n")


@each_task
def test_prompt(task: dict[str, Any]) -> None:
    """Short, with one or two right examples, and without tests or lines of the references."""
    prompt = task["prompt"]
    assert len(prompt.split()) <= 90
    assert prompt.endswith('"""\n')
    plain, terse = load(task, task["solution"]), load(task, task["terse"])
    examples = doctest.DocTestParser().get_examples(plain.__doc__ or "")
    assert 1 <= len(examples) <= 2
    shown = set()
    for example in examples:
        shown.add(ast.unparse(ast.parse(example.source)))
        for function in (plain, terse):
            value = eval(example.source, {task["entry_point"]: function})
            assert matches(ast.literal_eval(example.want), value, task["comparison"])
    for test in task["tests"]:
        call = test.partition(" == ")[0]
        assert call not in prompt
        assert ast.unparse(ast.parse(call)) not in shown
    squeezed = re.sub(r"\s", "", prompt)
    for line in (task["solution"] + task["terse"]).splitlines():
        if not re.fullmatch(r" *return [\w, ()]+", line):  # a result named as the prompt names it
            code = re.sub(r"\s|return ", "", line)
            assert len(code) <= 12 or code not in squeezed, line


def test_references_are_plain_and_terse() -> None:
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)
    for task in TASKS:
        plain, terse = task["solution"], task["terse"]
        for body in (plain, terse):
            assert body.startswith("    ")
            assert body.endswith("\n")
            assert max(map(len, body.splitlines())) <= 100
        lines, words = (
            [len(split(body)) for body in (plain, terse)] for split in (str.splitlines, str.split)
        )
        assert lines[1] < lines[0] or (lines[1] == lines[0] and words[1] < words[0]), task["id"]
        nodes = ast.walk(ast.parse(task["prompt"] + plain))
        assert not any(isinstance(node, comprehensions) for node in nodes), task["id"]


@pytest.mark.parametrize("entry", EQUIVALENT, ids=[entry["task"] for entry in EQUIVALENT])
def test_argued_mutants_exist_and_pass(entry: dict[str, Any]) -> None:
    assert set(entry) == {"task", "operator", "line", "mutated", "why"}
    assert entry["why"].endswith(".")
    (task,) = (task for task in TASKS if task["id"] == entry["task"])
    (mutant,) = (
        mutant
        for mutant in mutants(task["prompt"] + task["solution"])
        if (mutant.operator, mutant.line) == (entry["operator"], entry["line"])
        and mutant.source.splitlines()[mutant.line - 1].strip() == entry["mutated"]
    )
    assert failures(task, mutant.source.removeprefix(task["prompt"])) == []


def test_harder_bands_can_be_left_out() -> None:
    easy, whole = make_suite("starter", {"band": 1}), make_suite("starter")
    counts: dict[Split, int] = {"train": 35, "validation": 10, "test": 15}
    for split, count in counts.items():
        kept = easy.tasks(split)
        assert len(kept) == count
        assert list(kept) == [task for task in whole.tasks(split) if task.tags["band"] == "1"]
    for band in (0, 5, "easy"):
        with pytest.raises(PedrlError, match="band must be 1, 2, 3 or 4, not"):
            make_suite("starter", {"band": band})
