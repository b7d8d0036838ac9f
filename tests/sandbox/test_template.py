"""A child waits for each job: what happens to it, and where it is made."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from pedrl_sandbox import Job, JobLimits, apart, make_sandbox, template
from pedrl_sandbox.bwrap import ZygoteSandbox
from tests.running import children, jobs_of, servers, started

LIMITS = JobLimits(cpu_s=5.0, wall_s=20.0, memory_mb=256)
ADD = Job("def f(x):\n    return x + 1\n", "f", ((1,),), LIMITS)
WHERE = Job("import os\ndef f():\n    return sorted(os.sched_getaffinity(0))", "f", ((),), LIMITS)
HOLD = """
import socket
kept = socket.socketpair()
def f():
    socket.send_fds(kept[0], [b"x"], [0] * 250)
    return "held"
"""


@pytest.fixture
def two_cores() -> Iterator[list[int]]:
    """As many cores as there are, at most two."""
    all_cores = os.sched_getaffinity(0)
    cores = sorted(all_cores)[:2]
    os.sched_setaffinity(0, cores)
    yield cores
    os.sched_setaffinity(0, all_cores)


def test_workers_that_fill_the_cores_stay_on_one_each(two_cores: list[int]) -> None:
    with make_sandbox("zygote", workers=len(two_cores)) as sandbox:
        # Few: were they all put in the line of the first worker, the second would have none.
        found = [result.outcomes[0].value for result in sandbox.run_batch([WHERE] * 8)]
        assert sorted({core for cores in found for core in cores}) == two_cores
        assert {len(cores) for cores in found} == {1}
        if len(two_cores) > 1:  # less work than workers: it goes where there is room
            assert sandbox.run_batch([WHERE])[0].outcomes[0].value == two_cores


def test_other_numbers_of_workers_run_anywhere(two_cores: list[int]) -> None:
    with make_sandbox("zygote", workers=len(two_cores) + 1) as sandbox:
        found = [result.outcomes[0].value for result in sandbox.run_batch([WHERE] * 40)]
    if len(two_cores) > 1:
        assert all(cores == two_cores for cores in found)


def test_a_job_loses_nothing_when_the_next_ones_child_dies() -> None:
    known = set(servers())
    sleeper = Job("import time\ndef f():\n    time.sleep(1)\n    return 1", "f", ((),), LIMITS)
    killed: list[int] = []

    def kill_who_waits() -> None:
        end = time.monotonic() + 20
        while not killed and time.monotonic() < end:
            for server in set(servers()) - known:
                template_pid = children(server)[-1:]
                waiting = set(started(server)[-1:]) - set(jobs_of(server))
                if template_pid and jobs_of(server) and waiting:
                    killed.extend(waiting)
                    os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.05)

    with ZygoteSandbox(retries=0) as sandbox:
        thread = threading.Thread(target=kill_who_waits)
        thread.start()
        results = sandbox.run_batch([sleeper, ADD])
        thread.join()
    assert killed
    assert [result.status for result in results] == ["ok", "ok"]


def test_descriptors_that_one_job_keeps_in_flight_cost_another_nothing() -> None:
    with ZygoteSandbox(retries=0) as one, ZygoteSandbox(retries=0) as other:
        assert other.run_batch([ADD])[0].status == "ok"
        session = one.session(Job(HOLD, "f", limits=LIMITS))
        session.tell([[], {}])
        assert session.hear() == ["v", "held"]
        assert [item.status for item in other.run_batch([ADD] * 3)] == ["ok"] * 3
        with ZygoteSandbox(retries=0) as third:
            assert third.run_batch([ADD])[0].status == "ok"
        assert session.close().status == "ok"


class Ahead(apart.Subreaper):
    """Makes nothing, beside a job."""

    ahead = True  # type: ignore[misc]

    def __init__(self) -> None:
        pass


def test_pipes_that_a_job_made_smaller_are_given_to_none() -> None:
    with pytest.raises(OSError, match="smaller"):
        template.fork_child(Ahead(), template.Place("/", descriptors=64, pipe_bytes=1))
