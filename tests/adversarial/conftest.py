"""The arena of every backend; ``docker`` where a daemon can be had."""

from collections.abc import Iterator

import pytest

from pedrl_sandbox import make_sandbox
from tests.adversarial.arena import Arena


@pytest.fixture(scope="module", params=["zygote", "bwrap", "docker"])
def arena_session(request: pytest.FixtureRequest) -> Iterator[Arena]:
    if request.param == "docker":
        request.getfixturevalue("docker_daemon")
    with make_sandbox(request.param) as sandbox:
        yield Arena(sandbox)


@pytest.fixture
def arena(arena_session: Arena) -> Iterator[Arena]:
    yield arena_session
    assert arena_session.settled()
