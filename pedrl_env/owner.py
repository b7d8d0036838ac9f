"""One thread for what only one thread may touch, while its callers go on.

No two threads may share a sandbox, and the kernel kills a sandbox when the thread that started it
ends: so one thread uses a verifier's sandboxes for as long as these live.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 0.02  # between two looks at what is being stopped


class Owner:
    """The thread starts with the first task; a forked child gets one of its own."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._pid = self._thread = 0

    def submit(self, task: Callable[[], None]) -> Future[None]:
        """Have ``task`` run after those submitted before it."""
        if self._executor is None or self._pid != os.getpid():  # a fork takes no thread along
            self._executor, self._pid = (
                ThreadPoolExecutor(1, "pedrl-owner", self._begin),
                os.getpid(),
            )
        return self._executor.submit(task)

    def _begin(self) -> None:
        self._thread = threading.get_native_id()

    def stop(self, tasks: Sequence[Future[None]], helpers: Sequence["Owner"] = ()) -> bool:
        """Cancel what has not begun, and kill the processes of the thread until the rest gives up.

        It does: a sandbox that dies under a job, and under the next one, is not started for ever.

        Args:
            tasks: of this thread.
            helpers: whose processes the tasks wait for.

        Returns:
            Whether processes were killed.
        """
        killed = False
        for task in tasks:
            task.cancel()
        while wait(tasks, PATIENCE_S).not_done:
            for owner in (self, *helpers):
                owner._kill_children()
            killed = True
        return killed

    def _kill_children(self) -> None:
        # Each leads a process group. Where the kernel lists no children, job limits end them.
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/self/task/{self._thread}/children").read_text().split():
                os.killpg(int(child), signal.SIGKILL)

    def close(self) -> None:
        """End the thread, after all that was submitted."""
        if self._executor is not None and self._pid == os.getpid():
            self._executor.shutdown()
        self._executor = None
