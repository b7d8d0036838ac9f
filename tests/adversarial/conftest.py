"""The arena of every backend; ``docker`` where a daemon can be had."""

import os
from collections.abc import Iterator

import pytest

from pedrl_sandbox import make_sandbox
from tests.adversarial.arena import Arena


@pytest.fixture(scope="module", params=["zygote", "one core", "bwrap", "docker"])
def arena_session(request: pytest.FixtureRequest) -> Iterator[Arena]:
    if request.param == "docker":
        request.getfixturevalue("docker_daemon")
    name = "zygote" if request.param == "one core" else request.param
    with make_sandbox(name) as sandbox:
        if name != request.param:  # then a worker makes the next job's child after a job
            sandbox._cores = [min(os.sched_getaffinity(0))]  # type: ignore[attr-defined]
        yield Arena(sandbox)


@pytest.fixture
def arena(arena_session: Arena) -> Iterator[Arena]:
    yield arena_session
    assert arena_session.settled()
