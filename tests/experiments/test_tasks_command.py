"""`pedrl tasks`: a new suite works at once, and what is wrong with a suite is found and said."""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pedrl_env import Limits, Privileged, Split, Task, suites
from pedrl_env.suite import SuiteInfo
from pedrl_experiments import cli
from pedrl_experiments.tasks_validate import Settings, validate
from pedrl_experiments.tasks_validation import Validation
from pedrl_sandbox import PedrlError
from tests.experiments.tasks_mine import ADD, of

Command = Callable[..., tuple[int, str, str]]

HEAD = 'name = "mine"\nlicence = "CC0-1.0"\ncitation = "Us"\n'
TASK = '''
[[task]]
id = "sign"
split = "test"
entry_point = "sign"
prompt = """
def sign(x):
    'Return -1, 0 or 1.'
"""
solution = """
    if x < 0:
        return -1
    return int(x > 0)
"""
tests = ["sign(-7) == -1", "sign(-1) == -1", "sign(0) == 0", "sign(1) == 1", "sign(9) == 1"]
'''

SCRIPTS = f"""{HEAD}[[task]]
id = "echo"
split = "test"
prompt = "Print the input."
solution = "print(input())"
tests = [{{stdin = "ab", stdout = "ab"}}]"""


@pytest.fixture
def pedrl(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Run the command line in this process and an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pedrl", *words])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def found(pedrl: Command, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What validating a suite of one file finds, as JSON."""

    def run(text: str, *words: str) -> dict[str, Any]:
        (tmp_path / "mine.toml").write_text(text)
        code, out, err = pedrl("tasks", "validate", "mine.toml", "--json", *words)
        assert out, err
        plain: dict[str, Any] = json.loads(out)
        assert code == (not plain["ok"])
        assert plain["ok"] == (not plain["problems"])
        return plain

    return run


def test_a_new_suite_works_at_once(pedrl: Command, tmp_path: Path) -> None:
    code, out, _ = pedrl("tasks", "init", "mysuite")
    assert (code, "pedrl tasks validate ./mysuite" in out) == (0, True)
    assert (tmp_path / "mysuite" / "suite.toml").exists()
    code, out, err = pedrl("tasks", "validate", "./mysuite", "--mutants", "0", "--json")
    plain = json.loads(out)
    assert (code, plain["problems"], plain["survivors"]) == (0, [], []), err
    assert plain["tasks"] == {"train": 1, "validation": 1, "test": 1}
    assert (plain["oracle_rate"], plain["flake_rate"], plain["mutation_score"]) == (1, 0, 1)
    assert plain["mutants"] > 20
    assert plain["stubs"] == 6
    assert "mutants" in err  # the progress
    assert pedrl("tasks", "validate", "./mysuite")[0] == 0
    code, _, err = pedrl("tasks", "init", "mysuite")
    assert (code, "mysuite exists already: choose another name" in err) == (2, True)


def test_list_names_every_suite(pedrl: Command) -> None:
    code, out, _ = pedrl("tasks", "list")
    assert code == 0
    assert [name for name in suites() if name not in out] == []


def test_show_keeps_hidden_things_hidden(pedrl: Command) -> None:
    pedrl("tasks", "init", "mysuite")
    _, out, _ = pedrl("tasks", "show", "./mysuite")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["mysuite/largest-gap", "train"],
        ["mysuite/initials", "validation"],
        ["mysuite/share", "test"],
    ]
    secrets = ["share(9, 3)", "things // people"]
    _, out, _ = pedrl("tasks", "show", "./mysuite", "share")
    assert "def share(things, people):" in out
    assert "hidden tests: 7 (Case)" in out
    assert [secret for secret in secrets if secret in out] == []
    _, out, _ = pedrl("tasks", "show", "./mysuite", "mysuite/share", "--hidden")
    assert [secret for secret in secrets if secret not in out] == []
    code, _, err = pedrl("tasks", "show", "./mysuite", "shore")
    assert code == 2
    assert "unknown task of suite 'mysuite': 'mysuite/shore': did you mean 'mysuite/share'" in err


