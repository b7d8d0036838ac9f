"""The ``docker`` backend: what the daemon is told, what is left behind, and what dies when."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound
from hypothesis import given
from hypothesis import strategies as st

from pedrl_sandbox import (
    CheckJob,
    IsolationUnavailableError,
    Job,
    JobLimits,
    Packages,
    PedrlError,
    checker_packages,
    image,
    make_sandbox,
)
from pedrl_sandbox.container import LABEL, ContainerWorker, DockerSandbox, _Streams, connect
from tests.docker_daemon import DaemonUnavailableError, daemon_of_our_own
from tests.running import jobs_of

ADD = Job("def f(x):\n    return x + 1\n", "f", ((1,),))
LIMITS = JobLimits(cpu_s=5.0, wall_s=20.0, memory_mb=256)
SMALL = JobLimits(cpu_s=5.0, wall_s=20.0, memory_mb=128)
SLEEP = Job("import time\ndef f():\n    time.sleep(1.5)\n    return 1", "f", ((),), LIMITS)
MEMORY_OF_CHILDREN = """
import os, time
def f():
    for _ in range(6):
        if os.fork() == 0:
            kept = []
            try:
                while True: kept.append(bytearray(1 << 20))
            except MemoryError:
                time.sleep(100)
    time.sleep({seconds})
"""
OWNER = (
    "import os, signal; from pedrl_sandbox import Job, make_sandbox\n"
    "sandbox = make_sandbox('docker')\n"
    "assert sandbox.run_batch([Job('f = int', 'f', ((),))])[0].status == 'ok'\n"
    "print(sandbox._idle[0].pid, flush=True)\n"
)


@pytest.fixture
def sandbox(docker_daemon: None) -> Iterator[DockerSandbox]:
    with DockerSandbox() as sandbox:
        yield sandbox


@pytest.fixture
def api(docker_daemon: None) -> Iterator[Any]:
    with contextlib.closing(connect()) as api:
        yield api


def worker_of(sandbox: DockerSandbox) -> ContainerWorker:
    """The idle one, alone."""
    (worker,) = sandbox._idle
    assert isinstance(worker, ContainerWorker)
    return worker


def ours(api: Any) -> list[str]:
    """The containers of this process, dead ones too."""
    found = api.containers(all=True, filters={"label": f"{LABEL}={os.getpid()}"})
    return [item["Id"] for item in found]


def jobs_in(api: Any, container: str) -> list[int]:
    """The job that runs in a container."""
    return jobs_of(api.inspect_container(container)["State"]["Pid"])


def running(api: Any, known: set[str]) -> str:
    """Wait for a container of this process in which a job runs for a while."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for container in set(ours(api)) - known:
            with contextlib.suppress(NotFound, FileNotFoundError):  # it has just ended
                before = jobs_in(api, container)
                time.sleep(0.2)
                if before and before == jobs_in(api, container):
                    return container
        time.sleep(0.02)
    raise AssertionError("no job was started")


def kill_containers(times: int) -> threading.Thread:
    """Kill the container under a running job, ``times`` times."""

    def work() -> None:
        known: set[str] = set()
        with contextlib.closing(connect()) as api:
            for _ in range(times):
                container = running(api, known)
                known.add(container)
                api.kill(container)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def gone(pid: str) -> bool:
    """Whether a process ends soon."""
    proc = Path("/proc", pid)
    end = time.monotonic() + 30
    while proc.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return not proc.exists()


def test_everything_is_enforced_but_namespaces_per_job(sandbox: DockerSandbox) -> None:
    found = {item.name: item for item in sandbox.capabilities()}
    missing = {name: item.how for name, item in found.items() if not item.enforced}
    assert missing == {"namespaces per job": "jobs share the namespaces of their fork server"}


def test_the_server_holds_what_it_needs_and_nothing_else(sandbox: DockerSandbox, api: Any) -> None:
    sandbox.run_batch([ADD])
    pid = worker_of(sandbox).pid
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    kill, setgid, setuid = 1 << 5, 1 << 6, 1 << 7
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == kill | setgid | setuid
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert os.readlink(f"/proc/{pid}/root").endswith("/jobs")  # noqa: PTH115
    for kind in ("net", "pid", "ipc", "mnt", "uts"):
        inside, outside = (Path(f"/proc/{p}/ns/{kind}").readlink() for p in (pid, "self"))
        assert inside != outside
    told = api.inspect_container(ours(api)[0])
    assert told["HostConfig"]["LogConfig"]["Type"] == "none"
    assert told["HostConfig"]["Binds"] is None
    assert not [item for item in told["Mounts"] if item["Type"] != "tmpfs"]


