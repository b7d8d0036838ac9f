"""One running fork server, seen from outside: frames over two descriptors, and a process."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from select import POLLIN, POLLOUT, poll
from typing import Final, Protocol

from pedrl_sandbox import wire
from pedrl_sandbox.cgroup import Cgroups
from pedrl_sandbox.jobs import JobLimits

START_S: Final = 60.0
DEATH_S: Final = 5.0
CHUNK: Final = 1 << 18
# Room for the fork server, its interpreter and the scratch folders beside the job.
SPARE_MB: Final = 128
SPARE_PROCESSES: Final = 9


class WorkerDiedError(Exception):
    """The sandbox ended, or broke the protocol; its text says what is known."""


@dataclass(slots=True)
class Frame:
    """One frame from the sandbox."""

    kind: int
    flags: int
    job: int
    body: bytes


class Channel:
    """Frames over two descriptors. Not for use by two threads at a time.

    Args:
        stdin: frames for the sandbox are written to it; set not to block.
        stdout: frames of the sandbox are read from it; set not to block.
        last_words: what the sandbox said when it ended, asked once it has.
        unwrap: takes what was read and returns what of it belongs to frames.
    """

    def __init__(
        self,
        stdin: int,
        stdout: int,
        last_words: Callable[[], str],
        unwrap: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.stdout = stdout
        self._stdin = stdin
        self._last_words = last_words
        self._unwrap = unwrap
        self._outbox = bytearray()
        self._inbox = bytearray()
        for fd in (stdin, stdout):
            os.set_blocking(fd, False)

    def await_ready(self) -> None:
        """Wait for the first frame of a sandbox that starts.

        Raises:
            WorkerDiedError: it ended, broke the protocol or takes too long.
        """
        end = time.monotonic() + START_S
        while True:
            for frame in self.exchange(end - time.monotonic()):
                if frame.kind != wire.READY:
                    raise WorkerDiedError("the sandbox did not start with READY")
                return
            if time.monotonic() > end:
                raise WorkerDiedError(f"the sandbox did not start within {START_S:.0f} s")

    def send(self, frame: bytes) -> None:
        """Queue one frame; ``exchange`` moves it."""
        self._outbox += frame

    @property
    def stdin(self) -> int | None:
        """The descriptor to wait on for room, while there is something to send."""
        return self._stdin if self._outbox else None

    def exchange(self, timeout_s: float) -> list[Frame]:
        """Send and receive what is possible within ``timeout_s``; returns at the first frames.

        Raises:
            WorkerDiedError: the sandbox ended or broke the protocol.
        """
        waiter = poll()
        waiter.register(self.stdout, POLLIN)
        if self._outbox:
            waiter.register(self._stdin, POLLOUT)
        waiter.poll(max(0.0, timeout_s) * 1000)
        return self.receive()

    def _write(self) -> None:
        try:
            while self._outbox:
                del self._outbox[: os.write(self._stdin, self._outbox)]
        except BlockingIOError:
            return
        except ConnectionError:
            return  # the read side tells how it ended

    def receive(self) -> list[Frame]:
        """Frames that are complete now.

        Raises:
            WorkerDiedError: the sandbox ended or broke the protocol.
        """
        self._write()
        ended = False
        try:
            chunk = os.read(self.stdout, CHUNK)
            ended = not chunk
            self._inbox += self._unwrap(chunk)
        except BlockingIOError:
            pass
        except ConnectionError:
            ended = True
        frames = self._parse()
        if ended and not frames:
            raise WorkerDiedError(self._last_words())
        return frames

    def _parse(self) -> list[Frame]:
        frames = []
        position, head = 0, wire.FRAME.size
        while len(self._inbox) - position >= head:
            magic, kind, flags, job, length = wire.FRAME.unpack_from(self._inbox, position)
            if magic != wire.MAGIC or length > wire.MAX_FRAME:
                raise WorkerDiedError("the sandbox broke the protocol")
            end = position + head + length
            if len(self._inbox) < end:
                break
            frames.append(Frame(kind, flags, job, bytes(self._inbox[position + head : end])))
            position = end
        del self._inbox[:position]
        return frames


class Worker(Protocol):
    """A fork server that is ready for jobs."""

    channel: Channel
    core: int | None  # where it runs; None for anywhere

    @property
    def pid(self) -> int:
        """The process of this machine from which those of the sandbox descend."""
        ...

    @property
    def missing(self) -> Mapping[str, str] | None:
        """Cgroup controller -> why it is not enforced; None where no cgroups are used at all."""
        ...

    def allow(self, limits: JobLimits) -> None:
        """Raise the limits of the whole sandbox to what a job with ``limits`` needs."""
        ...

    def ran_out(self) -> bool:
        """Whether the kernel killed a process of this sandbox for memory."""
        ...

    def kill(self) -> None:
        """Kill at once and clean up. A fork server has nothing to save."""
        ...


@dataclass(frozen=True, slots=True)
class Spawn:
    """How to start a fork server.

    Attributes:
        argv: the command; it must end up as ``supervisor.py`` on the two standard pipes.
        files: inheritable descriptor contents, for example a seccomp program; each ``{fd:i}`` in
            ``argv`` becomes the number of the i-th.
        scratch: a host folder to remove afterwards, if the solver has one there.
    """

    argv: Sequence[str]
    files: tuple[bytes, ...] = ()
    scratch: tempfile.TemporaryDirectory[str] | None = None
    cgroups: Cgroups | None = None


class ProcessWorker:
    """A fork server that is a process of this machine.

    Args:
        spawn: how to start it.
        core: where it was told to run; None for anywhere.

    Raises:
        WorkerDiedError: it does not start.
    """

    def __init__(self, spawn: Spawn, core: int | None = None) -> None:
        self.core = core
        self._scratch, self._cgroups = spawn.scratch, spawn.cgroups
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        fds = [_readable(data) for data in spawn.files]
        argv = list(spawn.argv)
        for index, fd in enumerate(fds):
            argv = [part.replace(f"{{fd:{index}}}", str(fd)) for part in argv]
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={},  # what is here shows in /proc of the sandbox, whatever --clearenv does
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C is for the caller to handle
                bufsize=0,
            )
        finally:
            for fd in fds:
                os.close(fd)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.channel = Channel(
            self.process.stdin.fileno(), self.process.stdout.fileno(), self._last_words
        )
        try:
            self.channel.await_ready()
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The launcher."""
        return self.process.pid

    @property
    def missing(self) -> Mapping[str, str] | None:
        """See ``Worker``."""
        return self._cgroups.missing if self._cgroups is not None else None

    def allow(self, limits: JobLimits) -> None:
        """See ``Worker``."""
        if self._cgroups is not None:
            self._cgroups.allow(limits.memory_mb + SPARE_MB, limits.processes + SPARE_PROCESSES)

    def ran_out(self) -> bool:
        """See ``Worker``."""
        return self._cgroups is not None and self._cgroups.ran_out()

    def _last_words(self) -> str:
        """The last line that the sandbox wrote to its own standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0)
        self._errors.seek(0)
        lines = self._errors.read(1 << 16).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the sandbox ended with status {self.process.poll()}"

    def kill(self) -> None:
        """Kill at once and clean up; the kernel takes the whole pid namespace along."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._await_silence()
        self.process.stdin.close()
        self.process.stdout.close()
        self._errors.close()
        if self._cgroups is not None:
            self._cgroups.remove()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _await_silence(self) -> None:
        """Wait until process 1 of the sandbox, the only writer of the pipe, is gone too."""
        assert self.process.stdout is not None
        if self.process.stdout.closed:
            return
        waiter = poll()
        waiter.register(self.channel.stdout, POLLIN)
        end = time.monotonic() + DEATH_S
        while waiter.poll(max(0.0, end - time.monotonic()) * 1000):
            if not os.read(self.channel.stdout, CHUNK):
                return


def _readable(data: bytes) -> int:
    """A descriptor from which a child process reads ``data``."""
    fd = os.memfd_create("pedrl")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
