"""Read what a sandbox said about a job. All of it is untrusted: parsed, bounded, never believed."""

import builtins
import signal
from collections.abc import Sequence
from typing import Any, Final

from pedrl_sandbox import wire
from pedrl_sandbox.jobs import (
    AnyJob,
    BatchJob,
    CheckJob,
    Job,
    JobResult,
    JobStatus,
    Outcome,
    ScriptJob,
)
from pedrl_sandbox.worker import Frame, WorkerDiedError

_ERRORS: Final = frozenset(
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
)

# By the kernel, by itself or by somebody outside. The last is bad luck, so it is tried again; but
# never excused, because a program can kill itself.
KILLED: Final = "killed, most likely for memory"


def error_name(name: Any) -> str:
    """``name`` if it names a builtin exception, else the vaguest of them."""
    return name if isinstance(name, str) and name in _ERRORS else "BaseException"


def read_lines(data: bytes | bytearray, most: int) -> list[Any]:
    """The messages in a reply, at most ``most`` and one for all the rest.

    What cannot be parsed is read as a broken message.
    """
    messages: list[Any] = []
    lines = data.split(b"\n", most)
    for line in lines if lines[-1] else lines[:-1]:
        try:
            messages.append(wire.loads(line))
        except wire.WireError as error:
            messages.append(["m", str(error)])
    return messages


def read_reply(data: bytes | bytearray, most: int) -> tuple[bool, list[Any]]:
    """Whether the program was reached, and the messages: see ``read_lines``."""
    begun = data.startswith(wire.BEGUN)
    return begun, read_lines(data[len(wire.BEGUN) :] if begun else data, most)


def read_outcome(message: Any) -> Outcome:
    """One answer; whatever is not well-formed is malformed."""
    match message:
        case ["v", packed]:
            try:
                return Outcome("value", wire.unpack(packed))
            except wire.WireError as error:
                return Outcome("malformed", note=str(error))
        case ["e", name]:
            return Outcome("raised", note=error_name(name))
        case ["m", reason] if isinstance(reason, str) and reason in wire.REASONS:
            return Outcome("malformed", note=reason)
        case [tag, body, printed, changed]:
            return _observed(read_outcome([tag, body]), printed, changed)
        case _:
            return Outcome("malformed", note=wire.BROKEN)


def _observed(outcome: Outcome, printed: Any, changed: Any) -> Outcome:
    """``outcome`` with what else was asked for."""
    if outcome.kind == "malformed":
        return outcome
    try:
        text = wire.unpack(printed)
        after = None if changed is None else tuple(wire.unpack(changed))
    except (wire.WireError, TypeError) as error:
        note = str(error) if isinstance(error, wire.WireError) else wire.BROKEN
        return Outcome("malformed", note=note)
    if text is not None and type(text) is not str:
        return Outcome("malformed", note=wire.BROKEN)
    return Outcome(outcome.kind, outcome.value, outcome.note, text, after)


def batch_result(job: BatchJob, data: bytes | bytearray, frame: Frame) -> JobResult:
    """How ``job`` ended, by its last frame and by all that came on its reply pipe.

    Raises:
        WorkerDiedError: the frame is not what the fork server sends.
    """
    if isinstance(job, ScriptJob):
        return _script_result(job, data, frame)
    begun, messages = read_reply(data, _asked(job) + 1)
    return result(job, messages, frame, begun=begun)


def result(job: AnyJob, messages: Sequence[Any], frame: Frame, *, begun: bool) -> JobResult:
    """How ``job`` ended, by its last frame and everything that it said.

    For an interactive job pass no messages: its caller has read them. A job that has not ``begun``
    never came to its program, so its end is the solver's doing, unless a limit explains it.

    Raises:
        WorkerDiedError: the frame is not what the fork server sends.
    """
    end = _End(frame)
    crash = None
    if messages and isinstance(messages[-1], list) and messages[-1][:1] == ["x"]:
        crash = error_name(messages[-1][1]) if len(messages[-1]) == 2 else "BaseException"
        messages = messages[:-1]
    outcomes = tuple(map(read_outcome, messages))
    calls = _asked(job)
    status: JobStatus = "ok"
    detail = ""
    if limit := end.limit(job):
        status, detail = limit
    elif end.cause == wire.ENDED:
        pass
    elif crash == "MemoryError" or any(item.note == "MemoryError" for item in outcomes):
        status, detail = "oom", _memory(job)
    elif not begun and end.code != -signal.SIGKILL:
        status, detail = "infra_error", end.solver_failure()
    elif crash is not None:
        status, detail = "failed", f"raised {crash}"
    elif death := end.death():
        status, detail = death
    elif messages and len(outcomes) > calls:
        status, detail = "malformed", "more answers than calls"
    elif any(item.kind == "malformed" for item in outcomes):
        first = next(item for item in outcomes if item.kind == "malformed")
        status, detail = "malformed", first.note
    elif len(outcomes) < calls:
        status, detail = "failed", "ended without answering every call"
    return JobResult(
        status, outcomes[:calls], detail, end.output, cpu_s=end.cpu_s, wall_s=end.wall_s
    )


