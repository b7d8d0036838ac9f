"""A sandbox made of warm fork servers: batches, sessions, bounded retries, healing."""

import itertools
import math
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from select import POLLIN, POLLOUT, poll
from types import TracebackType
from typing import Any, Final, Self

from pedrl_sandbox import wire
from pedrl_sandbox.answers import KILLED, batch_result, result
from pedrl_sandbox.encoding import encode_job
from pedrl_sandbox.errors import IsolationUnavailableError, PedrlError
from pedrl_sandbox.jobs import BatchJob, Capability, JobResult, SessionJob
from pedrl_sandbox.probes import probe
from pedrl_sandbox.selfcheck import WrongAnswerError, self_check
from pedrl_sandbox.worker import Worker, WorkerDiedError

PIPELINED: Final = 8  # at most so many jobs wait inside one worker's pipe
PIPELINED_BYTES: Final = 1 << 15  # half a pipe: writing them can never wait for the solver
GRACE_S: Final = 30.0  # beyond a job's own wall limit, which the solver enforces
PROGRAM_BYTES: Final = 1 << 20
STARTS: Final = 5  # of a worker that dies under the known job


@dataclass(slots=True)
class _Pending:
    index: int
    job: BatchJob
    body: bytes
    attempts: int = 0


@dataclass(slots=True)
class _Slot:
    """A worker and the jobs in its pipe; the first of them is the one that runs."""

    worker: Worker
    queue: deque[tuple[int, _Pending]] = field(default_factory=deque)
    data: bytearray = field(default_factory=bytearray)
    deadline: float = 0.0

    @property
    def bytes_waiting(self) -> int:
        return sum(len(pending.body) for _, pending in self.queue)


