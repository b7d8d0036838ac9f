"""What an evaluation leaves on disk, and how it goes on after `kill -9`.

`trajectories.jsonl` gets a line for each rollout as soon as it is judged. A file that was cut off
in mid-line loses that line; rollouts that are only sampled together (a batch of a local model) are
kept together or sampled again together. At the end the lines are put in order, so an evaluation
that was interrupted leaves the same file as one that was not.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from pedrl_env.records import Status, Verdict
from pedrl_sandbox.errors import PedrlError

Place = tuple[str, int]  # id of a task, number of its sample


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer and what was made of it: a line of `trajectories.jsonl`. No prompt, no secrets.

    Attributes:
        task, sample: which it is.
        text: the answer as it came.
        program: what was taken from it and verified.
        truncated: whether it ended at the longest length that was allowed.
        tokens: sampled; None where a server does not say.
        status, passed, total, detail: of the verdict.
    """

    task: str
    sample: int
    text: str
    program: str
    truncated: bool
    tokens: int | None
    status: Status
    passed: int
    total: int
    detail: str

    @property
    def place(self) -> Place:
        """Which rollout of the evaluation it is."""
        return self.task, self.sample

    def judged(self, verdict: Verdict) -> "Rollout":
        """The same answer with this verdict."""
        status, passed, total = verdict.status, verdict.passed, verdict.total
        return replace(self, status=status, passed=passed, total=total, detail=verdict.detail)


class EvaluationStore:
    """The folder of one evaluation; without a folder, only the rollouts of this process.

    Args:
        folder: made if it is not there; None keeps nothing.
        facts: everything that decides the answers, as plain data.

    Raises:
        PedrlError: the folder holds another evaluation, or cannot be read or written.
    """

    def __init__(self, folder: Path | None, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.rollouts: dict[Place, Rollout] = {}
        self._file: TextIO | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._claim(folder / "config.json", facts)
            path = folder / "trajectories.jsonl"
            if path.exists():
                for rollout in _read(path):
                    self.rollouts[rollout.place] = rollout
        except OSError as error:
            raise PedrlError(f"cannot write to {folder}: {error.strerror}") from error

    def _claim(self, path: Path, facts: Mapping[str, Any]) -> None:
        if not path.exists():
            if path.parent.joinpath("runs").exists():
                raise PedrlError(f"{path.parent} holds a comparison: choose another --out")
            _replace(path, json.dumps(facts, indent=2) + "\n")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PedrlError(f"{path} is damaged: choose another --out") from error
        for key, wanted in facts.items():
            if not isinstance(found, dict) or found.get(key) != wanted:
                there = found.get(key) if isinstance(found, dict) else found
                raise PedrlError(
                    f"{self.folder} holds another evaluation ({key} is {there!r} there, "
                    f"{wanted!r} here): choose another --out, or remove it"
                )

    def start(self, units: Sequence[Sequence[Place]]) -> list[Sequence[Place]]:
        """Keep the rollouts of whole units, open the file for more, and return what is missing."""
        missing = [unit for unit in units if any(p not in self.rollouts for p in unit)]
        for unit in missing:
            for place in unit:
                self.rollouts.pop(place, None)
        if self.folder is not None:
            self._write_all()
            self._file = (self.folder / "trajectories.jsonl").open("a", encoding="utf-8")
        return missing

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Keep rollouts, on the disk before this returns."""
        for rollout in rollouts:
            self.rollouts[rollout.place] = rollout
            if self._file is not None:
                self._file.write(_line(rollout))
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self, order: Sequence[Place], results: Mapping[str, Any]) -> None:
        """Put the lines in order and write `results.json`."""
        self.rollouts = {p: self.rollouts[p] for p in order if p in self.rollouts}
        if self.folder is not None:
            self._write_all()
            _replace(self.folder / "results.json", json.dumps(results, indent=2) + "\n")

    def _write_all(self) -> None:
        self.close()
        assert self.folder is not None
        lines = "".join(map(_line, self.rollouts.values()))
        _replace(self.folder / "trajectories.jsonl", lines)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(rollout: Rollout) -> str:
    return json.dumps(asdict(rollout)) + "\n"


def _read(path: Path) -> list[Rollout]:
    rollouts = []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            rollouts.append(Rollout(**json.loads(line)))
        except (ValueError, TypeError) as error:
            if number == len(lines) and not line.endswith("\n"):  # killed while it was written
                break
            raise PedrlError(
                f"{path}, line {number}, is damaged: remove the line to have it sampled again"
            ) from error
    return rollouts


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
