"""Starting as one of several processes that train one run together; torch is imported then only."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pedrl_sandbox.errors import PedrlError

SET_BY_LAUNCHERS: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

PATIENCE: Final = 5.0  # seconds for the first one to say what happened


def launched() -> bool:
    """Whether `torchrun` or `accelerate launch` started this process."""
    return all(name in os.environ for name in SET_BY_LAUNCHERS)


def speaks() -> bool:
    """Whether what this process prints is not what another one prints as well."""
    return not launched() or os.environ["RANK"] == "0"


@contextmanager
def together(command: str) -> Iterator[None]:
    """Join the processes that were launched, if any; of those that fail, let one say why.

    Args:
        command: of ``pedrl``.

    Raises:
        PedrlError: it is not one for several processes, or one was killed.
    """
    if not launched():
        yield
        return
    if command != "compare":
        if not speaks():
            sys.exit(2)
        raise PedrlError(
            f"`pedrl {command}` runs in one process: start it without a launcher, which is for "
            "`pedrl compare`"
        )
    from pedrl_agents import distributed

    try:
        distributed.join()
        yield
        distributed.leave()
    except Exception as error:
        if not distributed.first_to_fail():  # all fail alike, or miss the one that did
            time.sleep(PATIENCE)  # whoever ends first has the launcher end the others
            sys.exit(2)
        if distributed.is_loss(error):
            raise PedrlError(
                "another process of this run was killed (out of memory?): the same command again "
                "resumes"
            ) from error
        raise
