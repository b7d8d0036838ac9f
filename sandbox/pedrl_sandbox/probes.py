"""Find out what a sandbox enforces by trying to break it, with one program per property."""

import os
import socket
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pedrl_sandbox import seccomp
from pedrl_sandbox.jobs import Capability, Job, JobLimits, JobResult

if TYPE_CHECKING:
    from pedrl_sandbox.jobs import JobRunner

_LIMITS: Final = JobLimits(cpu_s=0.5, wall_s=3.0, memory_mb=256, processes=4, output_bytes=1 << 16)

_NETWORK: Final = """
import socket
def f(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError as error:
        return ""
    return "a connection to the host was made"
"""
_FILES: Final = """
import os
def f():
    names = ["/etc/passwd", "/etc/shadow", "/etc/hostname", "/proc/1/environ", "/proc/self/maps"]
    for name in names:
        try:
            open(name, "rb").read(1)
        except OSError:
            continue
        return name + " is readable"
    for name in ("/home", "/root", "/var", "/sys"):
        if os.path.exists(name):
            return name + " is visible"
    for name in ("/x", "/usr/x", "/usr/lib/x", "/dev/x", "/etc/x"):
        try:
            open(name, "w").close()
        except OSError:
            continue
        os.unlink(name)
        return name + " is writable"
    return ""
"""
_ENVIRONMENT: Final = """
import os
def f():
    allowed = {"LD_LIBRARY_PATH", "PYTHONHASHSEED", "PWD", "LC_CTYPE"}
    more = sorted(set(os.environ) - allowed)
    return f"variables reach the job: {more[:3]}" if more else ""
"""
_FORKS: Final = """
import os, time
def f(limit):
    for count in range(limit + 4):
        try:
            if os.fork() == 0:
                time.sleep(2)
                os._exit(0)
        except OSError:
            return ""
    return f"{count + 1} processes were started"
"""
_LEFT_BEHIND: Final = """
import os, time
def f():
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    for folder in (".", "/tmp"):
        with open(folder + "/pedrl-probe", "w") as file:
            file.write("x")
    return pid
"""
_FIND: Final = """
import os
def f(pid):
    try:
        os.kill(pid, 0)
        return "a process survives its job"
    except OSError:
        pass
    for folder in (".", "/tmp"):
        if os.path.exists(folder + "/pedrl-probe"):
            os.unlink(folder + "/pedrl-probe")
            return folder + " keeps files between jobs"
    return ""
"""
_MEMORY: Final = "def f():\n    return len(bytearray(1 << 29))\n"
_CPU: Final = "def f():\n    while True: pass\n"
_WALL: Final = "import time\ndef f():\n    time.sleep(60)\n"
_OUTPUT: Final = "def f():\n    for _ in range(100): print('x' * 10000)\n"
_DISK: Final = """
import os
def f():
    try:
        for number in range(8):
            with open(f"probe-{number}", "wb") as file:
                file.write(bytes(8 << 20))
    except OSError:
        return ""
    finally:
        for number in range(8):
            if os.path.exists(f"probe-{number}"):
                os.unlink(f"probe-{number}")
    return "64 MiB were written"
"""
_SYSCALLS: Final = """
import ctypes
def f(numbers):
    libc = ctypes.CDLL(None, use_errno=True)
    for name, number in numbers:
        # All-ones arguments: what is not denied fails with another error than EPERM or ENOSYS.
        ctypes.set_errno(0)
        if libc.syscall(number, -1, -1, -1, -1, -1) >= 0 or ctypes.get_errno() not in (1, 38):
            return name + " reaches the kernel"
    return ""
"""
_NAMESPACES: Final = """
import os
def f():
    if os.getppid() != 0:
        return "jobs share the namespaces of their fork server"
    return "the job is process 1, deaf to its own signals" if os.getpid() == 1 else ""
"""
_UID: Final = """
import os
def f(host):
    if os.getuid() == 0:
        return "jobs run as root"
    return "jobs run as the user who started pedrl" if os.getuid() == host else ""
"""
_PRIVILEGES: Final = """
import ctypes
def f():
    libc = ctypes.CDLL(None)
    data = (ctypes.c_uint * 6)()
    libc.capget((ctypes.c_uint * 2)(0x20080522, 0), data)
    if any(data):
        return "jobs hold capabilities"
    return "" if libc.prctl(39, 0, 0, 0, 0) == 1 else "programs with more privileges can be run"
"""