def test_stats_count_by_split_and_tag(pedrl: Command) -> None:
    code, out, _ = pedrl("tasks", "stats", "starter")
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for line in out.splitlines()
        if len(cells := line.strip("│").split("│")) == 4
    }
    assert code == 0
    assert rows["tasks"] == ["140", "40", "60"]
    assert rows["band 4"] == ["35", "10", "15"]
    assert "licence: Apache-2.0" in out


def test_a_sound_suite_has_no_problem(found: Callable[..., dict[str, Any]]) -> None:
    plain = found(HEAD + TASK, "--mutants", "0")
    assert plain["ok"]
    assert plain["oracle"] == 1
    assert plain["runs"] == 3
    assert plain["mutants"] > 10


@pytest.mark.parametrize(
    ("change", "task", "problem"),
    [
        (("return -1", "return -2"), "mine/sign", "its reference does not pass (failed: test 1"),
        (("return -1", "while 1: pass"), "mine/sign", "its reference does not pass (timeout: CPU"),
        (("int(x > 0)", "int(x > 0"), "mine/sign", "reference or tests are no Python: line"),
        (("-1, 0 or 1.", "sign(9) is 1"), "mine/sign", "shows the call and the value of hidden te"),
        (("-1, 0 or 1.", "`sign(-7)` -> -1"), "mine/sign", "the value of hidden test 1: change"),
        (
            ("'Return -1, 0 or 1.'", "'''if x < 0:\n  return -1\n  return int(x > 0)'''"),
            "mine/sign",
            "the prompt shows the reference: reword it",
        ),
        (
            ("split =", "limits = {cpu_s = 3600}\nsplit ="),
            "mine/sign",
            "limit cpu_s is 3600, and sane is 0.05 to 120.0: correct it",
        ),
    ],
)
def test_what_is_wrong_with_a_task_is_said(
    found: Callable[..., dict[str, Any]], change: tuple[str, str], task: str, problem: str
) -> None:
    assert change[0] in TASK
    plain = found(HEAD + TASK.replace(*change))
    (said,) = plain["problems"]
    assert said["task"] == task
    assert problem in said["what"]


def test_a_reference_that_passes_by_chance_is_flaky(
    found: Callable[..., dict[str, Any]],
) -> None:
    body = "    import random\\n    return x if random.random() < 0.5 else None\\n"
    task = f'[[task]]\nid = "luck"\nsplit = "test"\nentry_point = "luck"\nsolution = "{body}"\n'
    task += 'prompt = "def luck(x):\\n"\ntests = ["luck(1) == 1"]\n'
    plain = found(HEAD + task, "--repeats", "16")
    assert 0 < plain["flaky"]["mine/luck"] < 16
    assert plain["flake_rate"] == plain["flaky"]["mine/luck"] / 16
    assert plain["oracle"] == 0
    (said,) = plain["problems"]
    assert "of 16 runs (failed: test 1 of 1: wrong answer): raise its limits" in said["what"]


def test_tests_that_demand_nothing_are_found(found: Callable[..., dict[str, Any]]) -> None:
    text = TASK.replace("return int(x > 0)", "return None")
    text = text[: text.index("tests =")] + 'tests = ["sign(3) == None", "sign(0) == None"]\n'
    plain = found(HEAD + text)
    assert plain["stubs_passed"] == 2
    whats = [problem["what"] for problem in plain["problems"]]
    assert "functions with the body `return None` pass: add a test that demands more" in whats
    assert any(what.startswith("mutation score 0.") for what in whats)


