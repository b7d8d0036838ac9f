"""Fuzzed bytes for every reader of what a sandbox says: refused or read, never anything else."""

import builtins
import json
import os
import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pedrl_env import Case, CheckProgram, Privileged, ScriptCase, Task
from pedrl_env.checking import Questions, _relay
from pedrl_env.grading import judge_cases, judge_scripts
from pedrl_env.grading_pytest import _Report
from pedrl_env.records import Status
from pedrl_sandbox import (
    Call,
    Job,
    JobResult,
    JobStatus,
    ScriptJob,
    crossing,
    objects,
    proxies,
    wire,
)
from pedrl_sandbox.answers import batch_result, read_lines, read_outcome, result
from pedrl_sandbox.encoding import encode_calls, encode_job
from pedrl_sandbox.worker import Channel, Frame, WorkerDiedError

many = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TAGS = [*"ifbctdszuqhnkxl", "v", "e", "m"]
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["KeyError", "SystemExit", "eval", "nan", "0x1f", "zz", *wire.REASONS])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(TAGS), inner, max_size=2)
    ),
    max_leaves=12,
)
messages = st.lists(json_values, max_size=4) | st.tuples(
    st.sampled_from([*"vemxck"]), json_values, json_values, json_values
).map(list)
CALLS = ((1,), (2,), (3,))
CHECKED = Task("c/0", "p", "f", CheckProgram("def check(f): f(1)"), Privileged(""), "test")
WATCHED = tuple(Call(args, items=2, printed=True, changed=True) for args in CALLS)
VALUES: tuple[Any, ...] = (7, "text", [1, (2.5, None)], {"a": {1}}, b"\xff", "\ud800", 1 << 70)


