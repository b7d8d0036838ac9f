"""Check programs that are written down say what they say when they run."""

from collections.abc import Iterator

import pytest

from pedrl_env import CheckProgram, Privileged, Task
from pedrl_env.grader import Grader
from pedrl_env.grading_prepare import prepare
from pedrl_env.recorder import MOST, record

COMPARED = {
    "equal": ("assert candidate(2) == 4", 1, 1),
    "swapped": ("assert 4 == candidate(2)", 1, 1),
    "not equal": ("assert candidate(2) != 5", 1, 1),
    "near": ("assert abs(candidate(2) - 4.2) < 0.5", 1, 1),
    "near, swapped": ("assert 0.5 > abs(4.2 - candidate(2))", 1, 1),
    "truth": ("assert candidate(2)\n    assert not candidate(0)", 2, 2),
    "two calls": ("assert candidate(2) == candidate(-2)", 2, 1),
    "order": ("assert candidate(1) < candidate(2) <= candidate(3)", 3, 2),
    "by name": ("assert candidate(x=2) == 4", 1, 1),
    "a loop": ("for x in range(5):\n        assert candidate(x) == x * x", 5, 5),
    "chance": (
        "import random\n    for _ in range(3):\n        x = random.randint(0, 3)\n"
        "        assert candidate(x) == x ** 2",
        3,
        3,
    ),
    "a list": ("assert [candidate(1), candidate(2)] == [1, 4]", 2, 2),
    "all": ("assert all(candidate(x) == x * x for x in (1, 2))", 2, 2),
    "all of a list": ("assert all([candidate(0) == 0, candidate(3) == 9])", 2, 2),
    "no answer is looked at": ("candidate(2)", 1, 0),
    "its global name": ("assert square(2) == 4", 1, 1),
    "a changed argument": ("x = [3]\n    candidate(x[0])\n    x[0] = 4\n    candidate(x[0])", 2, 0),
}
ASKED = {
    "identity": "assert candidate(2) is not None",
    "type": "assert type(candidate(2)) == int",
    "class": "assert isinstance(candidate(2), int)",
    "handled": "try:\n        candidate(2)\n    except ValueError:\n        pass",
    "expected": "with open('x', 'w'):\n        candidate(2)",
    "or": "assert candidate(2) == 4 or candidate(2) == 5",
    "one of": "assert candidate(2) in (4, 5)",
    "which, decided": "if candidate(2) == 4:\n        assert candidate(3) == 9",
    "either way": "x = 1 if candidate(2) == 4 else 2",
    "smallest": "assert min(candidate(2), 9) > 3",
    "iterated": "assert tuple(candidate([1])) == (1,)",
    "text": "assert str(candidate(2)) == '4'",
    "hashed": "assert {candidate(2): 1} == {4: 1}",
    "an attribute": "assert candidate(2).real == 4",
    "arithmetic": "assert candidate(2) * 2 == 8",
    "its own argument": "assert candidate(candidate(2)) == 16",
    "searched": "x = 0\n    while candidate(x) != 81:\n        x += 1\n        assert x < 12",
    "swallowed": "import contextlib\n    next(iter([str(candidate(2))]), None)",
    "never right": "assert candidate(2) == 4 and False",
    "wrong itself": "assert 1 == 2",
    "another each time": "import os\n    assert candidate(int.from_bytes(os.urandom(4))) == 1",
    "another answer each time": "import os\n    assert candidate(1) == os.urandom(4).hex()",
    "too long": f"for x in range({MOST + 1}):\n        assert candidate(x) == x * x",
    "no calls": "pass",
}
ANSWERS = {
    "right": "return x * x",
    "wrong": "return x + 1",
    "wrong for some": "return 0 if x == 2 else x * x",
    "none": "return None",
    "true": "return True",
    "a text": "return 'x' * 3",
    "raises": "raise ValueError(x)",
    "assertion": "raise AssertionError",
    "not plain": "return object()",
    "equal to all": "return type('E', (int,), {'__eq__': lambda s, o: True})(x)",
    "ends": "import os; os._exit(0)",
    "not a number": "return float('nan')",
    "with a memory": "f.n = getattr(f, 'n', 0) + 1; return x * x if f.n < 2 else 0",
}


def task_of(body: str) -> Task:
    tests = CheckProgram(f"def check(candidate):\n    {body}\n")
    return Task(
        "checked/0", "p", "square", tests, Privileged("def square(x): return x * x"), "test"
    )


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    grader = Grader("zygote", 1)
    yield grader
    grader.close()


@pytest.mark.parametrize("name", COMPARED)
def test_what_only_compares_is_written_down(name: str) -> None:
    body, calls, decisions = COMPARED[name]
    found = record(f"def check(candidate):\n    {body}\n", "square")
    assert found is not None
    assert (len(found[0]), len(found[1])) == (calls, decisions)


@pytest.mark.parametrize("name", [name for name in ASKED if name != "no calls"])
def test_what_does_more_is_not(name: str) -> None:
    assert record(f"def check(candidate):\n    {ASKED[name]}\n", "square") is None


def test_decisions_have_the_truth_that_they_need() -> None:
    found = record("def check(f):\n    assert f(1) == 2\n    assert not f(3)\n", "f")
    assert found == (
        [((1,), {}), ((3,), {})],
        [(("eq", ("call", 0), ("value", 2)), True), (("call", 1), False)],
    )


@pytest.mark.parametrize("name", [*COMPARED, *ASKED])
def test_a_recording_and_the_program_agree_on_every_answer(name: str, grader: Grader) -> None:
    body = COMPARED[name][0] if name in COMPARED else ASKED[name]
    prepared = prepare(task_of(body))
    programs = [f"def f(x):\n    {answer}\nsquare = f\n" for answer in ANSWERS.values()]
    graded = grader.grade([(prepared, program) for program in programs])
    written_down = grader._recordings[prepared.fingerprint] is not None
    assert written_down == (name in COMPARED)
    for answer, program, (verdict, _) in zip(ANSWERS, programs, graded, strict=True):
        asked, _ = grader._lanes[0]._judge(prepared, program)
        assert (answer, verdict.status) == (answer, asked.status)


def test_a_check_that_draws_its_inputs_draws_the_same_each_time(grader: Grader) -> None:
    body = "import random\n    assert candidate(random.randrange(10**9)) % 2 == 0"
    assert record(f"def check(candidate):\n    {body}\n", "square") is None
    prepared = prepare(task_of(body))
    graded = [grader._lanes[0]._judge(prepared, "def square(x): return x")[0] for _ in range(9)]
    assert len({verdict.status for verdict in graded}) == 1
