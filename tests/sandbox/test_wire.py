"""The wire format: nothing is lost, nothing is believed, everything is bounded."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedrl_sandbox import wire
from pedrl_sandbox.answers import error_name, read_lines, read_outcome

scalars: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        st.none()
        | st.booleans()
        | st.integers()
        | st.integers(min_value=-(1 << 300), max_value=1 << 300)
        | st.floats()
        | st.complex_numbers(allow_nan=True)
        | st.text(st.characters())  # with surrogates
        | st.binary()
    )
)
hashables: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        scalars
        | st.lists(hashables, max_size=3).map(tuple)
        | st.lists(hashables, max_size=3).map(frozenset)
    )
)
values: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        scalars
        | st.lists(values, max_size=4)
        | st.lists(values, max_size=4).map(tuple)
        | st.dictionaries(hashables, values, max_size=4)
        | st.lists(hashables, max_size=4).map(set)
    )
)


def same(left: Any, right: Any) -> bool:
    """Equal in type and value at every depth; an oracle of its own, by recursion."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (left == right and math.copysign(1, left) == math.copysign(1, right)) or (
            math.isnan(left) and math.isnan(right)
        )
    if isinstance(left, complex):
        return same(left.real, right.real) and same(left.imag, right.imag)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        pairs = list(right.items())
        return len(left) == len(right) and all(
            any(same(key, k) and same(item, v) for k, v in pairs) for key, item in left.items()
        )
    if isinstance(left, set | frozenset):
        return len(left) == len(right) and all(any(same(a, b) for b in right) for a in left)
    return bool(left == right)


def attempt(decode: Callable[[Any], Any], data: Any) -> tuple[Any, str | None]:
    """The value, or why it was refused; any other exception is a bug."""
    try:
        return decode(data), None
    except wire.WireError as error:
        return None, str(error)


@given(values)
@settings(max_examples=300, deadline=None)
def test_round_trip(value: Any) -> None:
    line = wire.encode(value)
    assert b"\n" not in line
    assert line.isascii()
    assert same(wire.decode(line), value)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    value, reason = attempt(wire.decode, data)
    if reason is None:
        assert same(wire.decode(wire.encode(value)), value)
    else:
        assert reason in wire.REASONS


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*"ifbctdszuq"]), inner, max_size=2)
    ),
)


@given(json_values)
@settings(max_examples=500, deadline=None)
def test_any_json_unpacks_to_plain_data_or_is_refused(packed: Any) -> None:
    value, reason = attempt(wire.unpack, packed)
    if reason is None:
        assert same(wire.decode(wire.encode(value)), value)
    else:
        assert reason in wire.REASONS


@given(st.lists(json_values, max_size=4), st.binary(max_size=50))
@settings(max_examples=200, deadline=None)
def test_any_reply_is_read_as_outcomes(messages: list[Any], tail: bytes) -> None:
    data = b"".join(json.dumps(message).encode() + b"\n" for message in messages) + tail
    lines = read_lines(data, 6)
    assert len(lines) <= 7
    for outcome in map(read_outcome, lines):
        assert outcome.kind in ("value", "raised", "malformed")
        if outcome.kind == "malformed":
            assert outcome.note in wire.REASONS


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (None, b"null"),
        (True, b"true"),
        (1, b"1"),
        (1.0, b"1.0"),
        (1 << 60, b'{"i":"0x1000000000000000"}'),
        (math.inf, b'{"f":"inf"}'),
        ((1, "a"), b'{"t":[1,"a"]}'),
        ({"a": [1]}, b'{"d":[["a",[1]]]}'),
        ({1}, b'{"s":[1]}'),
        (frozenset(), b'{"z":[]}'),
        (b"\xff", b'{"b":"ff"}'),
        ("\ud83d", b'{"u":"eda0bd"}'),
    ],
)
def test_golden_lines(value: Any, line: bytes) -> None:
    assert wire.encode(value) == line


class Lying(int):
    __class__ = str  # type: ignore[assignment]


def test_what_is_not_plain_is_refused() -> None:
    for value in (Lying(1), object(), range(3), bytearray(), print, [Lying(2)], {Lying(3): 1}):
        with pytest.raises(wire.WireError, match=wire.NOT_PLAIN):
            wire.encode(value)


def test_bounds_of_depth() -> None:
    value: Any = 0
    for _ in range(wire.MAX_DEPTH):
        value = [value]
    assert wire.decode(wire.encode(value)) == value
    with pytest.raises(wire.WireError, match=wire.TOO_DEEP):
        wire.encode([value])
    deep = b"[" * (wire.MAX_DEPTH + 1) + b"]" * (wire.MAX_DEPTH + 1)
    with pytest.raises(wire.WireError, match=wire.TOO_DEEP):
        wire.decode(deep)
    with pytest.raises(wire.WireError, match=wire.TOO_DEEP):
        wire.decode(b"[" * 10**6)


def test_colliding_keys_are_refused_on_arrival() -> None:
    colliding = [hex(i * (2**61 - 1)) for i in range(1, 1000)]
    packed = {"s": [{"i": text} for text in colliding]}
    with pytest.raises(wire.WireError, match=wire.TOO_LARGE):
        wire.unpack(packed)
    assert len(wire.unpack({"s": list(range(1000))})) == 1000


def test_error_names_are_builtins() -> None:
    assert error_name("ValueError") == "ValueError"
    assert error_name("print") == "BaseException"
    assert error_name(["ValueError"]) == "BaseException"


@given(st.lists(st.lists(values, max_size=3).map(tuple), max_size=4))
def test_requests_lose_nothing(calls: list[tuple[Any, ...]]) -> None:
    encoded = wire.encode_calls(calls)
    body = wire.request("p\ud800", "calls", "f", "", {"a": "b"}, encoded)
    *parts, back = wire.read_request(body)
    assert tuple(parts) == ("p\ud800", "calls", "f", "", {"a": "b"})
    assert same(back, calls)


def test_equal_arguments_of_a_request_stay_separate() -> None:
    shared = [1]
    body = wire.request("", "", "", "", {}, wire.encode_calls([(shared,), (shared,)]))
    *_, back = wire.read_request(body)
    back[0][0].append(2)
    assert back[1][0] == [1]


class Number(int):
    """An int to ``isinstance`` and to ``marshal``'s eyes, not to ours."""


@pytest.mark.parametrize("bad", [Number(3), [Number(3)], bytearray(2), memoryview(b"x"), print])
def test_what_is_not_plain_never_goes_in(bad: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.encode_calls([(bad,)])


@given(values)
def test_the_short_way_says_the_same(value: Any) -> None:
    line = wire.small_value(value)
    assert line in (b"", wire.dumps(["v", wire.pack(value)]) + b"\n")


def test_the_short_way_is_taken() -> None:
    assert wire.small_value(-7) == b'["v",-7]\n'
    assert wire.small_value([True, None, 0.5, "a\n"]) == b'["v",[true,null,0.5,"a\\n"]]\n'
    assert wire.small_value([]) == b'["v",[]]\n'
    for other in (Number(3), [Number(3)], 1 << 53, [[1]], (1,), "ä", "x" * 257, [0] * 257, 1e999):
        assert wire.small_value(other) == b""


def test_a_line_is_read_with_its_end_and_nothing_else() -> None:
    assert wire.loads(b'["v",1]\n') == wire.loads(b'["v",1]') == ["v", 1]
    for line in (b'["v",1]\n\n', b' ["v",1]', b'["v",1] ', b'["v",1]["v",2]', b"", b"\xff", b"[1"):
        with pytest.raises(wire.WireError):
            wire.loads(line)
