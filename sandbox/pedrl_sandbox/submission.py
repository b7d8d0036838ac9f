"""A job, inside its own forked process: the submission runs in the same interpreter as this code.

So nothing here can be relied upon once the program has started, and nothing is: what this process
says is data for the other side, whoever wrote it.
"""

import importlib
import os
import sys
from collections.abc import Iterable
from resource import (
    RLIMIT_AS,
    RLIMIT_CORE,
    RLIMIT_CPU,
    RLIMIT_FSIZE,
    RLIMIT_MEMLOCK,
    RLIMIT_NOFILE,
    RLIMIT_NPROC,
    getrlimit,
    setrlimit,
)
from types import ModuleType
from typing import Any, Final

from pedrl_sandbox import wire
from pedrl_sandbox.replies import (
    BUILTIN_ERRORS,
    REPLY_FD,
    REQUEST_FD,
    REQUESTS,
    builtin_name,
    outcome,
    packed,
    say,
    write_files,
)

HIGHEST_FD: Final = 64  # the server opens none above
WARM_UPS: Final = 40
# What few jobs need: imported before the fork, but not among the pages that every job touches.
RARE: Final = tuple(
    f"pedrl_sandbox.{name}" for name in ("observing", "script", "objects", "commands")
)
SAMPLE: Final = """
import math
def h(x): return x
class C:
    def __init__(self, x): self.x = x
def g(n): return n if n < 2 else g(n - 1) + n
def f(x, texts=()):
    if x == 3: raise ValueError(f"{x}")
    found = {}
    for i, text in enumerate(texts):
        found[text] = found.get(text, 0) + i
    while x % 7: x += 1
    return sorted(found), [y * 2 for y in range(x) if y % 3], math.floor(x / 2), C(g(x)).x
"""


def place_pipes(null: int, out: int, reply: int, request: int) -> None:
    """Give a job's pipes the numbers where they are looked for, and close all else.

    Args:
        null: is ``REPLY_FD``, so that the others are above.
        out: for standard output and error.
        reply: for ``REPLY_FD``.
        request: for ``REQUEST_FD``.
    """
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(reply, REPLY_FD)
    os.dup2(request, REQUEST_FD)
    os.closerange(REQUEST_FD + 1, HIGHEST_FD)


