"""What `pedrl tasks validate` finds, as a record, as JSON and as a table."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from pedrl_env.suite import SuiteInfo

SHOWN_PROBLEMS = 20
SHOWN_SURVIVORS = 10


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with which task (``suite`` where it is with none), and what to do."""

    task: str
    what: str


@dataclass(frozen=True, slots=True)
class Survivor:
    """A mutant that passes all tests of its task.

    Attributes:
        line: of the assembled program, as in ``equivalent.toml``.
        mutated: that line after the edit.
        diff: unified, from the reference: hidden text, for the author of the suite.
    """

    task: str
    operator: str
    line: int
    mutated: str
    diff: str


@dataclass(slots=True)
class Validation:
    """What was found in a suite so far.

    Attributes:
        tasks: split -> how many were looked at.
        oracle: tasks of which every run of every reference passed.
        unproven: id -> why its reference is known not to pass here; no problem.
        refused: id -> why the task cannot run here; no problem, and not among ``tasks``.
        programs: id -> how it is graded, and why, where its tests are programs and not cases.
        runs: of references that passed at least once.
        flaky: id -> how many of these runs did not pass.
        stubs: programs with empty functions that were run, and of these
        stubs_passed: passed.
        buggy: programs that prompts ask to mend, and of these
        buggy_passed: passed.
        cheats: programs that were tried against tests that are programs, and of these
        cheats_passed: passed.
        mutants: that were run, and of these
        equivalent: passed and are argued to be no bugs.
        survivors: passed, and nobody argues.
        shown: id -> hidden tests, by number from 1, whose value the prompt shows.
        lost: verdicts that could not be had.
        executions: programs run, in
        seconds: of wall time.
    """

    suite: str
    info: SuiteInfo | None
    tasks: Mapping[str, int]
    oracle: int = 0
    unproven: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    programs: dict[str, str] = field(default_factory=dict)
    runs: int = 0
    flaky: dict[str, int] = field(default_factory=dict)
    stubs: int = 0
    stubs_passed: int = 0
    buggy: int = 0
    buggy_passed: int = 0
    cheats: int = 0
    cheats_passed: int = 0
    mutants: int = 0
    equivalent: int = 0
    survivors: list[Survivor] = field(default_factory=list)
    shown: dict[str, list[int]] = field(default_factory=dict)
    lost: int = 0
    problems: list[Problem] = field(default_factory=list)
    executions: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Tasks that were looked at."""
        return sum(self.tasks.values())

    @property
    def flake_rate(self) -> float | None:
        """Share of the runs of right programs that did not pass."""
        return sum(self.flaky.values()) / self.runs if self.runs else None

    @property
    def mutation_score(self) -> float | None:
        """Share of the mutants that fail; those argued to be no bugs do not count."""
        counted = self.mutants - self.equivalent
        return 1 - len(self.survivors) / counted if counted else None

    def complain(self, task: str, what: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(task, what))

    def to_json(self) -> dict[str, Any]:
        """Plain data, the rates first."""
        return {
            "ok": not self.problems,
            "oracle_rate": self.oracle / self.total,
            "flake_rate": self.flake_rate,
            "mutation_score": self.mutation_score,
            **asdict(self),
        }

    def print(self, console: Console) -> None:
        """Print a table, then survivors and problems, the first of each."""
        table = Table("check", "found", title=f"{self.suite}: {self.total} tasks", title_style="")
        for check, text in self.rows():
            table.add_row(check, text)
        console.print(table)
        for survivor in self.survivors[:SHOWN_SURVIVORS]:
            console.print(f"\nsurvivor of {survivor.task} ({survivor.operator}):\n{survivor.diff}")
        if len(self.survivors) > SHOWN_SURVIVORS:
            console.print(f"... and {len(self.survivors) - SHOWN_SURVIVORS} more: see --json")
        for problem in self.problems[:SHOWN_PROBLEMS]:
            console.print(f"{problem.task}: {problem.what}")
        if len(self.problems) > SHOWN_PROBLEMS:
            console.print(f"... and {len(self.problems) - SHOWN_PROBLEMS} more: see --json")

    def rows(self) -> Iterator[tuple[str, str]]:
        """What was checked, and what was found."""
        yield "splits", ", ".join(f"{n} {split}" for split, n in self.tasks.items() if n)
        proven = f"{self.oracle}/{self.total}"
        proven += f", {len(self.unproven)} known not to" if self.unproven else ""
        yield "references pass", proven
        rate = "unknown" if self.flake_rate is None else f"{self.flake_rate:.2%} of {self.runs}"
        yield "flaky runs", rate
        yield "stubs fail", f"{self.stubs - self.stubs_passed}/{self.stubs}"
        if self.buggy:
            yield "buggy programs fail", f"{self.buggy - self.buggy_passed}/{self.buggy}"
        if self.programs:
            yield "graded by a program", str(len(self.programs))
            yield "cheats fail there", f"{self.cheats - self.cheats_passed}/{self.cheats}"
        score = self.mutation_score
        counted = self.mutants - self.equivalent
        killed = f"{counted - len(self.survivors)}/{counted}"
        text = "no mutants" if score is None else f"{score:.4f} ({killed})"
        yield "mutation score", text
        yield "argued equivalent", str(self.equivalent)
        yield "prompts that show a test", str(len(self.shown))
        if self.refused:
            yield "cannot run here", str(len(self.refused))
        yield "problems", str(len(self.problems))
        yield "programs run", f"{self.executions} in {self.seconds:.1f} s"
