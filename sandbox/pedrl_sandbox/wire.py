"""What crosses the border of a sandbox: frames of bytes, and values as tagged JSON.

This file is shared by both sides. Inside a sandbox it is loaded by path, so it imports the standard
library alone. Nothing that crosses is ever unpickled or evaluated, and every size is bounded.

Values: ``None``, ``bool``, ``int``, ``float``, ``complex``, ``str``, ``bytes``, ``list``,
``tuple``, ``dict``, ``set`` and ``frozenset``, of exactly these types. A subclass, or an object
whose ``__class__`` lies, is refused: ``type(x)`` is what is looked at, never ``isinstance``.
"""

import json
import marshal
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

MAX_DEPTH: Final = 64
MAX_NODES: Final = 200_000
MAX_BYTES: Final = 1 << 22
MAX_LINE: Final = 1 << 23  # of JSON, which may take twenty times its size while it is parsed
# Beyond this many keys, equal hashes are counted: colliding integers make a set quadratic.
HASH_CHECK_FROM: Final = 256
MAX_EQUAL_HASHES: Final = 64

# The only reasons that a sandbox can give, so that hostile text never reaches a verdict.
TOO_DEEP: Final = "nested too deeply or recursive"
TOO_LARGE: Final = "larger than the limit"
NOT_PLAIN: Final = "not plain data"
BROKEN: Final = "not well-formed"
REASONS: Final = frozenset({TOO_DEEP, TOO_LARGE, NOT_PLAIN, BROKEN})


class WireError(ValueError):
    """A value or a message that may not cross; its text is one of ``REASONS``."""


# --- frames -------------------------------------------------------------------------------------

FRAME: Final = struct.Struct("<2sBBII")  # magic, kind, flags, job number, length of the body
MAGIC: Final = b"Pd"
MAX_FRAME: Final = 1 << 26

# towards the sandbox
JOB: Final = 1  # LIMITS, then a packed job
SAY: Final = 2  # bytes for the job's request pipe (interactive jobs)
END: Final = 3  # stop the job
# from the sandbox
READY: Final = 10  # the fork server waits for jobs
DATA: Final = 11  # bytes that the job wrote to its reply pipe
DONE: Final = 12  # USAGE, then captured stdout and stderr

INTERACTIVE: Final = 1  # flag of JOB
KEEP: Final = 2  # flag of JOB: leave the workspace as it is
LAST: Final = 1  # flag of SAY: behind it, the request pipe is closed
RETIRE: Final = 1  # flag of DONE: this sandbox could not be cleaned and must be replaced

LIMITS: Final = struct.Struct("<IIIII")  # cpu ms, wall ms, memory MiB, processes, output bytes
USAGE: Final = struct.Struct("<BiQQ")  # cause, exit code (or minus signal), cpu µs, wall µs

# First on a job's reply pipe, written when all is ready for the program: nothing can take it back.
BEGUN: Final = b"+\n"

# why a job ended
EXITED: Final = 0
CPU: Final = 1
WALL: Final = 2
OUTPUT: Final = 3
REPLY: Final = 4
ENDED: Final = 5


def frame(kind: int, job: int, body: bytes | bytearray = b"", flags: int = 0) -> bytes:
    """One frame, header and body."""
    return FRAME.pack(MAGIC, kind, flags, job, len(body)) + body


# --- values -------------------------------------------------------------------------------------


class Budget:
    """Counts nodes and bytes, so that shared sub-objects cannot unfold without bound.

    A subclass may let more than plain data cross, as references (``objects.py``, ``proxies.py``).
    """

    __slots__ = ("bytes", "nodes")

    def __init__(self) -> None:
        self.nodes = MAX_NODES
        self.bytes = MAX_BYTES

    def spend(self, size: int) -> None:
        """Count one node of ``size`` bytes."""
        self.nodes -= 1
        self.bytes -= size
        if self.nodes < 0 or self.bytes < 0:
            raise WireError(TOO_LARGE)

    def refer(self, value: Any, depth: int) -> Any:
        """What stands for a ``value`` that is not plain data."""
        raise WireError(NOT_PLAIN)

    def resolve(self, tag: str, body: list[Any], depth: int) -> Any:
        """The value behind a tag that is none of plain data."""
        raise WireError(BROKEN)


def pack(value: Any, budget: Budget | None = None) -> Any:
    """Turn a plain value into what ``json`` can carry without loss.

    Raises:
        WireError: the value is not plain data, too deep, cyclic or too large.
    """
    return pack_part(value, MAX_DEPTH, budget or Budget())


