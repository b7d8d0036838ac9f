"""A tiny suite of its own, so that these tests depend on no real one."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from pedrl_env import Case, CheckProgram, Limits, Privileged, Split, Task, Verifier
from pedrl_sandbox import PedrlError
from tests.running import jobs_of, servers

LIMITS = Limits(cpu_s=1.0, wall_s=30.0, memory_mb=256, processes=4, output_bytes=1 << 16)


def make_task(number: int, split: Split = "train") -> Task:
    return Task(
        id=f"tiny/add-{number}",
        prompt=f"# add {number}\ndef f(x):\n",
        entry_point="f",
        tests=tuple(Case((x,), x + number) for x in (0, 5, -3)),
        privileged=Privileged(solution=f"    return x + {number}\n", notes="CANARY-7261"),
        split=split,
        limits=LIMITS,
    )


class Tiny:
    """Adding numbers; ``offset`` is its only dial."""

    name = "tiny"

    def __init__(self, offset: int = 0, **more: object) -> None:
        if more:
            raise PedrlError(f"unknown dial {sorted(more)[0]!r} of suite 'tiny'")
        self.offset = int(offset)

    def tasks(self, split: Split) -> Sequence[Task]:
        numbers = {"train": range(8), "validation": range(8, 10), "test": range(0)}[split]
        return tuple(make_task(number + self.offset, split) for number in numbers)

    def style(self, text: str) -> str | None:
        return None


def check_task() -> Task:
    check = CheckProgram(
        "def check(candidate):\n"
        "    assert helper(candidate(2)) == 8\n"
        "    assert candidate(x=1) == 1\n",
        preamble="def helper(x):\n    return 2 * x\n",
    )
    return Task("tiny/check", "def f(x):\n", "f", check, Privileged(), "train", LIMITS)


@contextlib.contextmanager
def kill_busy_servers() -> Iterator[None]:
    """Kill every sandbox of this process under its job, again and again."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            for server in filter(jobs_of, servers()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server, signal.SIGKILL)
            time.sleep(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def busy_servers_die() -> Callable[[], contextlib.AbstractContextManager[None]]:
    return kill_busy_servers


@pytest.fixture
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=1) as verifier:
        yield verifier


@pytest.fixture
def task() -> Task:
    return make_task(3)


@pytest.fixture(name="check_task")
def check_task_fixture() -> Task:
    return check_task()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The tiny suite under the name ``tiny``, in the registry and in Gymnasium."""
    import sys
    from types import ModuleType

    import gymnasium

    import pedrl_env.registry as registry

    module = ModuleType("tiny_suite")
    module.Tiny = Tiny  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiny_suite", module)
    monkeypatch.setitem(registry.SUITES, "tiny", "tiny_suite:Tiny")
    registry.register_gymnasium()
    yield "pedrl/tiny-v0"
    gymnasium.registry.pop("pedrl/tiny-v0")