def test_users_differ_from_container_to_container(docker_daemon: None) -> None:
    """RLIMIT_NPROC counts per user: a shared one would make jobs fail for their neighbours."""
    who = Job("import os\ndef f():\n    return os.getuid()", "f", ((),))
    with DockerSandbox() as one, DockerSandbox() as other:
        first, second = (box.run_batch([who])[0].outcomes[0].value for box in (one, other))
    assert first != second
    assert min(first, second) >= 1 << 30


def test_the_frames_fit(sandbox: DockerSandbox) -> None:
    texts = ["x" * 300_000, "y" * 10, "z" * 50_000] * 7
    jobs = [Job("def f(x):\n    return x", "f", ((text,),), LIMITS) for text in texts]
    results = sandbox.run_batch(jobs)
    assert [result.outcomes[0].value for result in results] == texts


def test_two_workers_keep_the_order(docker_daemon: None, api: Any) -> None:
    with make_sandbox("docker", workers=2) as sandbox:
        jobs = [Job("def f(x):\n    return x", "f", ((number,),)) for number in range(60)]
        assert [result.outcomes[0].value for result in sandbox.run_batch(jobs)] == list(range(60))
        assert len(ours(api)) == 2


def test_sessions(sandbox: DockerSandbox) -> None:
    program = "def check(candidate):\n    assert candidate(1) == 2"
    session = sandbox.session(CheckJob(program, "g", LIMITS))
    assert session.hear() == ["c", [[1], {}]]
    session.tell(["v", 2])
    assert session.hear() == ["v", None]
    assert session.close().status == "ok"


def test_packages_are_shown_when_asked_for(docker_daemon: None) -> None:
    program = "def f():\n    import pluggy\n    return pluggy.__file__"
    job = Job(program, "f", ((),), LIMITS)
    with DockerSandbox() as sandbox:
        assert sandbox.run_batch([job])[0].outcomes[0].note == "ModuleNotFoundError"
    with DockerSandbox(packages=Packages(checker_packages())) as sandbox:
        assert sandbox.run_batch([job])[0].outcomes[0].value == "/packages/pluggy/__init__.py"
    with pytest.raises(PedrlError, match=r"pytest and what it needs, but not 'numpy'"):
        DockerSandbox(packages=Packages({"numpy": Path("/numpy")}))


def test_limits_grow_with_the_jobs(sandbox: DockerSandbox) -> None:
    program = "def f():\n    return len(bytearray(700 << 20))"
    small, large = (JobLimits(20.0, 60.0, memory_mb=size) for size in (256, 1024))
    results = sandbox.run_batch([Job(program, "f", ((),), item) for item in (small, large)])
    assert [result.status for result in results] == ["oom", "ok"]


def test_memory_of_all_processes_together_is_limited(sandbox: DockerSandbox, api: Any) -> None:
    start = time.time()
    job = Job(MEMORY_OF_CHILDREN.format(seconds=4), "f", ((),), SMALL)
    sandbox.run_batch([job])
    times = {"since": f"{start:.9f}", "until": f"{time.time():.9f}"}
    which = {"container": worker_of(sandbox)._id, "event": "oom"}
    assert any(api.events(**times, filters=which))
    assert sandbox.run_batch([ADD])[0].status == "ok"


def test_a_container_lost_to_memory_is_oom_and_only_that(sandbox: DockerSandbox, api: Any) -> None:
    """A job that has its sandbox killed for memory must not look like bad luck, nor the reverse."""

    def kill_after_oom() -> None:
        until = int(time.time()) + 60
        for event in api.events(filters={"event": "oom"}, until=until, decode=True):
            if event["id"] in ours(api):
                api.kill(event["id"])
                return

    sandbox.run_batch([ADD])
    thread = threading.Thread(target=kill_after_oom, daemon=True)
    thread.start()
    flood = Job(MEMORY_OF_CHILDREN.format(seconds=10), "f", ((),), SMALL)
    assert sandbox.run_batch([flood])[0].status == "oom"
    thread.join()
    # Where the kernel's kill was another job's, the death of the container is bad luck.
    wait = Job(MEMORY_OF_CHILDREN.format(seconds=4), "f", ((),), SMALL)
    sandbox.run_batch([wait])
    worker = worker_of(sandbox)
    api.kill(worker._id)
    assert worker._ended()["OOMKilled"]
    assert not worker.ran_out()
    assert sandbox.run_batch([ADD])[0].status == "ok"


def test_a_job_survives_the_death_of_its_container(sandbox: DockerSandbox) -> None:
    thread = kill_containers(1)
    results = sandbox.run_batch([ADD, SLEEP, ADD])
    thread.join()
    assert [result.outcomes[0].value for result in results] == [2, 1, 2]


