"""What is read from a task without running it: values and references in prompts, stubs, limits."""

import pytest

from pedrl_env import (
    CheckProgram,
    Limits,
    Privileged,
    PytestProgram,
    ScriptCase,
    Split,
    Task,
    Verifier,
)
from pedrl_experiments.tasks_cheats import cheats_for, graded_by, tried
from pedrl_experiments.tasks_programs import odd_limits, shown_tests, shows_reference, stub
from pedrl_experiments.tasks_validate import Settings, validate
from pedrl_tasks.buggy import buggy_program
from tests.experiments.tasks_mine import ADD, of


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("def add(a, b):\n    '>>> add(1, 2)\n    3'\n", [1]),
        ('def add(a, b):\n    """add("a", "b") == \'ab\', add(2,2) returns 4"""\n', [2, 3]),
        ("def add(a, b):\n    'add(1, 2) is 33, add(2, 2) is 4.5'\n", []),
        ("def add(a, b):\n    'add(1, 3) is 4 and 3 comes from (1, 2)'\n", []),
    ],
)
def test_shown_tests(prompt: str, shown: list[int]) -> None:
    assert shown_tests(of(ADD, prompt=prompt)) == shown


@pytest.mark.parametrize(
    ("prompt", "shows"),
    [
        ("def add(a, b):\n    '''Hint: return a + b.'''\n", False),
        ("def add(a, b):\n    '''Hint: `return a + b`.'''\n", True),
        ("def add(a, b):\n    '''Hint: return a + b'''\n", True),
        ("# return  a + b\ndef add(a, b):\n", True),
        ("# return a + b + 1\ndef add(a, b):\n", False),
    ],
)
def test_shown_reference(prompt: str, shows: bool) -> None:
    assert shows_reference(of(ADD, prompt=prompt)) == shows
    whole = Privileged(solution="def add(a, b):\n    'Sum.'\n    return a + b\n")
    assert shows_reference(of(ADD, prompt=prompt, privileged=whole)) == shows


def test_stubs_are_programs_without_bodies() -> None:
    helper = "def one(x):\n    return x\n\n\ndef add(a, b):\n"
    assert "def one(x):\n    return x" in stub(of(ADD, prompt=helper), "pass")
    assert stub(of(ADD, prompt=helper), "return None").endswith("def add(a, b):\n    return None\n")
    tests = (ScriptCase("", "1"),)
    program = Privileged(solution="print(1)\n")
    script = of(ADD, prompt="Print 1.\n", entry_point="", tests=tests, privileged=program)
    assert stub(script, "return None") == "pass\n"
    assert odd_limits(ADD) == ""


def test_the_buggy_program_of_a_prompt_must_fail() -> None:
    class Mending:
        """A suite of one task, whose prompt shows a program."""

        name = "mine"
        buggy = staticmethod(buggy_program)

        def __init__(self, body: str) -> None:
            says = "# The function above has a bug.\n# The corrected function:\ndef add(a, b):\n"
            self.task = of(ADD, prompt=f"def add(a, b):\n    {body}\n\n\n{says}")

        def tasks(self, split: Split) -> list[Task]:
            return [self.task] if split == "test" else []

        def style(self, text: str) -> str | None:
            return None

    for body, passed in (("return a - b", 0), ("return b + a if a == 1 else a + b", 1)):
        suite = Mending(body)
        assert suite.buggy(suite.task) == f"def add(a, b):\n    {body}\n"
        found = validate(suite, [suite.task], Settings(repeats=1, mutants=1), lambda *_: None)
        assert (found.buggy, found.buggy_passed) == (1, passed)
        whats = [problem.what for problem in found.problems if problem.task == "mine/a"]
        assert (
            whats == ["the buggy program in its prompt passes: add a test that fails it"] * passed
        )


CHECK = "def check(candidate):\n    assert candidate(1, 2) == 3\n"


def test_cheats_define_what_the_tests_call() -> None:
    with_check = of(ADD, tests=CheckProgram(CHECK))
    assert graded_by(ADD) == ""
    assert graded_by(with_check) == "check program"
    assert tried([ADD] * 50 + [with_check]) == [of(with_check, limits=Limits(1.0, 10.0))]
    assert len(tried([with_check] * 50)) == 32
    programs = dict(cheats_for(with_check))
    assert len(programs) >= 13
    assert programs["nothing"] == "def f(x=0, *rest, **more):\n    pass\nadd = f\n"
    source = "import pytest\nfrom solution import add, half\n"
    with_pytest = of(ADD, entry_point="", tests=PytestProgram({"test_a.py": source}))
    assert dict(cheats_for(with_pytest))["stub entry"] == "f = None\nadd = f\nhalf = f\n"
    assert graded_by(with_pytest) == "pytest"


@pytest.mark.parametrize(
    ("check", "passing"),
    [
        (CHECK, set()),
        ("def check(candidate):\n    assert callable(candidate)\n", None),
    ],
)
def test_cheats_are_tried_on_checks(check: str, passing: set[str] | None) -> None:
    task = of(ADD, tests=CheckProgram(check))
    with Verifier(workers=1) as verifier:
        run = [(name, verifier.verify(task, program)) for name, program in cheats_for(task)]
    found = {name for name, verdict in run if verdict.status == "passed"}
    assert found == passing if passing is not None else len(found) > 13