def child_main(body: bytes, limits: tuple[int, ...], nproc: int, descriptors: int) -> None:
    """Limit this process, then run the job in ``body``. Returns when the job is over.

    Args:
        body: a packed job.
        limits: as in ``wire.LIMITS``.
        nproc: limit on the processes of this user; 0 for none.
        descriptors: how many may be open.
    """
    cpu_ms, _, memory_mb, _, _ = limits
    seconds = cpu_ms // 1000 + 2  # a backstop behind the server's exact limit, for grandchildren
    setrlimit(RLIMIT_CPU, (seconds, seconds))
    setrlimit(RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    setrlimit(RLIMIT_NOFILE, (descriptors, descriptors))
    if nproc:
        setrlimit(RLIMIT_NPROC, (nproc, nproc))
    answer(body)


def set_common_limits(file_bytes: int) -> None:
    """The limits that are the same for every job; the server lives under them too.

    Not that on descriptors: those which jobs, all of this user, have sent and nobody has received
    count against whoever sends more, so the server's own is as high as it can be.
    """
    for name, value in ((RLIMIT_FSIZE, file_bytes), (RLIMIT_CORE, 0), (RLIMIT_MEMLOCK, 0)):
        setrlimit(name, (value, value))
    most = getrlimit(RLIMIT_NOFILE)[1]
    setrlimit(RLIMIT_NOFILE, (most, most))


def warm_up(null: int) -> None:
    """Run a job of ours in the server itself, its answers going to ``null``, which is REPLY_FD.

    The first compilation in a process builds the types of the syntax tree, calls bind symbols and
    loops get specialised: done before the fork, it is done once, and no child copies those pages.
    """
    assert null == REPLY_FD
    for name in RARE:
        importlib.import_module(name)
    calls = wire.encode_calls((number, [str(number)]) for number in range(4))
    body = wire.request(SAMPLE, "calls", "f", "", {}, calls)
    for _ in range(WARM_UPS):
        # A real module: dataclasses and typing look their classes' modules up.
        sys.modules["solution"] = ModuleType("solution")
        answer(body)
    sys.modules["solution"] = ModuleType("solution")


def answer(body: bytes) -> None:
    """Read the job in ``body`` and run it.

    ``calls`` answers each call of the job, ``observe`` does so and says more about each, ``serve``
    answers calls as they arrive on the request pipe, ``check`` runs a trusted ``check(candidate)``
    whose calls go out on the reply pipe, ``replay`` one that hears answers which are known,
    ``script`` runs a whole program, ``objects`` serves the objects of a workspace, ``exec``,
    ``put`` and ``get`` are in ``commands.py``.
    """
    try:
        program, mode, entry_name, candidate_name, files, calls = wire.read_request(body)
        if files and mode != "objects":
            write_files(files)
        space = sys.modules["solution"].__dict__
    except MemoryError:  # of a long program: not the solver's failure
        say(["x", "MemoryError"])
        return
    # From here on, whatever goes wrong counts against the program. Before, it counts against us.
    os.write(REPLY_FD, wire.BEGUN)
    if mode == "script":
        from pedrl_sandbox.script import run_script

        run_script(program)
    if mode in ("exec", "put", "get"):
        from pedrl_sandbox.commands import run_command

        run_command(mode, calls)
    if mode == "objects":
        from pedrl_sandbox.objects import serve_objects

        serve_objects(files)
        return
    if mode in ("check", "replay"):
        import random

        random.seed(0)  # as the recorder does: a check that draws its inputs draws the same ones
    try:
        exec(compile(program, "<solution>", "exec", dont_inherit=True), space)
        entry = space[entry_name]
    except BaseException as error:
        say(["x", builtin_name(error)])
        return
    if mode == "calls":
        for args in calls:
            # As in `outcome`, with a short way for the most frequent answer.
            try:
                value = entry(*args)
            except BaseException as error:
                say(["e", builtin_name(error)])
                continue
            line = wire.small_value(value) or wire.dumps(packed(value)) + b"\n"
            while line:
                line = line[os.write(REPLY_FD, line) :]
    elif mode == "observe":
        from pedrl_sandbox.observing import observe

        observe(entry, calls)
    elif mode == "serve":
        for line in REQUESTS:
            say(outcome(entry, *unpack_call(wire.loads(line))))
    elif mode == "replay":
        say(["v", replay(entry, space, candidate_name, calls)])
    else:
        space[candidate_name] = candidate
        try:
            entry(candidate)
        except BaseException as error:
            say(["x", builtin_name(error)])
        else:
            say(["v", None])


def unpack_call(call: Any) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of one call, from parsed JSON."""
    args, kwargs = call
    return [wire.unpack(item) for item in args], {k: wire.unpack(v) for k, v in kwargs.items()}


def candidate(*args: Any, **kwargs: Any) -> Any:
    """Stands for the submission in a trusted check; the answer comes from another sandbox."""
    say(["c", wire.pack_call(args, kwargs)])
    tag, body = wire.loads(next(REQUESTS))
    if tag == "v":
        return wire.unpack(body)
    raise known_error(body)


def known_error(name: str) -> BaseException:
    """An exception of this name."""
    kind = BUILTIN_ERRORS.get(name, RuntimeError)
    return kind.__new__(kind)


def replay(
    check: Any, space: dict[str, Any], name: str, exchanges: Iterable[tuple[Any, ...]]
) -> list[str]:
    """How a trusted ``check`` ends that is told what ``exchanges`` holds, see ``CheckJob``."""
    expected = iter(exchanges)

    def candidate(*args: Any, **kwargs: Any) -> Any:
        asked = wire.dumps(wire.pack_call(args, kwargs))
        line, tag, body = next(expected, (b"", "", None))
        if asked != line:  # at once, whatever the check would make of an exception
            say(["v", ["other" if line else "more"]])
            os._exit(0)
        if tag == "v":
            return body
        raise known_error(body)

    space[name] = candidate
    try:
        check(candidate)
    except BaseException as error:
        return ["failed", builtin_name(error)]
    return ["passed"]