@dataclass(frozen=True, slots=True)
class _Probe:
    """``how`` describes the mechanism; the program returns "" when it was stopped."""

    name: str
    how: str
    program: str
    args: tuple[Any, ...] = ()
    status: str = "ok"  # with which the job must end, for programs that cannot report


Steps = Generator[list[Job], list[JobResult], tuple[Capability, ...]]


def probe(
    sandbox: "JobRunner", missing_cgroups: Mapping[str, str] | None
) -> tuple[Capability, ...]:
    """Run every probe in ``sandbox``; see ``probing``."""
    steps = probing(missing_cgroups)
    jobs = next(steps)
    while True:
        try:
            jobs = steps.send(sandbox.run_batch(jobs))
        except StopIteration as end:
            found: tuple[Capability, ...] = end.value
            return found


def probing(missing_cgroups: Mapping[str, str] | None) -> Steps:
    """Every probe, for whoever runs jobs: yields some, one after another, and is sent the results.

    Args:
        missing_cgroups: controller -> why it is missing; None where no cgroups are used at all.

    Returns:
        One record per property, in a fixed order.
    """
    found: list[Capability] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        names = ("unshare", "bpf", "keyctl", "io_uring_setup", "ptrace", "mount")
        numbers = [[name, seccomp.number(name)] for name in names] if seccomp.supported() else []
        probes = [
            _Probe(
                "network", "own namespace; only unix sockets", _NETWORK, listener.getsockname()[1:]
            ),
            _Probe("host files", "own root, read-only libraries, no /proc", _FILES),
            _Probe("environment", "cleared", _ENVIRONMENT),
            _Probe("processes", "RLIMIT_NPROC", _FORKS, (_LIMITS.processes,)),
            _Probe("memory", "RLIMIT_AS", _MEMORY, status="oom"),
            _Probe("cpu time", "CPU clock watched, RLIMIT_CPU", _CPU, status="timeout"),
            _Probe("wall time", "watched by process 1", _WALL, status="timeout"),
            _Probe("output", "bounded pipes", _OUTPUT, status="failed"),
            _Probe("disk", "RLIMIT_FSIZE, small tmpfs", _DISK),
            _Probe("uid", "unprivileged", _UID, (os.getuid(),)),
            _Probe("privileges", "no capabilities, no_new_privs", _PRIVILEGES),
            _Probe("namespaces per job", "pid, IPC, UTS, cgroup; an init", _NAMESPACES),
        ]
        if numbers:
            probes.append(_Probe("seccomp", "deny list", _SYSCALLS, (numbers,)))
        jobs = [Job(item.program, "f", (item.args,), _LIMITS) for item in probes]
        for item, result in zip(probes, (yield jobs), strict=True):
            found.append(_judge(item, result))
    if not numbers:
        found.append(Capability("seccomp", False, "no call numbers for this architecture"))
    found.append((yield from _between_jobs()))
    found.extend(_cgroups(missing_cgroups))
    return tuple(found)


def _judge(item: _Probe, result: JobResult) -> Capability:
    if item.status != "ok":
        held = result.status == item.status
        return Capability(item.name, held, item.how if held else "the limit was passed")
    answer = result.outcomes[0].value if result.outcomes else None
    if result.status == "ok" and answer == "":
        return Capability(item.name, True, item.how)
    if result.status == "ok" and isinstance(answer, str):
        return Capability(item.name, False, answer)
    return Capability(item.name, False, f"the probe ended as {result.status} {result.detail}")


def _between_jobs() -> Generator[list[Job], list[JobResult], Capability]:
    (first,) = yield [Job(_LEFT_BEHIND, "f", ((),), _LIMITS)]
    if first.status != "ok":
        return Capability("between jobs", False, f"the probe ended as {first.status}")
    pid = first.outcomes[0].value
    item = _Probe("between jobs", "all processes killed, folders emptied", _FIND, (pid,))
    (second,) = yield [Job(item.program, "f", (item.args,), _LIMITS)]
    return _judge(item, second)


def _cgroups(missing: Mapping[str, str] | None) -> list[Capability]:
    found = []
    for controller in ("memory", "pids"):
        reason = "not used by this sandbox" if missing is None else missing.get(controller, "")
        how = reason or f"one {controller} cgroup per worker"
        found.append(Capability(f"cgroup {controller}", not reason, how))
    return found
