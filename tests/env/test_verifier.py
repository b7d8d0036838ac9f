"""What a verdict is made of, and what it costs."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from pedrl_env import Case, Privileged, Task, Verdict, Verifier
from pedrl_env.verifier import assemble
from pedrl_sandbox import PedrlError

Killer = Callable[[], AbstractContextManager[None]]
RIGHT = "    return x + 3\n"
WRONG = "    return x\n"
WRONG_ANSWER, NOT_REACHED = "wrong answer", "not reached"


@pytest.mark.parametrize(
    ("action", "whole"),
    [
        ("    return x\n", False),
        ("def f(x):\n    return x\n", True),
        ("import math\n\ndef  f (x):\n    return x\n", True),
        ("f = lambda x: x\n", True),
        ("async def f(x):\n    return x\n", True),
        ("class f:\n    pass\n", True),
        ("    def f(x):\n        return x\n", False),
        ("def ff(x):\n    return x\n", False),
        ("def g(f):\n    return f\n", False),
        ("f == 1\n", False),
    ],
)
def test_assembly(task: Task, action: str, whole: bool) -> None:
    assert assemble(task, action) == (action if whole else task.prompt + action)


def test_verdicts(verifier: Verifier, task: Task) -> None:
    submissions = [RIGHT, WRONG, "    return 1 / x\n", "    return x +\n", "    return [x + 3]\n"]
    submissions += ["    return float(x + 3)\n", "    while True: pass\n", "    return object()\n"]
    submissions += ["    return x + 3 if x >= 0 else None\n", "    return bytearray(1 << 30)\n"]
    assert verifier.verify_batch([(task, action) for action in submissions]) == [
        Verdict("passed", 1.0, 3, 3, "", ("passed",) * 3),
        Verdict("failed", 0.0, 0, 3, "test 1 of 3: wrong answer", (WRONG_ANSWER,) * 3),
        Verdict(
            "failed",
            0.0,
            0,
            3,
            "test 1 of 3: raised ZeroDivisionError",
            ("raised ZeroDivisionError", WRONG_ANSWER, WRONG_ANSWER),
        ),
        Verdict("failed", 0.0, 0, 3, "raised SyntaxError", (NOT_REACHED,) * 3),
        Verdict("failed", 0.0, 0, 3, "test 1 of 3: wrong answer", (WRONG_ANSWER,) * 3),
        Verdict("failed", 0.0, 0, 3, "test 1 of 3: wrong answer", (WRONG_ANSWER,) * 3),
        Verdict(
            "timeout", 0.0, 0, 3, "CPU time limit of 1 s", ("timeout", NOT_REACHED, NOT_REACHED)
        ),
        Verdict("malformed", 0.0, 0, 3, "not plain data", ("malformed",) * 3),
        Verdict(
            "failed", 0.0, 2, 3, "test 3 of 3: wrong answer", ("passed", "passed", WRONG_ANSWER)
        ),
        Verdict("oom", 0.0, 0, 3, "memory limit of 256 MiB", ("raised MemoryError",) * 3),
    ]


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("[1, 'b']", "passed"),
        ("  [1, 'b']  \n", "passed"),
        ("[1, 'c']", "failed"),
        ("[i or 'b' for i in (1, 0)]", "failed"),  # right, but computed
        ("(lambda: [1, 'b'])()", "failed"),
        ("[1,\n 'b'", "failed"),
        ("'\\'\ud800", "failed"),
    ],
)
def test_a_literal_is_read_and_never_run(verifier: Verifier, action: str, status: str) -> None:
    tests = (Case((), [1, "b"]),)
    task = Task("t/value", "# f(0)\n", "answer", tests, Privileged(), "test", literal=True)
    assert verifier.verify(task, action).status == status


def test_check_programs(verifier: Verifier, check_task: Task) -> None:
    submissions = ["    return x * x\n", "    return x\n", "    raise KeyError\n", "    return f\n"]
    submissions += ["    while True: pass\n", "    import os; os._exit(0)\n", "    return (\n"]
    assert verifier.verify_batch([(check_task, action) for action in submissions]) == [
        Verdict("passed", 1.0, 1, 1),
        Verdict("failed", 0.0, 0, 1, "the check raised AssertionError"),
        Verdict("failed", 0.0, 0, 1, "the check raised KeyError"),
        Verdict("malformed", 0.0, 0, 1, "not plain data"),
        Verdict("timeout", 0.0, 0, 1, "CPU time limit of 1 s"),
        Verdict("failed", 0.0, 0, 1, "ended without answering every call"),
        Verdict("failed", 0.0, 0, 1, "raised SyntaxError"),
    ]


def test_arguments_are_copies(verifier: Verifier) -> None:
    """A submission that changes its arguments changes nothing for the next call or the tests."""
    shared = [3, 1, 2]
    cases = (Case((shared,), [1, 2, 3]), Case((shared,), [1, 2, 3]))
    task = Task("t/sort", "def f(x):\n", "f", cases, Privileged(), "train")
    assert verifier.verify(task, "    x.sort()\n    return x\n").passed == 2
    assert shared == [3, 1, 2]


def test_identical_submissions_are_run_once(verifier: Verifier, task: Task) -> None:
    same = f"{task.prompt}{RIGHT}"  # another action, the same program
    verdicts = verifier.verify_batch([(task, RIGHT), (task, RIGHT), (task, WRONG), (task, same)])
    assert [verdict.reward for verdict in verdicts] == [1.0, 1.0, 0.0, 1.0]
    assert (verifier.stats.executions, verifier.stats.cache_hits) == (2, 2)
    assert verifier.verify(task, WRONG).reward == 0.0
    assert (verifier.stats.executions, verifier.stats.cache_hits) == (2, 3)
    assert verifier.stats.cpu_s > 0
    assert verifier.stats.wall_s > 0


def test_the_cache_tells_tasks_and_tests_apart(verifier: Verifier, task: Task) -> None:
    cases = tuple(Case(case.args, case.args[0]) for case in task.tests)  # type: ignore[union-attr]
    fields: dict[str, Any] = {name: getattr(task, name) for name in Task.__slots__}
    other_tests = Task(**{**fields, "tests": cases})
    other_task = Task(**{**fields, "id": "tiny/other"})
    verdicts = verifier.verify_batch([(task, WRONG), (other_tests, WRONG), (other_task, WRONG)])
    assert [verdict.reward for verdict in verdicts] == [0.0, 1.0, 0.0]
    assert verifier.stats.executions == 3


def test_without_a_cache_everything_is_run(task: Task) -> None:
    with Verifier(workers=1, cache=False) as verifier:
        verifier.verify_batch([(task, RIGHT)] * 3)
        assert (verifier.stats.executions, verifier.stats.cache_hits) == (3, 0)
        assert verifier.cache_state() == []


def test_the_cache_survives_a_resume(verifier: Verifier, task: Task) -> None:
    first = verifier.verify_batch([(task, RIGHT), (task, WRONG)])
    state = json.loads(json.dumps(verifier.cache_state()))
    with Verifier(workers=1) as later:
        later.load_cache_state(state)
        assert later.verify_batch([(task, RIGHT), (task, WRONG)]) == first
        assert (later.stats.executions, later.stats.cache_hits) == (0, 2)


def test_an_infrastructure_error_is_neither_cached_nor_a_failure(
    task: Task, busy_servers_die: Killer
) -> None:
    """The sandbox is killed under the same job until the retries are used up; then it heals."""
    slow = f"    import time; time.sleep(1)\n{RIGHT}"
    with Verifier(workers=1) as verifier:
        with busy_servers_die():
            lost = verifier.verify(task, slow)
        assert lost.status == "infra_error"
        assert verifier.stats.infra_errors == 1
        assert verifier.cache_state() == []
        assert verifier.verify(task, slow) == Verdict("passed", 1.0, 3, 3, "", ("passed",) * 3)
        assert (verifier.stats.executions, verifier.stats.infra_errors) == (2, 1)


def test_a_task_without_tests_is_refused(verifier: Verifier) -> None:
    empty = Task("t/empty", "def f(x):\n", "f", (), Privileged(), "train")
    with pytest.raises(PedrlError, match="'t/empty' has no tests"):
        verifier.verify(empty, RIGHT)


def test_an_empty_batch_starts_nothing() -> None:
    verifier = Verifier()
    assert verifier.verify_batch([]) == []
    assert verifier.stats.executions == 0


def test_the_solver_never_holds_what_is_expected() -> None:
    """The bytes sent to the sandbox contain the arguments and no expected value, note or test."""
    from pedrl_env.grading import jobs
    from pedrl_env.grading_prepare import prepare
    from pedrl_sandbox.encoding import encode_job

    privileged = Privileged("SOLUTION-51", "TESTS-52", "NOTES-53", "FEEDBACK-54")
    cases = (Case(("ARGUMENT-777",), "EXPECTED-888"),)
    task = Task("t/secret", "def f(x):\n", "f", cases, privileged, "train")
    (job,) = jobs(task, assemble(task, WRONG), prepare(task).calls)
    sent = encode_job(job)
    assert b"ARGUMENT-777" in sent
    for secret in (b"EXPECTED-888", b"SOLUTION", b"TESTS", b"NOTES", b"FEEDBACK", b"t/secret"):
        assert secret not in sent
