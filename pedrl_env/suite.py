"""What a task suite is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from pedrl_env.records import Split, Task
from pedrl_sandbox.errors import PedrlError

Dial = str | int | float


@dataclass(frozen=True, slots=True)
class SuiteInfo:
    """What to know about a suite before a number on it is reported.

    Attributes:
        name: as in the registry.
        title: its name in prose.
        licence: an SPDX identifier, or what stands for one.
        citation: authors, year, title and where.
        source: the address of the file or repository that the tasks come from.
        sha256: of that file; empty where any version is taken.
        group: contamination group. Suites of one group share problems, so one of them must not be
            trained on where another is tested on; empty where there are no relatives.
        splits: split -> what is in it, in words; a split that is not named is empty.
        unproven: task id -> why its reference is known not to pass here.
        shown: why prompts show some of the hidden tests, where they do.
    """

    name: str
    title: str
    licence: str
    citation: str
    source: str
    sha256: str = ""
    group: str = ""
    splits: Mapping[Split, str] = field(default_factory=dict)
    unproven: Mapping[str, str] = field(default_factory=dict)
    shown: str = ""


class Suite(Protocol):
    """A family of tasks. Construct it with its dials as keyword arguments, for example
    ``Lexicon(coined=2)``; an unknown dial is a ``PedrlError``. One that others may report on also
    has an attribute ``info``, a ``SuiteInfo``: of the class, or of what a factory returns.
    """  # noqa: D205

    name: str

    def tasks(self, split: Split) -> Sequence[Task]:
        """Every task of a split: finite, always the same, always in the same order."""
        ...

    def style(self, text: str) -> str | None:
        """The style of an answer, for example ``fused``; None where the suite knows no styles."""
        ...


def all_tasks(suite: Suite, split: Split | Literal[""] = "", limit: int = 0) -> list[Task]:
    """The tasks of a suite.

    Args:
        suite: whose.
        split: only this one; every split when empty.
        limit: only the first tasks of each split; all of them when 0.

    Raises:
        PedrlError: the limit is negative.
    """
    if limit < 0:
        raise PedrlError(f"limit must be at least 0, not {limit}")
    parts = [part for part in get_args(Split) if split in ("", part)]
    return [task for part in parts for task in suite.tasks(part)[: limit or None]]


def check_groups(trained: Sequence[SuiteInfo], tested: Sequence[SuiteInfo]) -> None:
    """Refuse to train on one suite and test on a relative of it.

    Args:
        trained: suites whose train split is learned from.
        tested: suites whose held-out splits are reported on.

    Raises:
        PedrlError: two different suites, one of each, are of one contamination group. One suite may
            be on both sides: its splits share no problem.
    """
    for one in trained:
        for other in tested:
            if one.name != other.name and one.group and one.group == other.group:
                raise PedrlError(
                    f"suites {one.name!r} and {other.name!r} share problems (contamination group "
                    f"{one.group!r}), so the one cannot be trained on where the other is tested "
                    f"on: test on the splits of {one.name!r}, or on a suite of another group"
                )
