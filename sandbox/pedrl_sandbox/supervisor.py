"""The supervisor of a sandbox: takes jobs from the host and watches over them.

Run as ``python -s -S supervisor.py SETTINGS``, a JSON object: ``mode`` is ``namespaces``, where
this process may make some for every job, ``user``, where it may become the user ``uid``, in a pid
namespace of its own and with ``root`` for its root folder, or ``shared``; ``workspaces``, of
``size`` bytes each, are folders, and jobs start in the first; no file is larger than ``size``, no
process has more than ``descriptors`` open; ``packages`` is a folder for ``sys.path``, ``preload``
names modules to import once; ``core`` is where to run, null for anywhere. Standard library only:
what ``encoding.py`` names is all of pedrl inside a sandbox.

It holds no tests, no expected values and no secrets. It forks once, the template
(``template.py``), which forks a child for each job. A job's bytes go to that child unread, and the
child's bytes come back unread: ending a message early, forging one or writing rubbish can only harm
the job's own answer. CPU, wall and output limits are enforced here.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from types import ModuleType
from typing import Any, Final, NoReturn

if __name__ == "__main__":  # the package itself is not in a sandbox, some of its files are
    _package = ModuleType("pedrl_sandbox")
    _package.__path__ = [os.path.dirname(__file__)]  # noqa: PTH120
    sys.modules["pedrl_sandbox"] = _package

from pedrl_sandbox import apart, confine, template, wire

CHUNK: Final = 1 << 16
QUICK_MS: Final = 20  # most jobs end within this: until then only the end is waited for


def read_exact(size: int) -> bytearray:
    """Exactly ``size`` bytes from the host, never one more: the next job stays in the pipe."""
    data = bytearray(size)
    done = os.readv(0, [data]) if size else 0
    while done < size:
        count = os.readv(0, [memoryview(data)[done:]])
        if count == 0:
            sys.exit(0)  # the host is gone
        done += count
    return data


def read_frame() -> tuple[int, int, int, bytearray]:
    """Kind, flags, job and body of the next frame from the host."""
    magic, kind, flags, job, length = wire.FRAME.unpack(read_exact(wire.FRAME.size))
    if magic != wire.MAGIC or length > wire.MAX_FRAME:
        sys.exit("broken frame from the host")
    return kind, flags, job, read_exact(length)


def write_all(data: bytes | bytearray) -> None:
    """Write to the host."""
    done = os.write(1, data)
    while done < len(data):
        done += os.write(1, memoryview(data)[done:])


class Job:
    """One job, from the moment that the child that waited for one gets it."""

    def __init__(
        self,
        control: socket.socket,
        child: template.Child,
        number: int,
        flags: int,
        body: bytearray,
    ) -> None:
        self.control = control
        self.root, self.main, (self.reply_r, self.out_r, self.request_w) = child
        self.number = number
        self.limits = wire.LIMITS.unpack_from(body)
        self.interactive = self.more = bool(flags & wire.INTERACTIVE)
        self.started = time.monotonic()
        self.cpu_before = time.process_time_ns()
        self.out = bytearray()
        self.outbox = bytearray()  # frames for the host
        self.relayed = -len(wire.BEGUN)
        length = len(body) - wire.LIMITS.size
        self.to_child = bytearray(template.ORDER.pack(flags, length, *self.limits))
        self.to_child += memoryview(body)[wire.LIMITS.size :]
        self.push()  # most jobs fit into the pipe
        try:
            control.send(template.STARTED.pack(flags))
        except BrokenPipeError:
            sys.exit("the template is gone")

    def run(self) -> tuple[bytes, template.Child | None]:
        """Wait for the end of the job; its last frames, and the child for the next, if any."""
        cause = self.watch()
        if cause != wire.EXITED:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.root, signal.SIGKILL)
        code, cpu_us, clean, following = hear_of_end(self.control)  # every process of it is dead,
        overflow = self.drain()  # so the rest of the pipes is finite; kept even after a timeout
        return self.report(cause or overflow, code, cpu_us, clean=clean), following

    def report(self, cause: int, code: int, cpu_us: int, *, clean: bool) -> bytes:
        """The frames that end the job."""
        os.close(self.reply_r)
        os.close(self.out_r)
        self.end_requests()
        wall_us = int((time.monotonic() - self.started) * 1e6)
        cpu_us += (time.process_time_ns() - self.cpu_before) // 1000
        body = wire.USAGE.pack(cause, code, cpu_us, wall_us) + self.out
        flags = 0 if clean else wire.RETIRE
        return bytes(self.outbox) + wire.frame(wire.DONE, self.number, body, flags)

    def watch(self) -> int:
        """Relay until the job ends or passes a limit; returns the cause."""
        cpu_s, wall_s = self.limits[0] / 1000, self.limits[1] / 1000
        clock = (~self.main << 3) | 2  # the CPU clock of another process, see clock_gettime(2)
        control = self.control.fileno()
        end = select.poll()
        end.register(control, select.POLLIN)
        quick = min(QUICK_MS, self.limits[1])
        if not self.to_child and not self.interactive and end.poll(quick):
            return wire.EXITED
        everything = select.poll()
        for fd in (control, self.reply_r, self.out_r, *([0] if self.interactive else [])):
            everything.register(fd, select.POLLIN)
        while True:
            wall_left = wall_s - (time.monotonic() - self.started)
            try:
                cpu_left = cpu_s - time.clock_gettime(clock)
            except OSError:  # already dead
                cpu_left = cpu_s
            if wall_left <= 0:
                return wire.WALL
            if cpu_left <= 0:
                return wire.CPU
            waiting = self.request_w if self.to_child else -1
            if waiting >= 0:
                everything.register(waiting, select.POLLOUT)
            events = dict(everything.poll(max(1.0, min(wall_left, cpu_left) * 1000)))
            if waiting >= 0:
                everything.unregister(waiting)
            if cause := self.drain():
                return cause
            for fd in (self.reply_r, self.out_r):
                if events.get(fd, 0) & (select.POLLHUP | select.POLLERR):
                    everything.unregister(fd)  # closed by the job; it would spin otherwise
            if control in events:
                return wire.EXITED
            if 0 in events and not self.hear():
                return wire.ENDED
            self.push()
            if self.interactive:
                write_all(self.outbox)
                self.outbox.clear()

    def drain(self) -> int:
        """Take what the pipes hold; returns a cause when a bound is passed, else 0."""
        bound = self.limits[4]
        while chunk := read_some(self.reply_r):
            left = max(0, bound - self.relayed)
            self.relayed += len(chunk)
            self.outbox += wire.frame(wire.DATA, self.number, chunk[:left])
            if self.relayed > bound:
                return wire.REPLY
        while chunk := read_some(self.out_r):
            self.out += chunk[: bound - len(self.out)]
            if len(self.out) >= bound:
                return wire.OUTPUT
        return wire.EXITED

    def hear(self) -> bool:
        """Take one frame from the host; False when it ends the job."""
        kind, flags, number, body = read_frame()
        if number == self.number and kind == wire.SAY:
            self.to_child += body
            self.more = not flags & wire.LAST
        return not (number == self.number and kind == wire.END)

    def push(self) -> None:
        """Give the job what it will take, without ever waiting for it."""
        try:
            while self.to_child:
                del self.to_child[: os.write(self.request_w, self.to_child)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.to_child.clear()
        if not self.more:
            self.end_requests()

    def end_requests(self) -> None:
        """Close the request pipe."""
        if self.request_w >= 0:
            os.close(self.request_w)
            self.request_w = -1


def read_some(fd: int) -> bytes:
    """What a pipe holds now, or nothing."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return b""


