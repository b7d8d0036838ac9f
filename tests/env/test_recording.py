"""Check programs that are written down say what they say when they run."""

from collections.abc import Iterator

import pytest

from pedrl_env import CheckProgram, Privileged, Task
from pedrl_env.grader import Grader, Lane
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
    again = grader.grade([(prepared, program) for program in programs])  # now of answers at once
    for answer, program, (first, _), (second, _) in zip(
        ANSWERS, programs, graded, again, strict=True
    ):
        asked, _ = grader._lanes[0]._judge(prepared, program)
        assert (answer, first.status) == (answer, asked.status)
        assert (answer, second.status) == (answer, asked.status)
        if not written_down:
            assert (answer, second.detail) == (answer, asked.detail)


def test_what_one_submission_was_asked_is_asked_of_the_next_at_once(
    grader: Grader, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "for x in range(4):\n        assert str(candidate(x)) == str(x * x)"
    prepared = prepare(task_of(body))
    right, early, late = (
        "def square(x): return x * x",
        "def square(x): return -1",
        "def square(x): return x * x if x < 2 else [][x]",
    )

    def asked() -> int:
        known = grader._questions[prepared.fingerprint]
        assert known is not None
        return len(known.lines)

    found = []
    for program in (early, late, right):  # each comes further than what is known
        found.append((grader.grade([(prepared, program)])[0][0].status, asked()))
    assert found == [("failed", 1), ("failed", 3), ("passed", 4)]
    monkeypatch.setattr(Lane, "_judge", None)  # from here on, nobody is asked one at a time
    graded = grader.grade([(prepared, program) for program in (right, early, late) * 3])
    assert [verdict.status for verdict, _ in graded] == ["passed", "failed", "failed"] * 3
    assert graded[1][0].detail == "the check raised AssertionError"
    assert graded[2][0].detail == "the check raised IndexError"
    assert all(cpu_s > 0 for _, cpu_s in graded)


def test_a_check_that_asks_by_what_it_is_told_is_asked_one_call_at_a_time(grader: Grader) -> None:
    prepared = prepare(task_of("assert candidate(candidate(2)) == 16"))
    for program, status in (
        ("def square(x): return x * x", "passed"),
        ("def square(x): return x + 1", "failed"),
        ("def square(x): return 16", "passed"),
    ):
        assert grader.grade([(prepared, program)])[0][0].status == status
    assert grader._questions[prepared.fingerprint] is None


HOSTILE = {
    "loops": ("any(iter(int, 1))", "timeout"),
    "dies": ("import os; os.kill(os.getpid(), 11)", "failed"),
    "exhausts": ("return [0] * 10**12", "oom"),
    "forges what is right": (r"import os; os.write(3, b'[\"v\",4]\n' * 9)", "passed"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_stops_a_submission_stops_its_check_there(name: str, grader: Grader) -> None:
    """The later calls are made although a check may have failed before: that changes nothing."""
    act, status = HOSTILE[name]
    body = "for x in range(3):\n        assert str(candidate(x)) == str(x * x)"
    prepared = prepare(task_of(body))
    programs = [
        f"def square(x):\n    if x == 2: {act}\n    return {value}\n" for value in ("x * x", "-1")
    ]
    grader.grade([(prepared, "def square(x): return x * x")])
    graded = [verdict for verdict, _ in grader.grade([(prepared, one) for one in programs])]
    asked = [grader._lanes[0]._judge(prepared, one)[0] for one in programs]
    assert [verdict.status for verdict in graded] == [verdict.status for verdict in asked]
    assert [verdict.status for verdict in graded] == [status, "failed"]


def test_a_check_that_draws_its_inputs_draws_the_same_each_time(grader: Grader) -> None:
    body = "import random\n    assert candidate(random.randrange(10**9)) % 2 == 0"
    assert record(f"def check(candidate):\n    {body}\n", "square") is None
    prepared = prepare(task_of(body))
    graded = [grader._lanes[0]._judge(prepared, "def square(x): return x")[0] for _ in range(9)]
    assert len({verdict.status for verdict in graded}) == 1
