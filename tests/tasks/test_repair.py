"""Bugs made from a suite: real ones, shown by a true example, the same for the same seed."""

import re
from pathlib import Path
from typing import Any

import pytest

from pedrl_env import Case, Verifier, make_suite
from pedrl_env.suite import all_tasks
from pedrl_sandbox import PedrlError
from pedrl_tasks.folder import Folder
from pedrl_tasks.repair import Repair
from pedrl_tasks.repair_bugs import plain_text

SUITE = '''
name = "small"
licence = "CC0-1.0"
citation = "Us"
contamination_group = "ours"

[[task]]
id = "gap"
split = "train"
family = "gaps"
entry_point = "gap"
prompt = """
def gap(numbers):
    'Return the largest difference between two neighbours.'
"""
solution = """
    best = 0
    for left, right in zip(numbers, numbers[1:]):
        best = max(best, abs(right - left))
    return best
"""
terse = "    return max((abs(b - a) for a, b in zip(numbers, numbers[1:])), default=0)\\n"
tests = ["gap([]) == 0", "gap([3]) == 0", "gap([1, 5]) == 4", "gap([5, 1]) == 4",
    "gap([2, 3, 10, 4]) == 7", "gap([2, 10, 3]) == 8"]

[[task]]
id = "clip"
split = "test"
entry_point = "clip"
prompt = """
def clip(x):
"""
solution = """
def half(x):
    return x // 2


def clip(x):
    if x < 0:
        raise ValueError
    return min(half(x), 10)
"""
tests = ["clip(0) == 0", "clip(3) == 1", "clip(20) == 10", "clip(99) == 10", "clip(7) == 3",
    "clip(-1) raises ValueError", "clip(-5) raises ValueError"]

[[task]]
id = "constant"
split = "test"
entry_point = "constant"
prompt = """
def constant():
"""
solution = "    return {1, 2}\\n"
tests = ["constant() == {1, 2}"]

[[task]]
id = "checked"
split = "validation"
entry_point = "checked"
prompt = """
def checked(x):
"""
solution = "    return x\\n"
tests = "def check(candidate):\\n    for x in range(3):\\n        assert candidate(x) == x\\n"
'''


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "small.toml"
    file.write_text(SUITE)
    return str(file)


def shown(prompt: str) -> tuple[str, str, str]:
    """The call, what the bug does, and what is right, from the sentence in a prompt."""
    sentence = re.search(r"# The function above has a bug: (.*) (re\w+|raised) (.*), but should "
                         r"(?:return|raise) (.*)\.$", prompt, re.M)  # fmt: skip
    assert sentence is not None, prompt
    return sentence[1], f"{sentence[2]} {sentence[3]}", sentence[4]


def does(program: str, call: str) -> str:
    """What a program really does, in the words of the prompt."""
    space: dict[str, Any] = {}
    exec(program, space)
    try:
        return f"returned {eval(call, space)!r}"
    except Exception as error:
        return f"raised {type(error).__name__}"


def test_the_example_is_true_and_no_hidden_test(source: str) -> None:
    repair = Repair(source, per_task=4)
    tasks = all_tasks(repair)
    assert {task.id for task in tasks} >= {"repair/gap-1", "repair/gap-4", "repair/clip-1"}
    assert len({task.prompt for task in tasks}) == len(tasks)
    origins = {task.entry_point: task for task in all_tasks(Folder(source))}
    for task in tasks:
        call, buggy, right = shown(task.prompt)
        origin = origins[task.entry_point]
        assert isinstance(task.tests, tuple)
        assert isinstance(origin.tests, tuple)
        (example,) = (case for case in origin.tests if case not in task.tests)
        assert isinstance(example, Case)
        assert len(task.tests) == len(origin.tests) - 1
        assert call == f"{task.entry_point}({', '.join(map(repr, example.args))})"
        assert right == (example.raises or repr(example.expected))
        assert call not in task.privileged.tests
        program = task.prompt.partition("\n\n\n# The function above")[0]
        assert does(program, call) == buggy
        assert does(task.prompt + task.privileged.solution, call) in (
            f"returned {right}",
            f"raised {right}",
        )
        assert re.match(r"line \d+: .+ -> .+", task.privileged.notes)


