"""Check programs that are written down say what they say when they run."""

from collections.abc import Iterator

import pytest

from pedrl_env import CheckProgram, Privileged, Task
from pedrl_env.checking import Questions
from pedrl_env.grader import Grader, Lane
from pedrl_env.grading_prepare import prepare
from pedrl_env.recorder import MOST, asked, compared, record
from pedrl_env.recording import Recording

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
    found = compared(f"def check(candidate):\n    {body}\n", "square")
    assert found is not None
    assert (len(found[0]), len(found[1])) == (calls, decisions)


@pytest.mark.parametrize("name", [name for name in ASKED if name != "no calls"])
def test_what_does_more_is_not(name: str) -> None:
    assert compared(f"def check(candidate):\n    {ASKED[name]}\n", "square") is None


# What is asked whatever the answers are, of the checks above; None where that is not known.
CALLS: dict[str, list[int | list[int]] | None] = {
    "identity": [2],
    "handled": [2],
    "or": [2, 2],
    "which, decided": [2],
    "iterated": [[1]],
    "its own argument": None,
    "searched": None,
    "never right": [2],
    "wrong itself": None,
    "another each time": None,
    "too long": None,
    "no calls": None,
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_asked_whatever_the_answers_are(name: str) -> None:
    calls = asked(f"def check(candidate):\n    {ASKED[name]}\n", "square")
    assert calls == (None if (first := CALLS[name]) is None else [((x,), {}) for x in first])


def test_a_call_that_depends_on_an_answer_is_asked_of_nobody_else() -> None:
    program = "def check(f):\n    p = f(15)\n    assert 15 % p == 0\n    assert f(p) == p\n"
    assert asked(program, "f") is None
    fixed = "def check(f):\n    p = sorted(f(1))\n    assert p == [1]\n    assert f(x=2) == p\n"
    assert asked(fixed, "f") == [((1,), {}), ((), {"x": 2})]


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
    written_down = isinstance(grader._recordings[prepared.fingerprint], Recording)
    assert written_down == (name in COMPARED)
    for answer, program, (verdict, _) in zip(ANSWERS, programs, graded, strict=True):
        one_by_one, _ = grader._lanes[0]._judge(prepared, program)
        assert (answer, verdict.status) == (answer, one_by_one.status)
        if not written_down:
            assert (answer, verdict.detail) == (answer, one_by_one.detail)


def test_what_is_asked_of_all_is_asked_at_once(
    grader: Grader, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "for x in range(4):\n        assert str(candidate(x)) == str(x * x)"
    prepared = prepare(task_of(body))
    programs = (
        "def square(x): return x * x",
        "def square(x): return -1",
        "def square(x): return x * x if x < 2 else [][x]",
    )
    monkeypatch.setattr(Lane, "_judge", None)  # nobody is asked one call at a time
    graded = grader.grade([(prepared, program) for program in programs * 3])
    assert isinstance(grader._recordings[prepared.fingerprint], Questions)
    assert [verdict.status for verdict, _ in graded] == ["passed", "failed", "failed"] * 3
    assert graded[1][0].detail == "the check raised AssertionError"
    assert graded[2][0].detail == "the check raised IndexError"
    assert all(cpu_s > 0 for _, cpu_s in graded)


def test_a_check_that_asks_otherwise_asks_again_one_call_at_a_time(grader: Grader) -> None:
    body = "if candidate(2) == 4:\n        assert str(candidate(3)) == '9'\n    else:\n"
    prepared = prepare(task_of(f"{body}        raise ValueError"))
    expected = {"x * x": "passed", "4": "failed", "x + 1": "failed"}
    programs = [f"def square(x): return {value}" for value in expected]
    graded = grader.grade([(prepared, program) for program in programs])
    assert [verdict.status for verdict, _ in graded] == list(expected.values())
    known = grader._recordings[prepared.fingerprint]
    assert known is None or len(known.calls) == 1
    one_by_one = [grader._lanes[0]._judge(prepared, program) for program in programs]
    assert [verdict for verdict, _ in graded] == [verdict for verdict, _ in one_by_one]


def test_no_answer_can_break_the_verifier(grader: Grader) -> None:
    body = "s = set(candidate([1]))\n    assert candidate(s) == 3"
    prepared = prepare(task_of(body))
    hostile = "def square(x): return [i * (2**61 - 1) for i in range(300)]"
    honest = "def square(x): return 3 if isinstance(x, set) else [1]"
    for programs in ([hostile, honest], [honest]):
        graded = grader.grade([(prepared, program) for program in programs])
        assert [verdict.status == "passed" for verdict, _ in graded] == [
            program == honest for program in programs
        ]


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
    assert compared(f"def check(candidate):\n    {body}\n", "square") is None
    prepared = prepare(task_of(body))
    program = "def square(x): return x"
    graded = [verdict for verdict, _ in grader.grade([(prepared, program)] * 3)]
    graded += [grader._lanes[0]._judge(prepared, "def square(x): return x")[0] for _ in range(9)]
    assert len({verdict.status for verdict in graded}) == 1
