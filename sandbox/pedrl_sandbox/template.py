"""The template inside a sandbox: a warm interpreter whose only work is to be forked.

It forks a child for a job that is still to come: the child confines itself and waits for the job on
a pipe whose other end the supervisor (``supervisor.py``) holds. Once the supervisor says that it
has got one, the template waits for the end, kills and reaps whatever the job left, forks the next
child, meanwhile or now, and says how the job ended. It never reads a byte of one: its children do.

It does little on purpose. Each page that it writes between two forks is copied once more.
"""

import gc
import importlib
import io
import os
import socket
import struct
import sys
import time
from typing import Final, NamedTuple, NoReturn, TextIO

from pedrl_sandbox import commands, confine, wire
from pedrl_sandbox.apart import Jobs
from pedrl_sandbox.replies import REPLY_FD as REPLY_FD
from pedrl_sandbox.replies import REQUEST_FD
from pedrl_sandbox.submission import child_main, place_pipes, set_common_limits, warm_up

# To a child: flags as in wire, length of the body, wire.LIMITS.
ORDER: Final = struct.Struct("<BI5I")
# To the template: flags of the job that its child has got.
STARTED: Final = struct.Struct("<B")
# Of the job that ended: exit code or minus signal, CPU µs, whether the workspace is clean; of the
# child for the next: ids to kill for an early end, and of the main process, 0 for none.
ENDED: Final = struct.Struct("<iQ?ii")
# Imported before the first fork, since submissions often do: then it costs them nothing.
PRELOADED: Final = (
    *("bisect", "collections", "copy", "functools", "heapq", "itertools", "json", "math"),
    *("operator", "re", "string", "typing"),
)
ENVIRONMENT: Final = {"LD_LIBRARY_PATH", "PYTHONHASHSEED", "PWD", "LC_CTYPE"}
GC_THRESHOLD: Final = 10_000  # a job of ours never comes to a collection, nor does a small program
_FDS: Final = struct.Struct("3i")
_SOCKET: Final = int(socket.SOL_SOCKET)
_RIGHTS: Final = int(socket.SCM_RIGHTS)
_HAS_DIED: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT


class Place(NamedTuple):
    """What is the same for all jobs of a template.

    Attributes:
        workspace: the folder in which they start.
        descriptors: how many files a process may have open.
        pipe_bytes: of each pipe, as long as no job has taken too much of the user's share.
    """

    workspace: str
    descriptors: int
    pipe_bytes: int


class Child(NamedTuple):
    """A process that waits for a job.

    Attributes:
        root: whose death ends the job.
        main: the process itself.
        pipes: the supervisor's ends: replies, output, request.
    """

    root: int
    main: int
    pipes: tuple[int, int, int]


def main(control: socket.socket, jobs: Jobs, place: Place) -> NoReturn:
    """Have a child ready for each job, until the supervisor is gone.

    Raises:
        OSError: no process can be forked for the first.
    """
    cpu_us = _process_cpu_us()
    child = announce(control, fork_child(jobs, place), 0, 0, clean=True)
    while child is not None:
        if jobs.ahead:
            flags = _started(control)
            following = _try_to_fork(jobs, place)
        code, used_us = jobs.end(child.main, child.root)
        if not jobs.ahead:  # only now, since to be woken twice takes a job's time
            flags = _started(control)
        clean = bool(flags & wire.KEEP) or jobs.clean()
        if not jobs.ahead:
            following = _try_to_fork(jobs, place)
        elif following is not None and os.waitid(os.P_PID, following.main, _HAS_DIED) is not None:
            following = None  # killed while the job ran: it is not given out
        before, cpu_us = cpu_us, _process_cpu_us()
        child = announce(control, following, code, used_us + cpu_us - before, clean=clean)
    os._exit(1)


def _started(control: socket.socket) -> int:
    """Wait until the child has got a job; the flags of it."""
    data = control.recv(STARTED.size)
    if not data:
        os._exit(0)  # the supervisor is gone
    return int(STARTED.unpack(data)[0])


