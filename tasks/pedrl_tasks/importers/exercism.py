"""`exercism`: the practice exercises of Exercism's Python track.

From a checkout of its repository: ``exercises/practice/<slug>/`` with ``.docs`` (instructions),
``.meta`` (``config.json``, the example solution), a stub and a test file. A test file whose methods
are plain asserts about one function becomes cases; any other is graded by pytest. Left out: the
concept exercises, whose tests print hints that are part of the course.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

from pedrl_env.records import Limits, Privileged, PytestProgram, Task, Tests
from pedrl_env.suite import SuiteInfo
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.importers.asserts import InexactError, parse
from pedrl_tasks.importers.files import FileSuite, Record, Refused, read_object, read_text
from pedrl_tasks.importers.unittests import from_solution, read_unittests

LIMITS: Final = Limits(cpu_s=10.0, wall_s=60.0)
DOCS: Final = ("introduction.md", "instructions.md", "instructions.append.md")


class Exercism(FileSuite):
    """The practice exercises of a checkout, in the split ``test``."""

    info: ClassVar = SuiteInfo(
        name="exercism",
        title="Exercism, Python track",
        licence="MIT",
        citation="Exercism, the Python track, https://exercism.org/tracks/python",
        source="https://github.com/exercism/python",
        group="exercism",
        splits={"test": "all practice exercises"},
        shown="the instructions give examples that are among the tests, as published",
    )
    default: ClassVar = "exercism-python"

    @classmethod
    def load(cls, path: Path) -> Iterator[Task | Refused]:
        """Every practice exercise of the checkout."""
        practice = path / "exercises" / "practice"
        for folder in sorted((practice if practice.is_dir() else path).iterdir()):
            if (folder / ".meta" / "config.json").exists():
                yield _task(folder)


def _task(folder: Path) -> Task | Refused:
    full_id = f"{Exercism.info.name}/{folder.name}"
    config = read_object(folder / ".meta" / "config.json")
    listed = Record(config.where, config.get("files", dict))
    module = folder.name.replace("-", "_")
    # Older exercises list no files, and are named by rule.
    stubs = listed.texts("solution") or [f"{module}.py"]
    tests = listed.texts("test") or [f"{module}_test.py"]
    examples = listed.texts("example") or [".meta/example.py"]
    for name in (*tests, *examples):
        if not (folder / name).is_file():
            raise PedrlError(f"{folder}: {name} is missing")
    if len(stubs) > 1 or len(tests) > 1 or len(examples) > 1:
        return Refused(full_id, "it is spread over several files")
    module, test = Path(stubs[0]).stem, folder / tests[0]
    source = read_text(test)
    extras = listed.texts("editor") if "editor" in listed.fields else []
    entry_point, found, how = _tests(test, source, module, [folder / name for name in extras])
    stub = read_text(folder / stubs[0]) if (folder / stubs[0]).is_file() else ""
    return Task(
        id=full_id,
        prompt=_prompt(folder, stub),
        entry_point=entry_point,
        tests=found,
        privileged=Privileged(solution=read_text(folder / examples[0]), tests=source),
        split="test",
        limits=LIMITS,
        tags={"tests": how},
    )


def _tests(test: Path, source: str, module: str, extras: Sequence[Path]) -> tuple[str, Tests, str]:
    """The entry point, the tests, and a word on how they are run."""
    changed = from_solution(source, lambda name: name == module, str(test))
    try:
        name, cases = read_unittests(parse(source), module)
    except InexactError as reason:
        files = {test.name: changed, **{extra.name: read_text(extra) for extra in extras}}
        return "", PytestProgram(files), f"pytest: {reason}"
    return name, cases, "cases"


def _prompt(folder: Path, stub: str) -> str:
    """The instructions as a comment, which no backslash or quote in them can end, and the stub."""
    docs = [folder / ".docs" / name for name in DOCS]
    text = "\n\n".join(read_text(doc).strip() for doc in docs if doc.exists())
    if not text:
        raise PedrlError(f"{folder}: .docs holds no instructions")
    lines = "\n".join(f"# {line}".rstrip() for line in text.splitlines())
    return f"{lines}\n\n{stub.strip()}\n\n\n"
