"""What a run leaves on disk, and how it comes back after `kill -9`.

Every line goes to an append-only JSONL file; a checkpoint records how long each file was when it
was taken. Resuming cuts the files back to that length, so nothing is counted twice or lost.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import torch

from pedrl_env.records import Group, MetricsRow, TaskResult
from pedrl_sandbox.errors import PedrlError

FILES = ("metrics", "results", "trajectories")


class RunStore:
    """The folder of one run (one method, one seed).

    Args:
        folder: made if it is not there.
        writes: of processes that train one run together, one does; what others say is dropped.
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._files: dict[str, TextIO] = {
                name: (folder / f"{name}.jsonl" if writes else Path(os.devnull)).open(
                    "a", encoding="utf-8"
                )
                for name in FILES
            }
        except OSError as error:
            raise PedrlError(f"cannot write to {folder}: {error.strerror}") from error
        self.folder = folder
        self._writes = writes

    @property
    def done(self) -> bool:
        """Whether the run ended."""
        return (self.folder / "done").exists()

    def metrics(self, rows: Iterable[MetricsRow]) -> None:
        """Append metric rows."""
        self._append("metrics", map(_fields, rows))

    def results(self, rows: Iterable[TaskResult]) -> None:
        """Append evaluation results per task."""
        self._append("results", map(_fields, rows))

    def trajectories(self, step: int, groups: Iterable[Group]) -> None:
        """Append rollouts as sampled: answers and verdicts, no prompt (it may hold privilege)."""
        self._append(
            "trajectories",
            (
                {
                    "step": step,
                    "task": t.task_id,
                    "group": t.group,
                    "role": t.role,
                    "policy_version": t.policy_version,
                    "text": t.text,
                    "status": t.verdict.status,
                    "reward": t.verdict.reward if t.verdict.judged else None,
                    "action_ids": t.turns[-1].action_ids,
                    "logprobs": [round(lp, 5) for lp in t.turns[-1].logprobs],
                }
                for g in groups
                for t in g.trajectories
            ),
        )

    def _append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        self._files[name].writelines(json.dumps(row) + "\n" for row in rows)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Write `state` and the length of every file, all or nothing."""
        if not self._writes:
            return
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        lengths = {name: (self.folder / f"{name}.jsonl").stat().st_size for name in FILES}
        partial = self.folder / "checkpoint.pt.partial"
        torch.save({**state, "lengths": lengths}, partial)
        partial.replace(self.folder / "checkpoint.pt")

    def resume(self) -> dict[str, Any] | None:
        """Return the last checkpoint and cut the files back to it; None for a fresh start.

        Raises:
            PedrlError: if the checkpoint cannot be read.
        """
        path = self.folder / "checkpoint.pt"
        state: dict[str, Any] | None = None
        if path.exists():
            try:
                state = torch.load(path, weights_only=True)
            except Exception as error:  # torch has no common error for a damaged file
                raise PedrlError(
                    f"{path} is damaged ({type(error).__name__}): remove {self.folder} to start "
                    "this run again"
                ) from error
        if self._writes:
            for name, file in self._files.items():
                file.truncate(state["lengths"][name] if state else 0)
        return state

    def finish(self) -> None:
        """Mark the run as ended."""
        self.close()
        if self._writes:
            (self.folder / "done").touch()

    def close(self) -> None:
        """Flush and close the files."""
        for file in self._files.values():
            file.close()


def _fields(row: MetricsRow | TaskResult) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def read_rows(folders: Iterable[Path], name: str) -> list[dict[str, Any]]:
    """Read one kind of file of several runs."""
    rows = []
    for folder in folders:
        path = folder / f"{name}.jsonl"
        if path.exists():
            with path.open(encoding="utf-8") as lines:
                rows += [json.loads(line) for line in lines]
    return rows
