"""Jobs and the solver's own files, as the bytes that go into a sandbox."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from pedrl_sandbox import wire
from pedrl_sandbox.jobs import AnyJob, Call, EncodedCalls, Job, JobLimits, ObjectsJob, ScriptJob
from pedrl_sandbox.room import JOBS, Room
from pedrl_sandbox.script import STDIN

_HERE: Final = Path(__file__).parent
_INSIDE: Final = (
    *(
        "supervisor.py",
        "template.py",
        "apart.py",
        "confine.py",
        "submission.py",
        "wire.py",
        "replies.py",
    ),
    *("observing.py", "script.py", "objects.py", "proxies.py", "crossing.py", "grader.py"),
    "commands.py",
)
_NO_CALLS: Final = wire.encode_calls(())


@cache
def solver_files() -> dict[str, bytes]:
    """Name -> content of what runs inside, read once: edits reach no process that has begun.

    A solver that changed between two starts would speak another protocol than this side, and its
    answers could be taken for those of submissions.
    """
    return {name: (_HERE / name).read_bytes() for name in _INSIDE}


@cache
def launcher_source() -> str:
    """``launch.py``, read once like the solver."""
    return (_HERE / "launch.py").read_text()


def settings(
    mode: str,
    workspaces: Sequence[str],
    *,
    root: str = "",
    uid: int = 0,
    room: Room = JOBS,
    packages: str = "",
    preload: Sequence[str] = (),
    core: int | None = None,
) -> str:
    """The argument of ``supervisor.py``; see there."""
    return json.dumps(
        {
            "mode": mode,
            "workspaces": list(workspaces),
            "root": root,
            "uid": uid,
            "size": room.size,
            "descriptors": room.descriptors,
            "packages": packages,
            "preload": list(preload),
            "core": core,
        }
    )


def encode_job(job: AnyJob, *, serve: bool = False) -> bytes:
    """The body of a ``wire.JOB`` frame.

    Args:
        job: what to run.
        serve: whether the calls of a ``Job`` arrive later, one by one.
    """
    head = _head(job.limits)
    if isinstance(job, Job):
        calls = job.calls if isinstance(job.calls, EncodedCalls) else encode_calls(job.calls)
        mode = "serve" if serve else "observe" if calls.observed else "calls"
        return head + wire.request(
            job.program, mode, job.entry_point, "", dict(job.files), calls.data
        )
    if isinstance(job, ScriptJob):
        files = {**job.files, STDIN: job.stdin}
        return head + wire.request(job.program, "script", "", "", files, _NO_CALLS)
    if isinstance(job, ObjectsJob):
        return head + wire.request("", "objects", "", "", dict(job.files), _NO_CALLS)
    mode, rows = "check", _NO_CALLS
    if job.exchanges is not None:
        mode, rows = "replay", wire.encode_rows(job.exchanges)
    return head + wire.request(job.program, mode, "check", job.name, dict(job.files), rows)


def encode_command(mode: str, rows: Sequence[tuple[Any, ...]], limits: JobLimits) -> bytes:
    """The body of a ``wire.JOB`` frame that a workspace sends; see ``commands.run_command``."""
    return _head(limits) + wire.request("", mode, "", "", {}, wire.encode_rows(rows))


def _head(limits: JobLimits) -> bytes:
    return wire.LIMITS.pack(
        round(limits.cpu_s * 1000),
        round(limits.wall_s * 1000),
        limits.memory_mb,
        limits.processes,
        limits.output_bytes,
    )


def encode_calls(calls: Sequence[tuple[Any, ...] | Call], *, plain: bool = False) -> EncodedCalls:
    """The arguments of every call, for many jobs that make the same ones.

    Args:
        calls: of a job.
        plain: they are known to be plain data, and of a size that may cross.

    Raises:
        WireError: an argument is not plain data, or too large.
    """
    encode = wire.encode_rows if plain else wire.encode_calls
    if not any(isinstance(call, Call) for call in calls):
        return EncodedCalls(encode(calls), len(calls))  # type: ignore[arg-type]
    rows = []
    for call in calls:
        if not isinstance(call, Call):
            call = Call(call)
        rows.append((call.args, dict(call.kwargs), call.items, call.printed, call.changed))
    return EncodedCalls(encode(rows), len(rows), observed=True)
