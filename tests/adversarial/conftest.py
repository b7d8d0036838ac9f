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
    with make_sandbox("zygote" if request.param == "one core" else request.param) as sandbox:
        if request.param == "one core":
            sandbox._cores = [min(os.sched_getaffinity(0))]  # type: ignore[attr-defined]
        yield Arena(sandbox, ahead=request.param in ("zygote", "bwrap"))


@pytest.fixture
def arena(arena_session: Arena) -> Iterator[Arena]:
    yield arena_session
    assert arena_session.settled()