class WarmSandbox:
    """Implements ``JobRunner`` over workers that ``start`` starts.

    Not for use by two threads at a time. After a fork, the child starts workers of its own.

    Args:
        name: what it is called in the registry.
        start: starts one worker, on the core of this number, or anywhere.
        workers: how many run side by side. If they are as many as the cores, or a multiple, each
            stays on one in a batch with work for all: a job is spared the way between them.
        retries: how often a job is tried again after its sandbox died under it.
        one_job_each: whether a worker is replaced after every job.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[int | None], Worker],
        *,
        workers: int = 1,
        retries: int = 2,
        one_job_each: bool = False,
    ) -> None:
        if workers < 1:
            raise PedrlError(f"workers must be at least 1, not {workers}")
        self.name = name
        self._start = start
        cores = sorted(os.sched_getaffinity(0))
        fill = workers % len(cores) == 0
        self._cores = [cores[i % len(cores)] if fill else None for i in range(workers)]
        self._retries = retries
        self.one_job_each = one_job_each
        self._numbers = itertools.count(1)
        self._idle: list[Worker] = []
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(self, kill_all, self._idle, self._pid)

    def _take(self, core: int | None = None) -> Worker:
        if self._pid != os.getpid():  # the pipes belong to the parent
            self._idle, self._pid = [], os.getpid()
            self._finalizer = weakref.finalize(self, kill_all, self._idle, self._pid)
        for index, worker in enumerate(self._idle):
            if worker.core == core:
                return self._idle.pop(index)
        return self.start_worker(core)

    def start_worker(self, core: int | None = None) -> Worker:
        """A worker that has answered the known job; whoever asks for it must kill it.

        Args:
            core: where it is to run; None for anywhere.

        Raises:
            IsolationUnavailableError: no worker starts here.
        """
        try:
            return _start(lambda: self._start(core))
        except (WorkerDiedError, FileNotFoundError) as error:
            raise IsolationUnavailableError(
                f"sandbox {self.name!r} does not start on this machine ({error}); "
                "run `pedrl doctor`, or accept no isolation with `--sandbox unsafe-local`"
            ) from error
        except WrongAnswerError as error:
            raise IsolationUnavailableError(
                f"sandbox {self.name!r} does not work: a fresh one answered a known job wrongly "
                f"({error}); if pedrl was changed while it ran, start again, else reinstall it"
            ) from error

    def run_batch(self, jobs: Sequence[BatchJob]) -> list[JobResult]:
        """Run jobs, each in a process of its own; the results are in the order of the jobs.

        A job whose sandbox dies is tried again, alone in a fresh one, at most ``retries`` times;
        then its status is ``infra_error``. The jobs queued behind it lose nothing. One that is
        killed itself is tried again as often.

        Raises:
            IsolationUnavailableError: no worker starts here.
        """
        results: list[JobResult | None] = [None] * len(jobs)
        waiting: deque[_Pending] = deque()
        for index, job in enumerate(jobs):
            if len(job.program) > PROGRAM_BYTES:
                results[index] = JobResult("failed", detail="program longer than 1 MiB")
            else:
                waiting.append(_Pending(index, job, encode_job(job)))
        full = len(waiting) >= len(self._cores)
        cores = self._cores if full else [None] * len(waiting)
        slots = [_Slot(self._take(core)) for core in cores]
        try:
            while left := len(waiting) + sum(len(slot.queue) for slot in slots):
                line = self._line(left / len(slots))
                for slot in slots:
                    self._fill(slot, waiting, line)
                self._wait(slots)
                for slot in slots:
                    self._collect(slot, waiting, results)
        except BaseException:  # interrupted: what still runs must not outlive this call
            for slot in slots:
                slot.worker.kill()
            raise
        self._idle.extend(slot.worker for slot in slots)
        return [_present(item) for item in results]

    def _line(self, share: float) -> int:
        """How many jobs a worker gets at once, if so many are left for each.

        Ever fewer, so that none is done while another has a full pipe; but where there are two,
        it does not wait for the second.
        """
        return 1 if self.one_job_each else min(PIPELINED, math.ceil(max(share / 2, min(share, 2))))

    def _fill(self, slot: _Slot, waiting: deque[_Pending], line: int) -> None:
        while waiting and len(slot.queue) < line:
            following = waiting[0]
            alone = following.attempts > 0 or (slot.queue and slot.queue[0][1].attempts > 0)
            if slot.queue and (alone or slot.bytes_waiting + len(following.body) > PIPELINED_BYTES):
                return
            waiting.popleft()
            number = next(self._numbers)
            if not slot.queue:
                slot.deadline = time.monotonic() + following.job.limits.wall_s + GRACE_S
            slot.queue.append((number, following))
            slot.worker.allow(following.job.limits)
            slot.worker.channel.send(wire.frame(wire.JOB, number, following.body))

    def _wait(self, slots: Sequence[_Slot]) -> None:
        waiter = poll()
        busy = [slot for slot in slots if slot.queue]
        for slot in busy:
            channel = slot.worker.channel
            waiter.register(channel.stdout, POLLIN)
            if channel.stdin is not None:
                waiter.register(channel.stdin, POLLOUT)
        nearest = min(slot.deadline for slot in busy)
        waiter.poll(max(0.0, nearest - time.monotonic()) * 1000)

    def _collect(
        self, slot: _Slot, waiting: deque[_Pending], results: list[JobResult | None]
    ) -> None:
        if not slot.queue:
            return
        retire = False
        again: list[_Pending] = []
        try:
            for frame in slot.worker.channel.receive():
                number, pending = slot.queue[0]
                if frame.job != number:
                    raise WorkerDiedError("the sandbox answered out of turn")
                if frame.kind == wire.DATA:
                    slot.data += frame.body
                    continue
                answer = batch_result(pending.job, slot.data, frame)
                if answer.status == "infra_error":
                    raise WorkerDiedError(answer.detail)
                if answer.detail == KILLED and pending.attempts < self._retries:
                    pending.attempts += 1
                    again.append(pending)
                else:
                    results[pending.index] = answer
                slot.data.clear()
                slot.queue.popleft()
                if slot.queue:
                    limits = slot.queue[0][1].job.limits
                    slot.deadline = time.monotonic() + limits.wall_s + GRACE_S
                if frame.flags & wire.RETIRE or self.one_job_each:
                    retire = True
                    break
            if slot.queue and time.monotonic() > slot.deadline:
                raise WorkerDiedError("the sandbox did not answer")
        except WorkerDiedError as error:
            number, pending = slot.queue.popleft()
            pending.attempts += 1
            if slot.worker.ran_out():
                # A job that has its sandbox killed for memory must not look like bad luck.
                results[pending.index] = JobResult("oom", detail="memory limit of the sandbox")
            elif pending.attempts > self._retries:
                results[pending.index] = JobResult("infra_error", detail=str(error))
            else:
                waiting.appendleft(pending)
            retire = True
        if retire:
            self._replace(slot, waiting)
        waiting.extendleft(again)

    def _replace(self, slot: _Slot, waiting: deque[_Pending]) -> None:
        """Put a fresh worker into ``slot``; the jobs in its pipe go back to the line."""
        waiting.extendleft(pending for _, pending in reversed(slot.queue))
        slot.queue.clear()
        slot.data.clear()
        slot.worker.kill()
        slot.worker = self._take(slot.worker.core)

    def session(self, job: SessionJob) -> "WarmSession":
        """Start one interactive job, on a worker of its own until it is closed."""
        worker = self._take()
        worker.allow(job.limits)
        return WarmSession(worker, next(self._numbers), job, self._give_back)

    def _give_back(self, worker: Worker, *, broken: bool) -> None:
        if broken or self.one_job_each:
            worker.kill()
        else:
            self._idle.append(worker)

    def capabilities(self) -> tuple[Capability, ...]:
        """Try every property with a hostile program and report what held."""
        worker = self._take()
        self._idle.append(worker)
        return probe(self, worker.missing)

    def close(self) -> None:
        """End all workers. The sandbox may be used again; it then starts new ones."""
        kill_all(self._idle, self._pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class WarmSession:
    """Implements ``Session``: one interactive job on one worker."""

    def __init__(
        self,
        worker: Worker,
        number: int,
        job: SessionJob,
        give_back: Callable[..., None],
    ) -> None:
        self._worker = worker
        self._number = number
        self._job = job
        self._give_back = give_back
        self._lines: deque[bytes] = deque()
        self._partial = bytearray()
        self._begun = False
        self._result: JobResult | None = None
        self._deadline = time.monotonic() + job.limits.wall_s + GRACE_S
        worker.channel.send(
            wire.frame(wire.JOB, number, encode_job(job, serve=True), wire.INTERACTIVE)
        )

    def tell(self, message: Any) -> None:
        """Send one message to the job."""
        self._worker.channel.send(wire.frame(wire.SAY, self._number, wire.dumps(message) + b"\n"))

    def hear(self) -> Any | None:
        """The next message of the job, parsed but not unpacked; None when the job has ended.

        Raises:
            WireError: the job sent something that is no message.
        """
        while not self._lines and self._result is None:
            self._exchange()
        return wire.loads(self._lines.popleft()) if self._lines else None

    def _exchange(self) -> None:
        try:
            frames = self._worker.channel.exchange(self._deadline - time.monotonic())
            for frame in frames:
                if frame.job != self._number:
                    raise WorkerDiedError("the sandbox answered out of turn")
                if frame.kind == wire.DATA:
                    self._partial += frame.body
                    if not self._begun and self._partial.startswith(wire.BEGUN):
                        self._begun = True
                        del self._partial[: len(wire.BEGUN)]
                    if b"\n" in frame.body:  # a long line is looked through once
                        *lines, rest = self._partial.split(b"\n")
                        self._lines.extend(bytes(line) for line in lines)
                        self._partial = rest
                else:
                    answer = result(self._job, [], frame, begun=self._begun)
                    retire = bool(frame.flags & wire.RETIRE) or answer.status == "infra_error"
                    self._end(answer, retire=retire)
            if not frames and time.monotonic() > self._deadline:
                raise WorkerDiedError("the sandbox did not answer")
        except WorkerDiedError as error:
            # A job that has its sandbox killed for memory must not look like bad luck.
            lost = JobResult("infra_error", detail=str(error))
            if self._worker.ran_out():
                lost = JobResult("oom", detail="memory limit of the sandbox")
            self._end(lost, retire=True)

    def _end(self, answer: JobResult, *, retire: bool) -> None:
        self._result = answer
        self._give_back(self._worker, broken=retire)

    def close(self) -> JobResult:
        """End the job if it still runs, and say how it ended."""
        if self._result is None:
            self._worker.channel.send(wire.frame(wire.END, self._number))
        while self._result is None:
            self._exchange()
        return self._result


def _start(start: Callable[[], Worker]) -> Worker:
    """A worker that has answered a known job correctly."""
    attempt = 0
    while True:
        attempt += 1
        worker = start()
        try:
            self_check(worker)
        except BaseException as error:
            worker.kill()
            # One that starts and then dies was killed; a wrong answer is not bad luck.
            if not isinstance(error, WorkerDiedError) or attempt == STARTS:
                raise
        else:
            return worker


def kill_all(workers: list[Worker] | set[Worker], owner: int) -> None:
    """Also runs when a sandbox is forgotten, and at exit; in a forked child it does nothing."""
    while workers and os.getpid() == owner:
        workers.pop().kill()


def _present(item: JobResult | None) -> JobResult:
    assert item is not None, "every job has a result when the batch is over"
    return item
