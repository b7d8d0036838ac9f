"""The processes of a sandbox, seen from outside."""

import os
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has started, in order."""
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return []


def servers() -> list[int]:
    """Process 1 of every sandbox that this process has running."""
    return [
        server
        for launcher in children(os.getpid())
        for server in children(launcher)
        if "/pedrl/supervisor.py" in _command(server)
    ]


def started(server: int) -> list[int]:
    """What the template under a supervisor has started: inits, a job, who waits for the next."""
    return [pid for template in children(server) for pid in children(template)]


def jobs_of(server: int) -> list[int]:
    """The job that runs under a supervisor: it alone has gone into a workspace."""
    return [
        pid
        for template in children(server)
        for pid in children(template)
        if _folder(pid) not in ("", _folder(template))
    ]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _folder(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except (FileNotFoundError, ProcessLookupError):
        return ""