def test_survivors_are_shown_and_may_be_argued(
    pedrl: Command, found: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    text = HEAD + TASK.replace('"sign(0) == 0", ', "").replace('"sign(1) == 1", ', "")
    plain = found(text, "--mutants", "0", "--score", "1")
    assert plain["mutation_score"] < 1
    survivor = next(item for item in plain["survivors"] if item["operator"] == "comparison")
    assert "-    if x < 0:\n+    if x <= 0:" in survivor["diff"]
    assert "mutation score 0." in plain["problems"][-1]["what"]

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "suite.toml").write_text(text)
    entry = "[[mutant]]\ntask = {task}\noperator = {operator}\nline = {line}\nmutated = {mutated}\n"
    arguments = [
        entry.format(**{key: json.dumps(value) for key, value in item.items()})
        for item in ({**item, "task": "sign"} for item in plain["survivors"])
    ]
    (folder / "equivalent.toml").write_text("".join(f'{text}why = "So."\n' for text in arguments))
    code, out, _ = pedrl(
        "tasks", "validate", "./folder", "--mutants", "0", "--score", "1", "--json"
    )
    argued = json.loads(out)
    assert (code, argued["survivors"], argued["problems"]) == (0, [], [])
    assert argued["equivalent"] == len(plain["survivors"])
    assert argued["mutation_score"] == 1

    (folder / "equivalent.toml").write_text(f'{arguments[0]}why = "So."\n')
    code, out, _ = pedrl(
        "tasks", "validate", "./folder", "--mutants", "0", "--score", "0", "--json"
    )
    whats = [problem["what"] for problem in json.loads(out)["problems"]]
    assert (code, len(whats)) == (1, len(arguments) - 1)
    assert all("passes all tests: add one that it fails, or argue in equivale" in w for w in whats)

    (folder / "suite.toml").write_text(HEAD + TASK)
    code, out, _ = pedrl("tasks", "validate", "./folder", "--mutants", "0", "--json")
    assert code == 1
    assert "argues about a mutant (comparison, line" in json.loads(out)["problems"][0]["what"]