def honest_reply(watched: bool) -> bytes:
    """What a solver says, as the solver writes it."""
    more = ["out\n", [[1]]] if watched else []
    lines = [["v", wire.pack(value), *more] for value in VALUES[:3]]
    return wire.BEGUN + b"".join(wire.dumps(line) + b"\n" for line in lines)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` with some bytes flipped, cut out, repeated, put in or cut off."""
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.integers(0, 40))
        piece = draw(st.binary(max_size=8) | st.sampled_from([b"\n", b"]", b'"', b"{", b"0" * 99]))
        kind = draw(st.sampled_from(["flip", "cut", "repeat", "insert", "truncate"]))
        if kind == "flip":
            data = data[:at] + piece[:1] + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + size :]
        elif kind == "repeat":
            data = data[:at] + data[at : at + size] * 3 + data[at + size :]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        else:
            data = data[:at]
    return data


replies = (
    st.binary(max_size=300)
    | mutated(honest_reply(watched=False))
    | mutated(honest_reply(watched=True))
    | st.lists(messages, max_size=5).map(
        lambda items: wire.BEGUN + b"".join(json.dumps(item).encode() + b"\n" for item in items)
    )
)
usages = st.builds(
    wire.USAGE.pack,
    st.integers(0, 255) | st.integers(0, 6),
    st.integers(-70, 300) | st.integers(-(1 << 31), (1 << 31) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
)
ends = st.builds(lambda usage, output: usage + output, usages, st.binary(max_size=60))


def is_result(found: JobResult, calls: int) -> None:
    assert found.status in get_args(JobStatus)
    assert len(found.outcomes) <= calls
    for outcome in found.outcomes:
        if outcome.kind == "malformed":
            assert outcome.note in wire.REASONS
        else:
            wire.pack(outcome.value)
            assert not outcome.note or issubclass(getattr(builtins, outcome.note), BaseException)
        assert outcome.printed is None or type(outcome.printed) is str
        assert outcome.changed is None or type(outcome.changed) is tuple


@given(replies, ends, st.sampled_from([CALLS, WATCHED, ()]))
@many
def test_any_reply_of_calls_is_a_result(data: bytes, end: bytes, calls: Any) -> None:
    found = batch_result(Job("", "f", calls), data, Frame(wire.DONE, 0, 1, end))
    is_result(found, len(calls))
    cases = tuple(Case((n,), VALUES[n], stdout="out\n", items=2) for n in range(len(calls)))
    verdict = judge_cases(cases, found)
    assert verdict.status in get_args(Status)
    if calls and verdict.reward:
        assert [o.value for o in found.outcomes] == [case.expected for case in cases]


@given(replies, ends)
@many
def test_any_reply_of_a_script_is_a_result(data: bytes, end: bytes) -> None:
    found = batch_result(ScriptJob("", ""), data, Frame(wire.DONE, 0, 1, end))
    is_result(found, 0)
    verdict = judge_scripts([ScriptCase("", "text")], [found])
    assert verdict.status in get_args(Status)
    assert (verdict.reward == 1.0) == (
        data.startswith(wire.BEGUN)
        and found.status == "ok"
        and found.exit_code == 0
        and found.stdout.strip() == b"text"
    )


@given(st.integers(0, 255), st.binary(max_size=40))
@many
def test_any_last_frame_is_read_or_the_sandbox_is_broken(kind: int, body: bytes) -> None:
    for job in (Job("", "f", CALLS), ScriptJob("", "")):
        try:
            is_result(batch_result(job, wire.BEGUN, Frame(kind, 0, 1, body)), 3)
        except WorkerDiedError:
            assert kind != wire.DONE or len(body) < wire.USAGE.size


@given(messages)
@many
@example(["v", {"s": [[1]]}])
@example(["v", 1, {"s": [[]]}, None])
@example(["v", 1, None, 3])
@example(["v", 1, None, {"d": [[1, 2]]}])
@example(["e", ["KeyError"], None, None])
@example(["v", 1e999, None, None])
def test_any_message_is_an_outcome(message: Any) -> None:
    read = read_outcome(message)
    end = Frame(wire.DONE, 0, 1, wire.USAGE.pack(0, 0, 0, 0))
    is_result(result(Job("", "f", CALLS), [message], end, begun=True), 3)
    assert read.kind in ("value", "raised", "malformed")


# --- frames --------------------------------------------------------------------------------------

FRAMES = b"".join(
    wire.frame(kind, job, body, flags)
    for kind, job, body, flags in [
        (wire.READY, 0, b"", 0),
        (wire.DATA, 1, b"x" * 50, 0),
        (wire.DONE, 1, wire.USAGE.pack(0, 0, 1, 1), wire.RETIRE),
    ]
)


def read_all(channel: Channel, most: int) -> None:
    while True:
        for frame in channel.receive():
            assert len(frame.body) <= most


@given(st.binary(max_size=200) | mutated(FRAMES))
@many
def test_any_bytes_are_frames_or_the_sandbox_is_broken(data: bytes) -> None:
    to_us, theirs = os.pipe()
    ours, from_us = os.pipe()
    channel = Channel(from_us, to_us, lambda: "ended")
    os.write(theirs, data)
    os.close(theirs)
    try:
        with pytest.raises(WorkerDiedError, match=r"^(ended|the sandbox broke the protocol)$"):
            read_all(channel, len(data))
    finally:
        for fd in (to_us, ours, from_us):
            os.close(fd)


# --- sessions ------------------------------------------------------------------------------------


class Said:
    """A session whose other side says what it is told to say."""

    def __init__(self, said: list[Any]) -> None:
        self.said = list(said)
        self.told: list[Any] = []

    def tell(self, message: Any) -> None:
        wire.dumps(message)
        self.told.append(message)

    def hear(self) -> Any | None:
        return wire.loads(self.said.pop(0)) if self.said else None

    def close(self) -> JobResult:
        return JobResult("ok")


lines = st.binary(max_size=30) | messages.map(lambda item: json.dumps(item).encode())


@given(st.lists(lines, max_size=4))
@many
def test_any_answers_to_a_check_are_carried_or_refused(answers: list[bytes]) -> None:
    checker = Said([b'["c",[[1],{}]]'] * 5)
    status, _ = _relay(checker, Said(answers))
    assert status in (None, "failed", "malformed", "oom")
    for told in checker.told:
        assert told[0] == "e" or wire.unpack(told[1]) is not Ellipsis


statuses = st.sampled_from(get_args(JobStatus))


@given(statuses, st.lists(messages, max_size=3), statuses, st.lists(messages, max_size=2))
@many
def test_any_answers_to_a_check_at_once_are_judged_or_asked_again(
    solving: JobStatus, answers: list[Any], checking: JobStatus, ends: list[Any]
) -> None:
    calls = encode_calls([(1,), Call((2,), {"x": 3})])
    questions = Questions((b"[[1],{}]", b'[[2],{"x":3}]'), calls)
    solved = JobResult(solving, tuple(map(read_outcome, answers[:2])))
    checked = JobResult(checking, tuple(map(read_outcome, ends)))
    encode_job(questions.rehearsal(CHECKED, solved))
    verdict = questions.verdict(solved, checked)
    if verdict is not None:
        assert verdict.status in get_args(Status)
        passed = [outcome.value for outcome in checked.outcomes] == [["passed"]]
        assert (verdict.status == "passed") == (passed and solving == "ok")


@given(st.lists(json_values, max_size=6))
@many
def test_any_report_is_read(said: list[Any]) -> None:
    report = _Report()
    for message in said:
        report.take(message)
    assert len(report.results) == len(report.names)


@pytest.fixture
def crossings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the workspace will answer to tests that use its proxies."""
    answers: list[Any] = []

    def hear() -> Any:
        return crossing._read(answers.pop(0) if answers else b'["v",null,null,null]')

    monkeypatch.setattr(crossing, "say", wire.dumps)
    monkeypatch.setattr(crossing, "_hear", hear)
    yield answers
    for table in (crossing.CLASSES, crossing.INSTANCES, crossing.CALLBACKS, crossing.NUMBERS):
        table.clear()


crossed = st.tuples(st.sampled_from("vek"), json_values, st.none() | st.text(max_size=3)).map(list)
answers_to_tests = st.lists(
    lines | st.builds(lambda a, b: json.dumps([*a, b]).encode(), crossed, st.none() | json_values),
    max_size=6,
)


@given(answers_to_tests)
@many
@example([b'["v",{"h":[1,2]},null,null]', b'["v",{"t":["A","m",null,[{"h":[2,0]}],[]]},null,null]'])
@example([b'["v",{"h":[-1,0]},null,null]'])
@example([b'["v",{"n":["eval"]},null,null]'])
@example([b'["e",{"x":["KeyboardInterrupt",[]]},null,null]'])
@example([b'["v",1,null,[[0,{"t":[]}],[9,1]]]'])
@example([b'["k",[0,{"t":[]},{"d":[]}],null,null]'])
def test_any_answer_to_a_test_is_plain_a_proxy_or_raised(
    crossings: list[Any], answers: list[bytes]
) -> None:
    crossings[:] = answers
    try:
        found = crossing.ask("call", [1], {"a": 1})
    except BaseException as error:
        found = error
    if isinstance(found, BaseException):
        kind = type(found)
        builtin = getattr(builtins, kind.__name__, None) is kind
        ours = isinstance(found, wire.WireError | proxies.BrokenAnswerError)
        assert ours or builtin or proxies.is_proxy(found)
        assert isinstance(found, Exception) or any(kind.__name__.encode() in a for a in answers)
    else:
        assert plain_or_given(found)


def plain_or_given(value: Any) -> bool:
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return all(map(plain_or_given, value))
    if kind is dict:
        return all(plain_or_given(key) and plain_or_given(item) for key, item in value.items())
    given = proxies.is_proxy(value) or kind in objects.PLAIN or value is None
    return (
        given
        or any(value is item for item in objects.GIVEN.values())
        or isinstance(value, BaseException)
    )


# --- time ----------------------------------------------------------------------------------------

SIZE = 1 << 20
SLOW = {
    "one line": b'"' + b"x" * SIZE + b'"',
    "many lines": b"1\n" * (SIZE // 2),
    "empty lines": b"\n" * SIZE,
    "deep": b"[" * SIZE,
    "deep objects": b'{"t":[' * (SIZE // 6),
    "digits": b"1" * SIZE,
    "fraction": b"0." + b"1" * SIZE,
    "large integer": b'["v",{"i":"' + b"f" * SIZE + b'"}]',
    "large complex": b'["v",{"c":["' + b"1" * SIZE + b'","1"]}]',
    "escapes": b'"' + b"\\ud800" * (SIZE // 6) + b'"',
    "same keys": b'["v",{"d":[' + b"[1,1]," * (SIZE // 6) + b"[1,1]]}]",
    "colliding keys": b'["v",{"s":['
    + b",".join(b'{"i":"%x"}' % (i * (2**61 - 1)) for i in range(20_000))
    + b"]}]",
    "nested sets": b'["v",' + b'{"z":[' * 60 + b"1" + b"]}" * 60 + b"]",
    "many small": b'["v",[' + b"[]," * (SIZE // 3) + b"[]]]",
    "too long": b"[" + b"1," * (wire.MAX_LINE // 2) + b"1]",
}


@pytest.mark.parametrize("data", SLOW.values(), ids=SLOW)
def test_no_reply_takes_long_to_read(data: bytes) -> None:
    before = time.process_time()
    for outcome in map(read_outcome, read_lines(data, 4)):
        assert outcome.kind in ("value", "malformed")
    end = Frame(wire.DONE, 0, 1, wire.USAGE.pack(0, 0, 0, 0))
    is_result(batch_result(Job("", "f", CALLS), wire.BEGUN + data, end), 3)
    assert time.process_time() - before < 5.0
