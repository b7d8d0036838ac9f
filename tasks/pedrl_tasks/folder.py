"""A suite as one folder or one file, without any code: the loader of `starter` and of your own.

A folder holds ``suite.toml`` (name, licence, citation) and its tasks: one per line of
``tasks.jsonl``, one per folder with a ``task.toml``, or both. One file is such a TOML file of any
name, with a table ``[[task]]`` per task. `folder_task` says what a task is. Nothing is executed
here.
"""

import hashlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, get_args

from pedrl_env.records import Split, Task
from pedrl_env.suite import Dial, SuiteInfo
from pedrl_sandbox.errors import PedrlError, unknown_name
from pedrl_tasks.folder_task import make_task, row_of_folder
from pedrl_tasks.importers.files import Record, read_records, read_text

SETTINGS: Final = "suite.toml"
TASKS: Final = "tasks.jsonl"
EQUIVALENT: Final = "equivalent.toml"
REFERENCES: Final = ("terse", "plain")
REQUIRED: Final = ("name", "licence", "citation")
KEYS: Final = (
    *REQUIRED, "title", "description", "source", "contamination_group", "version", "sha256",
    "splits", "limits", "task",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A mutant that no test can fail, and why; `pedrl tasks validate` does not count it.

    Attributes:
        task: id of the task, without the name of the suite.
        operator: of `mutation.OPERATORS`.
        line: of the assembled program, prompt and reference, from 1.
        mutated: that line after the edit, without indentation.
        why: the argument.
    """

    task: str
    operator: str
    line: int
    mutated: str
    why: str


class Folder:
    """The tasks of a folder, or of one TOML file.

    Args:
        path: of the folder or file.
        reference: what a teacher sees: ``terse`` where a task has such a reference, or ``plain``.
        unknown: every other dial is refused.

    Attributes:
        info: what ``suite.toml`` says, with the hash of what was read.
        equivalent: mutants that are argued to be no bugs.

    Raises:
        PedrlError: a file is missing or malformed, has another hash than ``suite.toml`` says, or a
            family of tasks is in two splits. It names file, line or task, and the fix.
    """

    info: SuiteInfo = SuiteInfo(
        name="folder",
        title="a folder or file of your own",
        licence="as its suite.toml says",
        citation="as its suite.toml says",
        source="path=FOLDER",
    )

    def __init__(self, path: str = "", reference: Dial = "terse", **unknown: Dial) -> None:
        for dial in unknown:
            raise unknown_name("dial of a folder suite:", dial, ("path", "reference"))
        if not path:
            raise PedrlError("suite 'folder' needs path=: a folder with a suite.toml")
        if reference not in REFERENCES:
            raise unknown_name("reference", str(reference), REFERENCES)
        file = Path(path).expanduser()
        self.path = file.parent if file.name == SETTINGS else file
        settings = _settings(self.path)
        self.name = settings.text("name")
        rows = list(_rows(self.path, settings))
        self._tasks = _tasks(self.name, rows, settings, terse=reference == "terse")
        self.info = _info(settings, _digest(self.path, settings), self._tasks)
        self.equivalent = tuple(_equivalent(self.path))

    def tasks(self, split: Split) -> Sequence[Task]:
        """The tasks of a split, in the order of the files."""
        return self._tasks[split]

    def keep(self, wanted: Callable[[Task], bool]) -> None:
        """Drop every other task."""
        self._tasks = {split: tuple(filter(wanted, found)) for split, found in self._tasks.items()}
        names = {task.id.partition("/")[2] for found in self._tasks.values() for task in found}
        self.equivalent = tuple(mutant for mutant in self.equivalent if mutant.task in names)
        splits = {split: f"{len(found)} tasks" for split, found in self._tasks.items() if found}
        self.info = replace(self.info, splits=splits)

    def style(self, text: str) -> str | None:
        """None: no styles are told apart here."""
        return None


def starter(reference: Dial = "terse", band: Dial = 4, **unknown: Dial) -> Folder:
    """`starter`: small Python functions for models of 0.1 to 1 B parameters, the project's own.

    Args:
        reference: what a teacher sees: ``terse`` expert style, or ``plain`` steps.
        band: the hardest tasks that are kept, 1 to 4; a quarter of each split is in each band.
        unknown: every other dial is refused.
    """
    for dial in unknown:
        raise unknown_name("dial of suite 'starter':", dial, ("reference", "band"))
    if band not in (1, 2, 3, 4):
        raise PedrlError(f"suite 'starter': band must be 1, 2, 3 or 4, not {band!r}")
    suite = Folder(str(files("pedrl_tasks") / "data" / "starter"), reference)
    suite.keep(lambda task: int(task.tags["band"]) <= int(band))
    return suite


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise PedrlError(f"{path}: not valid TOML: {error}") from error


def _settings(path: Path) -> Record:
    """What ``suite.toml`` says, checked for keys that are missing or unknown."""
    file = path / SETTINGS if path.is_dir() else path
    if not file.is_file():
        raise PedrlError(
            f"no suite at {path}: {file} does not exist (`pedrl tasks init NAME` makes one)"
        )
    settings = Record(str(file), _toml(file))
    for key in settings.fields:
        if key not in KEYS:
            raise unknown_name(f"key in {file}:", key, KEYS)
    for key in REQUIRED:
        if not settings.text(key).strip():
            raise PedrlError(f"{file}: {key!r} is empty")
    return settings


def _rows(path: Path, settings: Record) -> Iterator[Record]:
    """Every task, wherever it stands."""
    tables: list[Any] = settings.optional("task", [])
    for number, row in enumerate(tables, 1):
        where = f"{settings.where}, task {number}"
        if not isinstance(row, dict):
            raise PedrlError(f"{where}: must be a table, [[task]]")
        yield Record(where, row)
    if (path / TASKS).is_file():
        yield from read_records(path / TASKS)
    for file in sorted(path.glob("*/task.toml")):
        yield row_of_folder(file.parent, _toml(file))


def _digest(path: Path, settings: Record) -> str:
    """The SHA-256 of the file with the tasks, or of the list of hashes of all, as a user reads it.

    Raises:
        PedrlError: ``suite.toml`` says another one.
    """
    found = [Path(settings.where)] if "task" in settings.fields else []
    found += [path / TASKS] if (path / TASKS).is_file() else []
    folders = sorted(file.parent for file in path.glob("*/task.toml"))
    found += [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in found]
    digest = hashes[0]
    if len(found) > 1:
        names = [file.relative_to(path).as_posix() for file in found]
        lines = [f"{one}  {name}\n" for one, name in zip(hashes, names, strict=True)]
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    expected = settings.optional("sha256", digest)
    if expected != digest:
        raise PedrlError(
            f"{path}: the tasks are not the known ones: {settings.where} says sha256 {expected}, "
            f"found {digest}; restore them, or write the new hash there if the change is meant"
        )
    return digest


def _tasks(
    suite: str, rows: Iterable[Record], settings: Record, *, terse: bool
) -> Mapping[Split, tuple[Task, ...]]:
    """The tasks of all splits; ids are unique and no family is in two splits."""
    limits: Mapping[str, Any] = settings.optional("limits", {})
    tasks: dict[Split, list[Task]] = {split: [] for split in get_args(Split)}
    seen: dict[str, str] = {}
    families: dict[str, tuple[str, str]] = {}
    for row in rows:
        task = make_task(suite, row, limits, terse=terse)
        if task.id in seen:
            raise PedrlError(
                f"{row.where}: id {row.text('id')!r} is that of {seen[task.id]}; ids must be unique"
            )
        seen[task.id] = row.where
        if family := task.tags.get("family"):
            split, where = families.setdefault(family, (task.split, row.where))
            if split != task.split:
                raise PedrlError(
                    f"{row.where}: family {family!r} is in split {task.split!r} here and in "
                    f"{split!r} at {where}; keep a family in one split"
                )
        tasks[task.split].append(task)
    if not seen:
        raise PedrlError(
            f"{settings.where}: the suite holds no tasks; add lines to {TASKS}, folders with a "
            "task.toml, or [[task]] tables"
        )
    counts: Mapping[str, Any] = settings.optional("splits", {})
    for split, count in counts.items():
        if split not in tasks:
            raise unknown_name(f"split in {settings.where}:", split, tasks)
        if len(tasks[split]) != count:
            raise PedrlError(
                f"{settings.where}: [splits] says {split} = {count}, but there are "
                f"{len(tasks[split])} such tasks; correct one of them"
            )
    return {split: tuple(found) for split, found in tasks.items()}


def _info(settings: Record, digest: str, tasks: Mapping[Split, Sequence[Task]]) -> SuiteInfo:
    name = settings.text("name")
    return SuiteInfo(
        name=name,
        title=settings.optional("title", name),
        licence=settings.text("licence"),
        citation=settings.text("citation"),
        source=settings.optional("source", f"the files of {name}"),
        sha256=digest,
        group=settings.optional("contamination_group", name),
        splits={split: f"{len(found)} tasks" for split, found in tasks.items() if found},
    )


def _equivalent(path: Path) -> Iterator[Equivalent]:
    """The mutants in ``equivalent.toml``, where there is one."""
    file = path / EQUIVALENT
    if not file.is_file():
        return
    known = [item.name for item in fields(Equivalent)]
    for number, row in enumerate(Record(str(file), _toml(file)).get("mutant", list), 1):
        record = Record(f"{file}, mutant {number}", row)
        for key in row:
            if key not in known:
                raise unknown_name(f"key in {record.where}:", key, known)
        texts = [record.text(name) for name in ("task", "operator", "mutated", "why")]
        yield Equivalent(texts[0], texts[1], record.get("line", int), texts[2], texts[3])
