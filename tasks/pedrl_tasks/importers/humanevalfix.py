"""`humanevalfix`: the 164 HumanEval problems, each as a function with one bug (arXiv:2308.07124).

From HumanEvalPack. The prompt shows the buggy function with its docstring and the asserts of its
docstring's examples, then the function's first line again: a submission writes the body. The hidden
tests are HumanEval's; twenty of the buggy functions pass the visible ones.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pedrl_env.records import Privileged, Task
from pedrl_env.suite import SuiteInfo
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.buggy import buggy_program
from pedrl_tasks.humaneval import GROUP, LIMITS, read_check
from pedrl_tasks.importers.asserts import parse
from pedrl_tasks.importers.files import FileSuite, Record, read_records


class HumanEvalFix(FileSuite):
    """All 164 problems, in the split ``test``; the kind of bug is a hidden note."""

    info: ClassVar = SuiteInfo(
        name="humanevalfix",
        title="HumanEvalFix (Python)",
        licence="MIT",
        citation="Muennighoff et al. 2023, OctoPack: Instruction Tuning Code Large Language Models",
        source="https://huggingface.co/datasets/bigcode/humanevalpack",
        sha256="b1376d72be4bd016a62ad043d9de3846edb8d63edf1222da802a31330c14c3a7",
        group=GROUP,
        splits={"test": "all 164 problems"},
        shown="examples of the docstrings are among the tests, as published",
    )
    default: ClassVar = "humanevalfix/humanevalpack_python.jsonl"
    buggy = staticmethod(buggy_program)

    @classmethod
    def load(cls, path: Path) -> Iterator[Task]:
        """Every task of the file."""
        for record in read_records(path):
            prompt, test = record.text("prompt"), record.text("test")
            tests, how = read_check(record, test, prompt)
            kind, symptoms = record.text("bug_type"), record.text("failure_symptoms")
            yield Task(
                id=f"{cls.info.name}/{record.text('task_id').rpartition('/')[2]}",
                prompt=_prompt(record),
                entry_point=record.text("entry_point"),
                tests=tests,
                privileged=Privileged(
                    solution=record.text("canonical_solution"),
                    tests=test,
                    notes=f"bug: {kind}; symptom: {symptoms}",
                ),
                split="test",
                limits=LIMITS,
                tags={"tests": how},
            )


def _prompt(record: Record) -> str:
    declaration, name = record.text("declaration"), record.text("entry_point")
    _, found, header = declaration.rpartition(f"def {name}(")
    if not found:
        raise PedrlError(f"{record.where}: field 'declaration' does not define {name!r}")
    # In one record the pieces of a solution come before the check; they must not be shown.
    start, rest = f"\n{record.text('example_test')}".rpartition("\ndef check(")[1:]
    try:
        nodes = ast.walk(parse(start + rest if start else ""))
    except SyntaxError as error:
        raise PedrlError(f"{record.where}: field 'example_test' is no Python: {error}") from error
    tests = [node.test for node in nodes if isinstance(node, ast.Assert)]
    asserts = [f"assert {ast.unparse(t)}" for t in tests if not isinstance(t, ast.Constant)]
    says = "has a bug. Corrected, it passes:" if asserts else "has a bug."
    lines = "\n".join([f"The function above {says}", *asserts]).splitlines()
    comments = "\n".join(f"# {line}" for line in lines)
    buggy = f"{record.text('prompt')}{record.text('buggy_solution')}".strip("\n")
    return f"{buggy}\n\n\n{comments}\n# The corrected function:\n{found}{header.rstrip()}\n"
