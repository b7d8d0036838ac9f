"""The part of a suite's page in docs/suites that `pedrl tasks validate --page` writes."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pedrl_experiments.tasks_validation import Validation
from pedrl_sandbox.errors import PedrlError

BEGIN: Final = "<!-- pedrl tasks validate -->"
END: Final = "<!-- /pedrl tasks validate -->"
FACTS: Final = ("title", "licence", "citation", "source", "sha256", "group")


def write_page(found: Validation, command: str, page: Path) -> None:
    """Put what was found between the two marks of a page.

    Args:
        found: of the suite that the page is about.
        command: that printed it.
        page: a Markdown file.

    Raises:
        PedrlError: the page cannot be read or written, or has no marks.
    """
    try:
        text = page.read_text(encoding="utf-8")
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise PedrlError(
                f"{page} needs two lines, {BEGIN} and {END}: what is between is written"
            )
        page.write_text(
            "\n".join([f"{before}{BEGIN}", *_lines(found, command), f"{END}{after}"]),
            encoding="utf-8",
        )
    except OSError as error:
        raise PedrlError(f"{page}: {error.strerror}; make the page first") from error


def _lines(found: Validation, command: str) -> Iterator[str]:
    if found.info:
        yield "| | |\n|---|---|"
        for name in FACTS:
            if text := getattr(found.info, name):
                yield f"| {name} | {text} |"
        for split, text in found.info.splits.items():
            yield f"| {split} | {text} |"
        yield ""
    yield f"Printed by `{command}`:\n\n| check | found |\n|---|---|"
    for check, text in found.rows():
        yield f"| {check} | {text} |"
    for title, reasons in (
        ("Graded by a program, and why", found.programs),
        ("References that are known not to pass", found.unproven),
        ("Tasks that cannot run here", found.refused),
    ):
        if reasons:
            yield f"\n{title}:\n"
            yield from _by_reason(reasons)


def _by_reason(reasons: Mapping[str, str]) -> Iterator[str]:
    """One line for each reason, with the tasks by name; where all have one, it says so."""
    tasks: dict[str, list[str]] = defaultdict(list)
    for task, reason in reasons.items():
        tasks[reason].append(task.partition("/")[2])
    for reason, names in tasks.items():
        listed = ", ".join(sorted(names, key=_by_number)) if len(names) <= 40 else len(names)
        yield f"- {reason}: {listed}"


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part or 0), rest) for part, rest in re.findall(r"(\d*)(\D*)", name)]