def test_the_table_says_what_the_json_says(pedrl: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(HEAD + TASK.replace("return -1", "return -2"))
    code, out, _ = pedrl("tasks", "validate", "mine.toml")
    assert code == 1
    assert "references pass          │ 0/1" in out
    assert "mine/sign: its reference does not pass (failed: test 1 of 5: wrong answer)" in out


def test_tests_that_are_programs_are_told_and_tried(
    found: Callable[..., dict[str, Any]],
) -> None:
    check = "def check(candidate):\n    for x in (-7, -1, 0, 1, 9):\n        "
    text = HEAD + TASK[: TASK.index("tests =")]
    plain = found(f"{text}tests = {json.dumps(check + 'assert candidate(x) == (x > 0) - (x < 0)')}")
    assert plain["programs"] == {"mine/sign": "check program"}
    assert (plain["cheats"] > 13, plain["cheats_passed"], plain["problems"]) == (True, 0, [])
    plain = found(f"{text}tests = {json.dumps(check + 'assert callable(candidate)')}")
    assert plain["cheats_passed"] > 13
    whats = [problem["what"] for problem in plain["problems"]]
    assert "the cheat 'always equal' passes: compare whole values" in whats


def test_a_suite_goes_out_as_harbor_folders_and_comes_back(pedrl: Command, tmp_path: Path) -> None:
    words = "tasks", "export", "starter", "out", "--split", "test", "--limit", "2"
    assert pedrl(*words) == (0, "out: 2 of 2 tasks of starter\n", "")
    code, out, err = pedrl("tasks", "validate", "harbor", "--set", "path=out", "--json")
    assert (code, json.loads(out)["problems"]) == (0, []), err
    assert "is there already; choose another folder" in pedrl(*words)[2]
    (tmp_path / "mine.toml").write_text(SCRIPTS)
    code, out, err = pedrl("tasks", "export", "mine.toml", "other")
    assert (code, err) == (1, "")
    assert out.startswith("other: 0 of 1 tasks of mine.toml\n  left out, 1: ")


def test_errors_of_a_suite_end_in_one_sentence(pedrl: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "suite.toml").write_text(HEAD)
    (tmp_path / "mine" / "tasks.jsonl").write_text('{"id": "a"}\n')
    code, out, err = pedrl("tasks", "validate", "./mine")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "mine/tasks.jsonl, line 1: field 'prompt' is missing" in err
    for words, message in (
        (("--repeats", "0"), "repeats must be at least 1 (0)"),
        (("--score", "2"), "score from 0 to 1 (2.0)"),
        (("--limit", "-1"), "limit must be at least 0, not -1"),
        (("--sandbox", "zygot"), "unknown sandbox 'zygot': did you mean 'zygote'"),
        (("--set", "refrence=plain"), "unknown dial of suite 'starter': 'refrence'"),
    ):
        code, out, err = pedrl("tasks", "validate", "starter", *words)
        assert (code, out) == (2, "")
        assert message in err


class Tasks:
    """A suite of given tasks that says nothing of itself."""

    name = "mine"

    def __init__(self, *tasks: Task, info: SuiteInfo | None = None) -> None:
        self._tasks = tasks
        if info:
            self.info = info

    def tasks(self, split: Split) -> Sequence[Task]:
        return [task for task in self._tasks if task.split == split]

    def style(self, text: str) -> str | None:
        return None


INFO = SuiteInfo("mine", "Mine", "CC0-1.0", "Us", "here")


def check(*tasks: Task, info: SuiteInfo | None = INFO) -> Validation:
    quick = Settings(repeats=1, mutants=1)
    return validate(Tasks(*tasks, info=info), tasks, quick, lambda what, done, total: None)


@pytest.mark.parametrize(
    ("tasks", "info", "problems"),
    [
        ([ADD], None, [("suite", "does not say its licence and source")]),
        ([ADD, ADD], INFO, [("mine/a", "is there twice: ids must be unique")]),
        (
            [ADD, of(ADD, id="mine/b", split="train")],
            INFO,
            [("mine/b", "is in split train, and mine/a of the same prompt in test: put both into")],
        ),
        (
            [
                of(ADD, tags={"family": "x"}),
                of(ADD, id="mine/b", split="train", tags={"family": "x"}, prompt="def add(a, b): "),
            ],
            INFO,
            [("mine/b", "is in split train, and mine/a of the same family in test")],
        ),
        (
            [of(ADD, privileged=Privileged())],
            INFO,
            [("mine/a", "has no reference solution, so nothing can be proven: add one")],
        ),
        (
            [of(ADD, limits=Limits(cpu_s=9.0, wall_s=8.0))],
            INFO,
            [("mine/a", "wall_s (8.0) is less than cpu_s (9.0): correct it")],
        ),
    ],
)
def test_what_is_wrong_with_any_suite(
    tasks: list[Task], info: SuiteInfo | None, problems: list[tuple[str, str]]
) -> None:
    found = check(*tasks, info=info)
    assert len(found.problems) == len(problems), found.problems
    for problem, (task, text) in zip(found.problems, problems, strict=True):
        assert problem.task == task
        assert problem.what.startswith(text)


def test_an_empty_suite_proves_nothing() -> None:
    with pytest.raises(PedrlError, match="suite 'mine' has no tasks to validate"):
        check()


def test_a_reference_known_not_to_pass_is_no_problem() -> None:
    info = dataclasses.replace(INFO, unproven={"mine/a": "too slow"})
    found = check(of(ADD, privileged=Privileged(solution="    return a - b\n")), info=info)
    assert (found.problems, found.unproven) == ([], {"mine/a": "too slow"})
    assert (found.oracle, found.stubs, found.mutants) == (0, 0, 0)
    assert check(ADD, info=info).unproven == {}


def test_both_references_must_pass() -> None:
    wrong = Privileged(solution="    return sum((a, b))\n", derivation="    return a + b\n")
    (problem,) = check(of(ADD, privileged=wrong)).problems
    assert "does not pass (failed: test 3 of 3: raised TypeError)" in problem.what


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "words", "tasks"),
    [
        ("lexicon", ("--limit", "16"), 48),
        ("starter", (), 240),
        ("humaneval", (), 164),
        ("repair", ("--limit", "30"), 90),
    ],
)
def test_built_in_suites_are_sound(
    suite: str, words: tuple[str, ...], tasks: int, pedrl: Command
) -> None:
    """What needs no download; `pedrl tasks validate` alone runs more mutants and repeats."""
    quick = ("--repeats", "1", "--mutants", "1", "--json")
    code, out, err = pedrl("tasks", "validate", suite, *quick, *words)
    plain = json.loads(out)
    assert (code, plain["problems"]) == (0, []), err
    assert (plain["oracle"], plain["stubs"]) == (tasks, 2 * tasks)