def test_bugs_fail_and_references_pass(source: str) -> None:
    tasks = all_tasks(Repair(source, per_task=4))
    with Verifier() as verifier:
        right = verifier.verify_batch([(task, task.privileged.solution) for task in tasks])
        buggy = [task.prompt.partition("\n\n\n# The function above")[0] for task in tasks]
        wrong = verifier.verify_batch(list(zip(tasks, buggy, strict=True)))
    assert {verdict.status for verdict in right} == {"passed"}
    assert {verdict.status for verdict in wrong} == {"failed"}


def test_bugs_are_in_the_function_itself(source: str) -> None:
    tasks = Repair(source, per_task=12).tasks("test")
    assert len(tasks) > 3
    for task in tasks:
        assert "def half(x):\n    return x // 2\n" in task.prompt
        assert task.prompt.endswith("# The corrected function:\ndef clip(x):\n")


def test_splits_tags_and_group_are_those_of_the_source(source: str) -> None:
    repair = Repair(source)
    assert [task.id for task in repair.tasks("train")] == ["repair/gap-1"]
    assert [task.id for task in repair.tasks("test")] == ["repair/clip-1"]
    assert repair.tasks("train")[0].tags["family"] == "gaps"
    assert (repair.info.name, repair.info.group, repair.info.licence) == (
        "repair", "ours", "CC0-1.0",
    )  # fmt: skip
    reasons = {item.id: item.reason for item in repair.refused}
    assert reasons == {
        "repair/checked": "its tests are no cases with expected values",
        "repair/constant": "none of its mutants that were tried fails two of its cases",
    }


def test_the_same_seed_gives_the_same_tasks(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = all_tasks(Repair(source, seed=1, per_task=3))
    others = [all_tasks(Repair(source, seed=seed, per_task=3)) for seed in (2, 3)]
    assert any(tasks != first for tasks in others)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert all_tasks(Repair(source, seed=1, per_task=3)) == first


def test_what_was_found_is_remembered(source: str, tmp_path: Path) -> None:
    with pytest.raises(PedrlError, match="unknown sandbox 'nowhere'"):
        Repair(source, backend="nowhere").tasks("train")
    found = Repair(source).tasks("train")
    assert Repair(source, backend="nowhere").tasks("train") == found  # no sandbox is needed
    (file,) = (tmp_path / "cache" / "pedrl" / "repair").iterdir()
    file.write_text("[]")
    with pytest.raises(PedrlError, match=rf"{file.name} is damaged: remove it"):
        Repair(source).tasks("train")
    # Another test is another question.
    Path(source).write_text(SUITE.replace('"gap([3]) == 0", ', ""))
    assert Repair(source).tasks("train") != found


def test_a_cache_that_cannot_be_written_is_said(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(PedrlError, match="set XDG_CACHE_HOME to a folder that can be written to"):
        Repair(source).tasks("train")


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"sorce": "starter"}, "unknown dial of suite 'repair': 'sorce': did you mean 'source'"),
        ({"source": "startr"}, "unknown suite 'startr': did you mean 'starter'"),
        ({"per_task": 0}, "per_task at least 1, not 0 and 0"),
        ({"seed": "x"}, "seed and per_task must be whole numbers"),
    ],
)
def test_wrong_dials(dials: dict[str, Any], message: str) -> None:
    with pytest.raises(PedrlError, match=message):
        make_suite("repair", dials)


def test_text_is_the_same_in_every_process() -> None:
    value = {"k": [{"b", "a"}, (1,), frozenset({2, 1}), set(), [], (1.5, None)]}
    text = "{'k': [{'a', 'b'}, (1,), frozenset({1, 2}), set(), [], (1.5, None)]}"
    assert plain_text(value) == text
    assert eval(text) == value


def test_a_missing_name_is_no_bug_to_look_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `best = 0` or `y = x` every call ends in a NameError."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = 'id = "name"\nsplit = "test"\nentry_point = "name"\nprompt = "def name(x):\\n"\n'
    name += 'solution = "    y = x\\n    return y\\n"\ntests = ["name(1) == 1", "name(2) == 2"]\n'
    file = tmp_path / "small.toml"
    file.write_text(f"{SUITE}\n[[task]]\n{name}")
    tasks = all_tasks(Repair(str(file), per_task=12))
    assert {task.entry_point for task in tasks} == {"gap", "clip", "name"}
    buggy = [shown(task.prompt)[1] for task in tasks]
    assert [
        says for says in buggy if says in ("raised NameError", "raised UnboundLocalError")
    ] == []
    notes = {task.privileged.notes for task in tasks if task.entry_point == "name"}
    assert notes == {"line 3: y -> None", "line 3: return y -> (deleted)"}
