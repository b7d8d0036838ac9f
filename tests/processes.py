"""Several processes that find each other as a launcher's do, without importing torch again."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

PRELOADED = ["pedrl_experiments.cli", "pedrl_experiments.runner", "tests.agents.sharded"]


def run_processes(
    count: int, target: Callable[..., None], *args: object, log: Path, timeout: float = 120
) -> list[int | None]:
    """Call `target` in each process; return exit codes, and leave what is printed in `log`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_begin, args=(rank, count, port, log, target, args))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(timeout)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


def _begin(
    rank: int,
    count: int,
    port: int,
    log: Path,
    target: Callable[..., None],
    args: tuple[object, ...],
) -> None:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    with log.open("a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    target(*args)