def test_retries_are_bounded_and_neighbours_lose_nothing(sandbox: DockerSandbox) -> None:
    thread = kill_containers(3)
    results = sandbox.run_batch([ADD, SLEEP, ADD])
    thread.join()
    assert [result.status for result in results] == ["ok", "infra_error", "ok"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:container .* is left")
def test_a_daemon_that_dies_and_comes_back_costs_no_result() -> None:
    try:
        with daemon_of_our_own() as daemon, DockerSandbox(workers=2) as sandbox:

            def die_and_return() -> None:
                with contextlib.closing(connect()) as api:
                    running(api, set())
                daemon.kill()
                time.sleep(1.0)
                daemon.start()

            thread = threading.Thread(target=die_and_return, daemon=True)
            thread.start()
            results = sandbox.run_batch([ADD, SLEEP, SLEEP, ADD])
            thread.join()
            assert [result.outcomes[0].value for result in results] == [2, 1, 1, 2]
            daemon.kill()
            sandbox._patience_s = 0.5
            with pytest.raises(IsolationUnavailableError, match="no docker daemon answers"):
                sandbox.run_batch([ADD])
    except DaemonUnavailableError as error:
        pytest.skip(f"no docker daemon of our own: {error}")


def test_closing_leaves_nothing(api: Any) -> None:
    assert ours(api) == []
    gc.collect()  # the connections of other tests
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    sandbox = make_sandbox("docker", workers=2)
    sandbox.run_batch([ADD] * 4)
    assert len(ours(api)) == 2
    sandbox.close()
    assert ours(api) == []
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_forgotten_sandbox_ends_with_its_process(api: Any) -> None:
    answer = subprocess.run([sys.executable, "-c", OWNER], capture_output=True, check=True)
    assert gone(answer.stdout.decode().strip())
    assert api.containers(all=True, filters={"label": LABEL}) == []


def test_a_container_ends_when_its_owner_is_killed(api: Any) -> None:
    program = OWNER + "os.kill(os.getpid(), signal.SIGKILL)\n"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = owner.stdout.read().decode().strip()
    assert owner.returncode == -signal.SIGKILL
    assert gone(pid)
    of_owner = {"label": f"{LABEL}={owner.pid}"}
    assert len(api.containers(all=True, filters=of_owner)) == 1
    with make_sandbox("docker") as sandbox:
        sandbox.run_batch([ADD])  # whoever starts a container sweeps
    assert api.containers(all=True, filters=of_owner) == []


def test_a_fork_of_the_owner_starts_containers_of_its_own(sandbox: DockerSandbox, api: Any) -> None:
    sandbox.run_batch([ADD])
    before = ours(api)
    pid = os.fork()
    if pid == 0:
        fine = sandbox.run_batch([ADD])[0].status == "ok"
        sandbox.close()
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sandbox.run_batch([ADD])[0].status == "ok"
    assert ours(api) == before


def test_a_missing_image_names_the_command(
    docker_daemon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "name", lambda: "pedrl-sandbox:0123456789abcdef")
    with pytest.raises(IsolationUnavailableError, match="run `pedrl sandbox build-image`"):
        make_sandbox("docker")


def test_an_edited_solver_is_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.name()
    edited = image.contents() | {"/pedrl/wire.py": b"other"}
    monkeypatch.setattr(image, "contents", lambda: edited)
    image.name.cache_clear()
    try:
        assert image.name() != before
    finally:
        monkeypatch.undo()
        image.name.cache_clear()
    assert image.name() == before


def test_a_missing_daemon_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/socket")
    with pytest.raises(
        IsolationUnavailableError,
        match=r"no docker daemon answers at unix:.*/socket \(No such file or directory\); start it",
    ):
        make_sandbox("docker")


def test_a_missing_sdk_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(IsolationUnavailableError, match=r"pip install 'pedrl\[docker\]'"):
        make_sandbox("docker")


@given(
    st.lists(st.tuples(st.sampled_from((1, 2)), st.binary(max_size=300)), max_size=20),
    st.lists(st.integers(1, 400), max_size=40),
)
def test_streams_are_told_apart_however_they_arrive(
    parts: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(bytes((s, 0, 0, 0)) + len(text).to_bytes(4, "big") + text for s, text in parts)
    streams, out = _Streams(), b""
    for cut in [*cuts, len(data)]:
        out += streams.stdout_of(data[:cut])
        data = data[cut:]
    assert out == b"".join(text for stream, text in parts if stream == 1)
    errors = b"".join(text for stream, text in parts if stream == 2)
    assert bytes(streams.stderr) == errors[-(1 << 12) :]