def pack_part(value: Any, depth: int, budget: Budget) -> Any:
    """As ``pack``, for a value inside another one: with what is left of its depth and budget."""
    kind = type(value)
    if kind is int:
        if -(1 << 53) < value < 1 << 53:
            budget.spend(8)
            return value
        budget.spend(value.bit_length() // 4)
        return {"i": hex(value)}
    if value is None or kind is bool:
        budget.spend(4)
        return value
    if kind is str:
        budget.spend(len(value))
        try:
            if not value.isascii():
                value.encode()
        except UnicodeEncodeError:
            # JSON would read a high surrogate beside a low one as a single character.
            return {"u": value.encode("utf-8", "surrogatepass").hex()}
        return value
    if kind is float:
        budget.spend(8)
        return value if math.isfinite(value) else {"f": repr(value)}
    if depth == 0:
        raise WireError(TOO_DEEP)
    if kind is list:
        budget.spend(2)
        return [pack_part(item, depth - 1, budget) for item in value]
    if kind is tuple:
        budget.spend(8)
        return {"t": [pack_part(item, depth - 1, budget) for item in value]}
    if kind is dict:
        budget.spend(8)
        pairs = value.items()
        return {
            "d": [
                [pack_part(k, depth - 1, budget), pack_part(v, depth - 1, budget)] for k, v in pairs
            ]
        }
    if kind is set or kind is frozenset:
        budget.spend(8)
        tag = "s" if kind is set else "z"
        return {tag: [pack_part(item, depth - 1, budget) for item in value]}
    if kind is bytes:
        budget.spend(2 * len(value))
        return {"b": value.hex()}
    if kind is complex:
        budget.spend(16)
        return {"c": [repr(value.real), repr(value.imag)]}
    return budget.refer(value, depth)


def unpack(packed: Any, budget: Budget | None = None) -> Any:
    """The value that ``pack`` packed, from untrusted parsed JSON.

    Raises:
        WireError: a tag is unknown, a value does not fit its tag, or a bound is passed.
    """
    return unpack_part(packed, MAX_DEPTH, budget or Budget())


def unpack_part(packed: Any, depth: int, budget: Budget) -> Any:
    """As ``unpack``, for a value inside another one: with what is left of its depth and budget."""
    budget.spend(len(packed) if type(packed) is str else 1)
    kind = type(packed)
    if packed is None or kind is bool or kind is int or kind is str:
        return packed
    if kind is float:
        if not math.isfinite(packed):
            raise WireError(BROKEN)
        return packed
    if kind is list:
        if depth == 0:
            raise WireError(TOO_DEEP)
        return [unpack_part(item, depth - 1, budget) for item in packed]
    if kind is not dict or len(packed) != 1:
        raise WireError(BROKEN)
    ((tag, body),) = packed.items()
    try:
        if tag == "i":
            return int(body, 16)
        if tag == "f":
            return _special(body)
        if tag == "b":
            return bytes.fromhex(body)
        if tag == "u":
            return bytes.fromhex(body).decode("utf-8", "surrogatepass")
        if tag == "c":
            real, imag = body
            return complex(float(real), float(imag))
    except (TypeError, ValueError) as error:
        raise WireError(BROKEN) from error
    if type(body) is not list:
        raise WireError(BROKEN)
    if depth == 0:
        raise WireError(TOO_DEEP)
    if tag == "t":
        return tuple([unpack_part(item, depth - 1, budget) for item in body])
    try:
        if tag == "s" or tag == "z":
            items = [unpack_part(item, depth - 1, budget) for item in body]
            _refuse_collisions(items)
            return set(items) if tag == "s" else frozenset(items)
        if tag == "d":
            pairs = [
                (unpack_part(k, depth - 1, budget), unpack_part(v, depth - 1, budget))
                for k, v in body
            ]
            _refuse_collisions([key for key, _ in pairs])
            return dict(pairs)
    except WireError:
        raise
    except (TypeError, ValueError) as error:  # unhashable keys, pairs that are no pairs
        raise WireError(BROKEN) from error
    return budget.resolve(tag, body, depth)


def _special(text: Any) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise WireError(BROKEN)
    return float(text)


def _refuse_collisions(keys: list[Any]) -> None:
    if len(keys) < HASH_CHECK_FROM:
        return
    run, last = 0, None
    for value in sorted(map(hash, keys)):
        run = run + 1 if value == last else 1
        last = value
        if run > MAX_EQUAL_HASHES:
            raise WireError(TOO_LARGE)


_DUMPS: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_QUOTE: Final[Callable[[str], str]] = json.encoder.encode_basestring_ascii
_READ: Final[Callable[[str], tuple[Any, int]]] = json.JSONDecoder().raw_decode
_SMALL: Final = 256  # characters or items that are written the short way


def dumps(packed: Any) -> bytes:
    """One line of ASCII JSON without its newline; ``packed`` holds what ``pack`` returned."""
    return _DUMPS(packed).encode()


def small_value(value: Any) -> bytes:
    """The whole line of the answer ``["v", value]`` where that is simple, else nothing."""
    text = _small(value)
    if not text and type(value) is list and len(value) <= _SMALL:
        parts = [_small(item) for item in value]
        text = f"[{','.join(parts)}]" if all(parts) else ""
    return f'["v",{text}]\n'.encode() if text else b""


def _small(value: Any) -> str:
    """The JSON of a number, a truth value or a short plain text, else nothing."""
    kind = type(value)
    if kind is int:
        return str(value) if -(1 << 53) < value < 1 << 53 else ""
    if kind is str:
        return _QUOTE(value) if len(value) <= _SMALL and value.isascii() else ""
    if kind is bool:
        return "true" if value else "false"
    if kind is float:
        return repr(value) if math.isfinite(value) else ""
    return "null" if value is None else ""


def loads(line: bytes | bytearray) -> Any:
    """Parse one line from the other side.

    Raises:
        WireError: not JSON, too long, nested too deeply for the parser, or an integer of too many
            digits.
    """
    if len(line) > MAX_LINE:
        raise WireError(TOO_LARGE)
    try:
        text = line.decode()
        value, end = _READ(text)
    except RecursionError as error:
        raise WireError(TOO_DEEP) from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise WireError(BROKEN) from error
    if text[end:] not in ("", "\n"):
        raise WireError(BROKEN)
    return value


def encode(value: Any) -> bytes:
    """``dumps(pack(value))``."""
    return dumps(pack(value))


def decode(line: bytes | bytearray) -> Any:
    """``unpack(loads(line))``."""
    return unpack(loads(line))


def pack_call(args: Iterable[Any], kwargs: dict[str, Any] | None = None) -> list[Any]:
    """The arguments of one call, as the solver reads them."""
    budget = Budget()
    named = {key: pack_part(item, MAX_DEPTH, budget) for key, item in (kwargs or {}).items()}
    return [[pack_part(item, MAX_DEPTH, budget) for item in args], named]


# --- requests -----------------------------------------------------------------------------------

# A job goes into the sandbox as marshalled data: its reader is about to run the program anyway, and
# one call into C touches a fraction of the memory that JSON does. Nothing ever comes out that way.
_PLAIN_MARSHAL: Final = 2  # without references: equal arguments stay separate objects
_REQUEST_HEAD: Final = struct.pack("<cI", b"(", 6)  # a tuple of six, as marshal writes it


def encode_calls(calls: Iterable[Iterable[Any]]) -> bytes:
    """The positional arguments of each call, for ``request``.

    Raises:
        WireError: an argument is not plain data, or too large.
    """
    rows = [tuple(args) for args in calls]
    for args in rows:
        pack_call(args)
    return marshal.dumps(rows, _PLAIN_MARSHAL)


def encode_rows(rows: Sequence[tuple[Any, ...]]) -> bytes:
    """As ``encode_calls``, of what this side has made itself: nothing is checked."""
    return marshal.dumps(list(rows), _PLAIN_MARSHAL)


def request(
    program: str, mode: str, entry: str, candidate: str, files: dict[str, str], calls: bytes
) -> bytes:
    """The body of a ``JOB`` frame behind its limits; ``calls`` comes from ``encode_calls``."""
    parts = (program, mode, entry, candidate, files)
    return b"".join(
        [_REQUEST_HEAD, *(marshal.dumps(part, _PLAIN_MARSHAL) for part in parts), calls]
    )


def read_request(
    body: bytes,
) -> tuple[str, str, str, str, dict[str, str], list[tuple[Any, ...]]]:
    """What ``request`` put into ``body``, as its arguments, the calls decoded."""
    return marshal.loads(body)  # type: ignore[no-any-return]
