"""`pedrl tasks list`, `show` and `stats`: what suites and tasks say about themselves."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, get_args

from rich.console import Console
from rich.table import Table

from pedrl_env.records import Split, Task
from pedrl_env.registry import make_suite, suite_class, suites
from pedrl_env.suite import Suite, SuiteInfo, all_tasks
from pedrl_sandbox.errors import unknown_name

MANY: Final = 12  # more values of a tag than this are no table


def list_suites() -> None:
    """Print every suite with a name."""
    table = Table("suite", "what it is", "splits", "licence", "group")
    for name in suites():
        info = _info(name)
        table.add_row(name, info.title, " ".join(info.splits), info.licence, info.group)
    Console(highlight=False).print(table)


def _info(name: str) -> SuiteInfo:
    """What is known of a suite before its files are read; a factory has to be called."""
    info = getattr(suite_class(name), "info", None)
    if info is None:
        info = getattr(make_suite(name), "info", None)
    return info if isinstance(info, SuiteInfo) else SuiteInfo(name, "", "not said", "", "")


def list_tasks(suite: Suite, console: Console) -> None:
    """Print a line for every task."""
    for task in all_tasks(suite):
        tags = " ".join(f"{key}={value}" for key, value in task.tags.items())
        console.print(f"{task.id}  {task.split}  {tags}".rstrip())


def show_task(suite: Suite, name: str, hidden: bool, console: Console) -> None:
    """Print the prompt of a task, and what else is public.

    Args:
        suite: that it is of.
        name: its id, with or without the name of the suite.
        hidden: whether to print references, notes and tests too.
        console: where to.

    Raises:
        PedrlError: there is no such task.
    """
    by_id = {task.id: task for task in all_tasks(suite)}
    name = name if name in by_id else f"{suite.name}/{name.rpartition('/')[2]}"
    task = by_id.get(name)
    if task is None:
        raise unknown_name(f"task of suite {suite.name!r}:", name, by_id)
    console.print(task.prompt.rstrip("\n"))
    count, kind = tests_of(task)
    facts = {"id": task.id, "split": task.split, "entry point": task.entry_point, **task.tags}
    facts |= {"hidden tests": f"{count} ({kind})", "limits": f"{task.limits}"}
    facts |= {f"file {path}": text for path, text in task.files.items()}
    console.print("\n".join(["", *(f"{key}: {text}" for key, text in facts.items() if text)]))
    if hidden:
        fields = ("solution", "derivation", "notes", "tests")
        texts = {getattr(task.privileged, field).rstrip(): field for field in reversed(fields)}
        for text, field in reversed(texts.items()):
            if text:
                console.print(f"\nhidden {field}:\n{text}")


def tests_of(task: Task) -> tuple[int, str]:
    """How many hidden tests a task has, and of which kind; a program counts as one."""
    if not isinstance(task.tests, tuple):
        return 1, type(task.tests).__name__
    return len(task.tests), type(task.tests[0]).__name__ if task.tests else "none"


MEASURES: Final[Mapping[str, Callable[[Sequence[Task]], float]]] = {
    "tasks": len,
    "families": lambda found: len({task.tags.get("family", task.id) for task in found}),
    "words of a prompt, median": lambda found: _median(len(t.prompt.split()) for t in found),
    "words of a prompt, most": lambda found: max(len(task.prompt.split()) for task in found),
    "hidden tests, least": lambda found: min(tests_of(task)[0] for task in found),
    "hidden tests, median": lambda found: _median(tests_of(task)[0] for task in found),
    "lines of a reference, median": lambda found: _median(
        len(task.privileged.solution.splitlines()) for task in found
    ),
}


def _median(values: Iterable[int]) -> float:
    return round(statistics.median(values), 1)


def show_stats(suite: Suite, console: Console) -> None:
    """Print a table of sizes and tags by split, the metadata, and the tasks that cannot run."""
    splits = get_args(Split)
    found = {split: list(suite.tasks(split)) for split in splits}
    table = Table("", *splits, title=suite.name)
    for name, measure in MEASURES.items():
        table.add_row(name, *(f"{measure(items)}" if items else "–" for items in found.values()))
    tags = Counter(
        (key, value, task.split)
        for task in all_tasks(suite)
        for key, value in task.tags.items()
        if key != "family"
    )
    values = sorted({(key, value) for key, value, _ in tags})
    kinds = Counter(key for key, _ in values)
    for key, value in values:
        if kinds[key] <= MANY:
            table.add_row(f"{key} {value}", *(str(tags[key, value, split]) for split in splits))
    Console(highlight=False).print(table)
    info = getattr(suite, "info", None)
    if isinstance(info, SuiteInfo):
        facts = ("licence", "citation", "source", "sha256", "group")
        console.print("\n".join(f"{name}: {getattr(info, name)}" for name in facts))
    for item in getattr(suite, "refused", ()):
        console.print(f"cannot run here: {item.id}: {item.reason}")
