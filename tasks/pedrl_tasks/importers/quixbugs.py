"""`quixbugs`: forty classic algorithms, each with a bug on one line (Lin et al. 2017).

From a checkout of its repository: ``python_programs/`` has the bugs, ``correct_python_programs/``
the references, ``json_testcases/`` one case per line. The nine programs on graphs and linked lists
have only test files, ``python_testcases/``, and are graded by pytest. Left out: the Java half.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

from pedrl_env.records import Case, Limits, Privileged, PytestProgram, Task
from pedrl_env.suite import SuiteInfo
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.buggy import BEHIND, buggy_program
from pedrl_tasks.importers.files import FileSuite, Refused, read_text
from pedrl_tasks.importers.unittests import from_solution

LIMITS: Final = Limits(cpu_s=10.0, wall_s=60.0)
HELPERS: Final = ("node.py",)
# How the test files of these programs read a case; all others compare with ==.
GENERATORS: Final = ("flatten", "kheapsort")
PAIRS: Final = ("hanoi",)
APPROXIMATE: Final = ("sqrt",)
ALL_ITEMS: Final = 10_000


class QuixBugs(FileSuite):
    """The programs of a checkout, in the split ``test``."""

    info: ClassVar = SuiteInfo(
        name="quixbugs",
        title="QuixBugs (Python)",
        licence="MIT",
        citation="Lin et al. 2017, QuixBugs: A Multi-Lingual Program Repair Benchmark Set",
        source="https://github.com/jkoppel/QuixBugs",
        group="quixbugs",
        splits={"test": "all programs"},
        shown="examples of the docstrings are among the cases, as published",
    )
    default: ClassVar = "QuixBugs"
    buggy = staticmethod(buggy_program)

    @classmethod
    def load(cls, path: Path) -> Iterator[Task | Refused]:
        """Every program of the checkout."""
        programs = sorted((path / "python_programs").glob("*.py"))
        for program in programs:
            if program.name not in HELPERS and not program.stem.endswith(("_test", "__init__")):
                yield _task(path, program)


def _task(root: Path, program: Path) -> Task | Refused:
    name = program.stem
    full_id = f"{QuixBugs.info.name}/{name}"
    buggy = read_text(program).strip("\n")
    header = re.search(rf"^def {name}\(.*:[ \t]*$", buggy, re.M)
    if header is None:
        raise PedrlError(f"{program}: does not define {name!r} at the start of a line")
    reference = root / "correct_python_programs" / program.name
    if not reference.exists():
        return Refused(full_id, f"it has no reference {reference.name} in {reference.parent.name}")
    cases = root / "json_testcases" / f"{name}.json"
    tests = root / "python_testcases" / f"test_{name}.py"
    says = f"{BEHIND}program above has a bug on one line. "
    if cases.exists():
        return Task(
            id=full_id,
            prompt=f"{buggy}{says}The corrected function:\n{header[0].rstrip()}\n",
            entry_point=name,
            tests=tuple(_cases(cases, name)),
            privileged=Privileged(solution=read_text(reference), tests=read_text(cases)),
            split="test",
            limits=LIMITS,
            tags={"tests": "cases"},
        )
    if tests.exists():
        source = from_solution(read_text(tests), _imports_program, str(tests))
        helpers = [program.with_name(helper) for helper in HELPERS]
        return Task(
            id=full_id,
            prompt=f"{buggy}{says}The corrected program, whole:\n",
            entry_point="",
            tests=PytestProgram({tests.name: source}),
            privileged=Privileged(solution=read_text(reference), tests=source),
            split="test",
            limits=LIMITS,
            files={helper.name: read_text(helper) for helper in helpers if helper.exists()},
            tags={"tests": "pytest"},
        )
    return Refused(full_id, f"it has neither {cases.name} nor {tests.name}")


def _imports_program(module: str) -> bool:
    return module.startswith(("python_programs.", "correct_python_programs."))


def _cases(path: Path, name: str) -> Iterator[Case]:
    """The cases in a file: on each line a list of the arguments, or the argument, and the result.

    Raises:
        PedrlError: a line is something else, or there is none.
    """
    lines = [(n, line) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise PedrlError(f"{path} holds no cases")
    for number, line in lines:
        try:
            given, expected = json.loads(line)
        except (TypeError, ValueError) as error:
            raise PedrlError(f"{path}, line {number}: must be [arguments, result]") from error
        yield _case(name, tuple(given) if isinstance(given, list) else (given,), expected)


def _case(name: str, args: tuple[Any, ...], expected: Any) -> Case:
    if name in GENERATORS:
        return Case(args, expected, "equal", items=ALL_ITEMS)
    if name in PAIRS:
        return Case(args, [tuple(pair) for pair in expected], "equal")
    if name in APPROXIMATE:
        near = f"abs(value - {expected!r}) <= args[-1]"
        return Case(args, predicate=f"def accepts(args, value):\n    return {near}\n")
    return Case(args, expected, "equal")
