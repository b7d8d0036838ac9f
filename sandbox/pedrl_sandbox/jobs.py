"""What goes into a sandbox and what comes out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self

JobStatus = Literal["ok", "failed", "timeout", "oom", "malformed", "infra_error"]


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What one job may use. CPU seconds are the real limit, wall seconds a generous cap."""

    cpu_s: float = 2.0
    wall_s: float = 20.0
    memory_mb: int = 512
    processes: int = 8
    output_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a job that says more than a value: what is asked for, and nothing expected.

    Attributes:
        args: positional arguments, plain data.
        kwargs: arguments by name, plain data.
        items: if not 0, the result is iterated, and its first ``items`` items are the value.
        printed: whether to tell what is printed through ``sys.stdout`` meanwhile.
        changed: whether to tell what the positional arguments are afterwards.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    items: int = 0
    printed: bool = False
    changed: bool = False


@dataclass(frozen=True, slots=True)
class EncodedCalls:
    """The calls of a job, encoded once for many jobs; ``encode_calls`` makes them.

    Attributes:
        observed: whether each is a ``Call``.
    """

    data: bytes
    count: int
    observed: bool = False

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class Job:
    """Run ``program``, then call its ``entry_point`` once per element of ``calls``.

    Attributes:
        program: Python source, not trusted.
        entry_point: a global name that the program defines.
        calls: positional arguments, plain data, or a ``Call``; or the same, encoded.
        files: relative path -> text, written into the working folder first.
    """

    program: str
    entry_point: str
    calls: "Sequence[tuple[Any, ...] | Call] | EncodedCalls" = ()
    limits: JobLimits = JobLimits()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScriptJob:
    """Run ``program`` as ``__main__``, as the interpreter would.

    Attributes:
        program: Python source, not trusted.
        stdin: its whole standard input.
        files: relative path -> text, written into the working folder first.
    """

    program: str
    stdin: str = ""
    limits: JobLimits = JobLimits()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ObjectsJob:
    """Hold the workspace ``files``, not trusted, and answer for its objects over the session.

    See ``pedrl_sandbox.objects``.
    """

    files: Mapping[str, str]
    limits: JobLimits = JobLimits()


@dataclass(frozen=True, slots=True)
class CheckJob:
    """Run a *trusted* program that defines ``check(candidate)`` in a sandbox of its own.

    ``candidate``, also bound to the global ``name``, asks for its answers over the session. In a
    batch, it is told what ``exchanges`` holds, and the one outcome is how the check ended:
    ``["passed"]``, ``["failed", exception type]``, ``["more"]`` where it asked more than there is,
    ``["other"]`` where it asked something else.

    Attributes:
        exchanges: each a call as ``candidate`` writes it, ``v`` or ``e``, and the value or the name
            of the exception.
    """

    program: str
    name: str
    limits: JobLimits = JobLimits()
    files: Mapping[str, str] = field(default_factory=dict)
    exchanges: Sequence[tuple[bytes, str, Any]] | None = None


BatchJob = Job | ScriptJob | CheckJob
SessionJob = Job | ObjectsJob | CheckJob
AnyJob = Job | ScriptJob | ObjectsJob | CheckJob


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one call.

    Attributes:
        kind: ``value``, ``raised`` or ``malformed``.
        value: plain data, when ``kind`` is ``value``.
        note: the builtin exception type, or why the value may not cross.
        printed: text, where a ``Call`` asked for it.
        changed: the positional arguments afterwards, where a ``Call`` asked for them.
    """

    kind: Literal["value", "raised", "malformed"]
    value: Any = None
    note: str = ""
    printed: str | None = None
    changed: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended, with everything that it said before it ended.

    Attributes:
        status: ``ok`` says only that the program ran to its end and answered every call.
        outcomes: one per call, in order; fewer when the job ended early.
        detail: one line made here, never text of the program's choosing.
        output: stdout and stderr, at most ``limits.output_bytes`` bytes; of a script stderr.
        stdout: of a script, at most ``limits.output_bytes`` bytes.
        exit_code: of the process, where it ended by itself; minus the signal that killed it.
        cpu_s: CPU seconds of the job, its processes and the fork server meanwhile.
        wall_s: wall seconds from fork to end.
    """

    status: JobStatus
    outcomes: tuple[Outcome, ...] = ()
    detail: str = ""
    output: bytes = b""
    stdout: bytes = b""
    exit_code: int | None = None
    cpu_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether one property is enforced on this machine, how, and if not, why not."""

    name: str
    enforced: bool
    how: str


class Session(Protocol):
    """One interactive job, for callers that decide what to ask next."""

    def tell(self, message: Any) -> None:
        """Send one message to the job."""
        ...

    def hear(self) -> Any | None:
        """The next message of the job, parsed but not unpacked; None when the job has ended."""
        ...

    def close(self) -> JobResult:
        """End the job if it still runs, and say how it ended."""
        ...


class JobRunner(Protocol):
    """A place to run untrusted jobs, chosen by name and never silently exchanged."""

    name: str

    def run_batch(self, jobs: Sequence[BatchJob]) -> list[JobResult]:
        """Run jobs, each in a process of its own; the results are in the order of the jobs."""
        ...

    def session(self, job: SessionJob) -> Session:
        """Start one interactive job."""
        ...

    def capabilities(self) -> tuple[Capability, ...]:
        """Try every property with a hostile program and report what held."""
        ...

    def close(self) -> None:
        """Kill what runs and remove what was made."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