def announce(
    control: socket.socket, child: Child | None, code: int, cpu_us: int, *, clean: bool
) -> Child | None:
    """Tell the supervisor how a job ended, and give it the pipes of the next job's child.

    Returns:
        That child; None if there is none, or its pipes cannot be given: whatever a job did to have
        it so, its answer counts, and the sandbox is replaced.
    """
    if child is not None:
        root, main, pipes = child
        message = ENDED.pack(code, cpu_us, clean, root, main)
        try:
            control.sendmsg([message], [(_SOCKET, _RIGHTS, _FDS.pack(*pipes))])
        except OSError:
            pass
        else:
            for fd in pipes:
                os.close(fd)
            return child
    control.send(ENDED.pack(code, cpu_us, False, 0, 0))
    return None


def _try_to_fork(jobs: Jobs, place: Place) -> Child | None:
    try:
        return fork_child(jobs, place)
    except OSError:
        return None


def fork_child(jobs: Jobs, place: Place) -> Child:
    """Fork a process that waits for a job.

    Its pipes are made anew: a pipe's flags and size would carry messages to the next job.

    Raises:
        OSError: out of processes, descriptors or memory.
    """
    jobs.prepare()
    reply_r, reply_w = os.pipe()
    out_r, out_w = os.pipe()
    request_r, request_w = os.pipe()
    if jobs.ahead and any(
        confine.pipe_bytes(fd) != place.pipe_bytes for fd in (reply_r, out_r, request_r)
    ):
        raise OSError("the job that runs has made the next one's pipes smaller")
    main = os.fork()
    if main == 0:
        _run_job(jobs, place, (out_w, reply_w, request_r))
    os.close(reply_w)
    os.close(out_w)
    os.close(request_r)
    return Child(jobs.root_of(main), main, (reply_r, out_r, request_w))


def _run_job(jobs: Jobs, place: Place, pipes: tuple[int, int, int]) -> NoReturn:
    try:
        place_pipes(REPLY_FD, *pipes)
        os.setsid()  # a signal to a process group passes every namespace
        jobs.confine_child()
        flags, length, *limits = ORDER.unpack(_read(ORDER.size))
        body = _read(length)
        if not flags & wire.INTERACTIVE:
            os.close(REQUEST_FD)
        os.chdir(place.workspace)  # only now: it may have been replaced
        child_main(body, tuple(limits), jobs.nproc(limits[3]), place.descriptors)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def warm(null: int, packages: str, preload: list[str], file_bytes: int) -> None:
    """What the forked children inherit: modules, a quiet heap, bound symbols."""
    for name in set(os.environ) - ENVIRONMENT:  # set for this process, not for the jobs
        del os.environ[name]
    # Not buffered: what was printed survives a timeout, and nothing is left to flush.
    sys.stdout, sys.stderr = _unbuffered(1), _unbuffered(2)
    sys.argv[:] = [""]
    sys.path[:] = [entry for entry in sys.path if not entry.startswith("/pedrl")]
    sys.path.insert(0, "")
    if packages:
        sys.path.append(packages)
        commands.ENVIRONMENT["PYTHONPATH"] = packages
    for name in (*PRELOADED, *preload):
        importlib.import_module(name)
    set_common_limits(file_bytes)
    warm_up(null)
    gc.collect()
    gc.freeze()
    confine.release_free_memory()
    gc.set_threshold(GC_THRESHOLD)


def _unbuffered(fd: int) -> TextIO:
    raw = os.fdopen(fd, "wb", buffering=0, closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace", write_through=True)


def _process_cpu_us() -> int:
    return time.process_time_ns() // 1000


def _read(size: int) -> bytes:
    data = os.read(REQUEST_FD, size)
    while len(data) < size:
        more = os.read(REQUEST_FD, size - len(data))
        if not more:
            os._exit(1)  # the supervisor is gone
        data += more
    return data


assert REPLY_FD == 3, "the template keeps /dev/null there"