def _asked(job: AnyJob) -> int:
    """How many answers a job owes."""
    if isinstance(job, Job):
        return len(job.calls)
    return int(isinstance(job, CheckJob) and job.exchanges is not None)


def _script_result(job: ScriptJob, data: bytes | bytearray, frame: Frame) -> JobResult:
    """As ``result``. Here all that comes is printed text, so nothing in it says how it ended."""
    end = _End(frame)
    begun = data.startswith(wire.BEGUN)
    crash = end.last_error() if end.code == 1 else ""
    status: JobStatus = "ok"
    detail = f"raised {crash}" if crash else ""
    if end.cause == wire.REPLY:
        status, detail = "failed", _too_much_output(job)
    elif limit := end.limit(job):
        status, detail = limit
    elif crash == "MemoryError":
        status, detail = "oom", _memory(job)
    elif not begun and end.code != -signal.SIGKILL:
        status, detail = "infra_error", end.solver_failure()
    elif death := end.death():
        status, detail = death
    stdout = bytes(data[len(wire.BEGUN) :]) if begun else b""
    exit_code = end.code if end.cause == wire.EXITED else None
    return JobResult(
        status, (), detail, end.output, stdout, exit_code, cpu_s=end.cpu_s, wall_s=end.wall_s
    )


class _End:
    """The last frame of a job: why and how it ended, what it used, what it wrote."""

    def __init__(self, frame: Frame) -> None:
        if frame.kind != wire.DONE or len(frame.body) < wire.USAGE.size:
            raise WorkerDiedError("the sandbox broke the protocol")
        self.cause, self.code, cpu_us, wall_us = wire.USAGE.unpack_from(frame.body)
        self.cpu_s, self.wall_s = cpu_us / 1e6, wall_us / 1e6
        self.output = frame.body[wire.USAGE.size :]

    def limit(self, job: AnyJob) -> tuple[JobStatus, str] | None:
        """What was passed, if a limit was."""
        limits = job.limits
        if self.cause == wire.CPU or self.code == -signal.SIGXCPU:
            return "timeout", f"CPU time limit of {limits.cpu_s:g} s"
        if self.cause == wire.WALL:
            return "timeout", f"wall time limit of {limits.wall_s:g} s"
        if self.cause == wire.OUTPUT:
            return "failed", _too_much_output(job)
        if self.cause == wire.REPLY:
            return "malformed", wire.TOO_LARGE
        return None

    def death(self) -> tuple[JobStatus, str] | None:
        """Of which signal it died, if it did."""
        if self.code == -signal.SIGKILL:
            return "oom", KILLED
        return ("failed", f"died of signal {-self.code}") if self.code < 0 else None

    def solver_failure(self) -> str:
        """Why it never came to its program."""
        lines = self.output.decode(errors="replace").strip().splitlines()
        return f"the solver failed: {lines[-1] if lines else f'exit {self.code}'}"

    def last_error(self) -> str:
        """The builtin exception that the last line of a traceback names, or nothing."""
        name = self.output[-4096:].rstrip().rsplit(b"\n", 1)[-1].split(b":")[0]
        return found if (found := name.decode(errors="replace")) in _ERRORS else ""


def _memory(job: AnyJob) -> str:
    return f"memory limit of {job.limits.memory_mb} MiB"


def _too_much_output(job: AnyJob) -> str:
    return f"output limit of {job.limits.output_bytes} bytes"
