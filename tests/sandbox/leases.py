"""What tests of workspaces and pools share: a pool on a loop, and a look at what is left."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from pedrl_sandbox import Pool, Room
from pedrl_sandbox.cgroup import ROOT
from pedrl_sandbox.workspace import Workspace

SMALL = Room(size=16 << 20, descriptors=256, tools=True)
T = TypeVar("T")


class Leases:
    """Runs one coroutine after another with a fresh lease of one pool."""

    def __init__(self, runner: asyncio.Runner, pool: Pool) -> None:
        self.runner, self.pool = runner, pool

    def run(self, body: Callable[[Workspace], Awaitable[T]]) -> T:
        async def work() -> T:
            async with asyncio.timeout(120), self.pool.lease() as sandbox:
                return await body(sandbox)

        return self.runner.run(work())


def running(marker: str) -> list[int]:
    """The shells and sleeping programs of this machine with ``marker`` in their command line.

    Of no others it is read: the kernel lets the reader wait while a process is short of memory.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            sleeps = (folder / "comm").read_text().strip() in ("sh", "sleep")
            if sleeps and marker in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


async def soon(holds: Callable[[], bool]) -> bool:
    """Whether it holds within a while."""
    for _ in range(500):
        if holds():
            return True
        await asyncio.sleep(0.01)
    return False


def left() -> tuple[set[int], set[Path], set[Path], set[str]]:
    """Child processes, descriptors, cgroups and threads of this process."""
    children: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            children |= set(map(int, (task / "children").read_text().split()))
    threads = {thread.name for thread in threading.enumerate()}
    cgroups = set(ROOT.glob(f"**/pedrl-{os.getpid()}-*"))
    return children, set(Path("/proc/self/fd").iterdir()), cgroups, threads


def python(text: str) -> tuple[str, ...]:
    return ("python3", "-c", text)


def shell(text: str) -> tuple[str, ...]:
    return ("sh", "-c", text)