def hear_of_end(control: socket.socket) -> tuple[int, int, bool, template.Child | None]:
    """How a job ended, by the template: exit code, CPU µs, clean; and the child for the next."""
    data, pipes, _, _ = socket.recv_fds(control, template.ENDED.size, 3)
    if not data:
        sys.exit("the template is gone")
    code, cpu_us, clean, root, main = template.ENDED.unpack(data)
    if not pipes:
        return code, cpu_us, clean, None
    for fd in pipes:
        os.set_blocking(fd, False)
    reply_r, out_r, request_w = pipes
    return code, cpu_us, clean, template.Child(root, main, (reply_r, out_r, request_w))


def serve(control: socket.socket) -> NoReturn:
    """Answer jobs until the host closes the pipe."""
    *_, child = hear_of_end(control)
    write_all(wire.frame(wire.READY, 0))
    while True:
        kind, flags, number, body = read_frame()
        if kind == wire.JOB:
            if child is None:  # the host has been told to replace this sandbox
                sys.exit("no process could be forked for another job")
            answer, child = Job(control, child, number, flags, body).run()
            write_all(answer)
        # SAY and END of a job that has just ended arrive here, and mean nothing any more


def start_template(settings: dict[str, Any]) -> socket.socket:
    """Fork the template; returns the socket to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        return ours
    try:
        ours.close()
        null = os.open(os.devnull, os.O_RDWR)
        control = theirs.dup()  # above REPLY_FD, whatever was open before
        for fd in (0, 1, template.REPLY_FD):  # the host's pipes are not for jobs
            os.dup2(null, fd)
        size, workspaces = settings["size"], settings["workspaces"]
        template.warm(template.REPLY_FD, settings["packages"], settings["preload"], size)
        jobs: apart.Jobs
        if settings["mode"] == "namespaces":
            ahead = settings["core"] is None
            jobs = apart.Namespaces(workspaces, size, ahead=ahead)
        elif settings["mode"] == "user":
            jobs = apart.OtherUser(workspaces, settings["uid"])
        else:
            jobs = apart.Subreaper(workspaces)
        descriptors, pipe_bytes = settings["descriptors"], confine.new_pipe_bytes()
        place = template.Place(workspaces[0], descriptors, pipe_bytes)
        template.main(control, jobs, place)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def main() -> NoReturn:
    """See the module."""
    settings = json.loads(sys.argv[1])
    if settings["core"] in os.sched_getaffinity(0):
        os.sched_setaffinity(0, [settings["core"]])
    if settings["mode"] != "shared" and os.getpid() != 1:
        sys.exit("not process 1 of a pid namespace")
    if settings["mode"] == "user":
        os.chroot(settings["root"])
        os.chdir("/")
        confine.keep_capabilities(confine.CAP_KILL | confine.CAP_SETGID | confine.CAP_SETUID)
    # Process 1 is deaf to signals from within, unless a handler is installed, as Python does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    control = start_template(settings)
    # Same-uid processes may read the memory and descriptors of a dumpable process through /proc.
    # The template stays dumpable: what it starts would for a moment refuse to share a namespace.
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
    serve(control)


if __name__ == "__main__":
    main()
