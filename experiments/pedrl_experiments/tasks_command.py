"""`pedrl tasks`: make, list, show, validate and measure task suites.

Heavy imports happen inside commands, as in `cli`.
"""

import json as jsonlib
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from pedrl_experiments.sets import Sets, dials
from pedrl_sandbox.errors import PedrlError

Part = Literal["train", "validation", "test", ""]

tasks = tyro.extras.SubcommandApp()
console = Console(markup=False, highlight=False, soft_wrap=True)


@tasks.command
def init(name: Positional[Path]) -> None:
    """Make a folder with a suite that works, to be changed into one of your own.

    Args:
        name: of the suite, or the path of its folder.
    """
    if name.exists():
        raise PedrlError(f"{name} exists already: choose another name")
    text = (files("pedrl_tasks") / "data" / "scaffold.toml").read_text(encoding="utf-8")
    name.mkdir(parents=True)
    (name / "suite.toml").write_text(text.replace("NAME", name.name), encoding="utf-8")
    path = name if name.is_absolute() else f"./{name}"
    console.print(f"{name / 'suite.toml'}: three tasks; now `pedrl tasks validate {path}`")


@tasks.command(name="list")
def list_suites() -> None:
    """List the suites by name; a folder of yours is named by its path, ./mysuite."""
    from pedrl_experiments.tasks_show import list_suites as print_suites

    print_suites()


@tasks.command
def show(
    suite: Positional[str], task: Positional[str] = "", hidden: bool = False, sets: Sets = ()
) -> None:
    """List the tasks of a suite, or print one of them: its prompt and what else is public.

    Args:
        suite: by name, or a folder.
        task: its id, with or without the name of the suite.
        hidden: also print references, notes and tests.
        sets: dials of the suite.
    """
    from pedrl_env.registry import make_suite
    from pedrl_experiments.tasks_show import list_tasks, show_task

    made = make_suite(suite, dials(sets))
    if task:
        show_task(made, task, hidden, console)
    else:
        list_tasks(made, console)


@tasks.command
def stats(suite: Positional[str], sets: Sets = ()) -> None:
    """Print how many tasks a suite has and how large they are, by split and by tag.

    Args:
        suite: by name, or a folder.
        sets: dials of the suite.
    """
    from pedrl_env.registry import make_suite
    from pedrl_experiments.tasks_show import show_stats

    show_stats(make_suite(suite, dials(sets)), console)


@tasks.command
def validate(
    suite: Positional[str],
    repeats: int = 3,
    mutants: int = 10,
    score: float = 0.8,
    split: Part = "",
    limit: int = 0,
    seed: int = 0,
    sandbox: str = "zygote",
    sets: Sets = (),
    json: bool = False,
    page: Path | None = None,
) -> None:
    """Prove that references pass, stubs and mutants fail, and prompts give nothing away.

    Ends with exit code 1 where something is wrong.

    Args:
        suite: by name, or a folder.
        repeats: runs of every reference, with more sandboxes at work than there are CPUs.
        mutants: of every reference, at most; 0 for all that there are.
        score: least share of the mutants that must fail.
        split: only this one.
        limit: only the first tasks of each split; 0 means all.
        seed: of the choice of mutants.
        sandbox: backend that runs submissions.
        sets: dials of the suite.
        json: print JSON instead of a table; it has all survivors, and the hidden text of their
            diffs.
        page: of the documentation, whose table is to be written anew.
    """
    from pedrl_env.registry import make_suite
    from pedrl_env.suite import all_tasks
    from pedrl_experiments.tasks_page import write_page
    from pedrl_experiments.tasks_validate import Settings
    from pedrl_experiments.tasks_validate import validate as run

    settings = Settings(repeats, mutants, score, sandbox, seed)
    made = make_suite(suite, dials(sets))
    found = all_tasks(made, split, limit)
    with _bars() as advance:
        result = run(made, found, settings, advance)
    if page:
        words = [word for word in sys.argv[1:] if word not in ("--page", str(page))]
        write_page(result, shlex.join(["pedrl", *words]), page)
    if json:
        console.out(jsonlib.dumps(result.to_json(), indent=2))
    else:
        result.print(console)
    sys.exit(1 if result.problems else 0)


@tasks.command
def export(
    suite: Positional[str],
    folder: Positional[Path],
    split: Part = "",
    limit: int = 0,
    sets: Sets = (),
) -> None:
    """Write a suite as Harbor task folders, references and hidden tests included.

    Tasks that the format cannot hold are counted by reason. Ends with exit code 1 if none is left.

    Args:
        suite: by name, or a folder.
        folder: to write to; made if it is not there.
        split: only this one.
        limit: only the first tasks of each split; 0 means all.
        sets: dials of the suite.
    """
    from pedrl_env.registry import make_suite
    from pedrl_env.suite import all_tasks
    from pedrl_tasks.importers.harbor_export import export as write

    found = all_tasks(make_suite(suite, dials(sets)), split, limit)
    refused = write(found, folder)
    written = len(found) - len(refused)
    console.print(f"{folder}: {written} of {len(found)} tasks of {suite}")
    for reason, count in Counter(task.reason for task in refused).most_common():
        console.print(f"  left out, {count}: {reason}")
    sys.exit(0 if written else 1)


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """One bar on stderr for everything that is run."""
    from rich import progress as rich

    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
    stderr = Console(stderr=True)
    with rich.Progress(*columns, rich.TimeElapsedColumn(), console=stderr) as progress:
        bars: dict[str, rich.TaskID] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done)

        yield advance
