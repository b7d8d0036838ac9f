"""Every line of the threat model names a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def source(file: str) -> str:
    folder = "tests" if file.startswith("sandbox/") else "tests/adversarial"
    return (ROOT / folder / f"{file}.py").read_text()


def test_every_named_test_exists() -> None:
    text = (ROOT / "sandbox/README.md").read_text()
    table = text.split("## Covered by")[1].split("## Not covered")[0]
    rows = [line for line in table.splitlines() if re.match(r"\| (?!attack|what \|)", line)]
    assert len(rows) > 15
    for row in rows:
        code = ""
        names = re.findall(r"`([^`]+)`", row.rsplit("|", 2)[1])
        assert names, row
        for name in names:
            file, _, test = name.rpartition("::")
            if file:
                code = source(file)
            if f"def {test}(" not in code:  # then it must be a file, meant as a whole
                assert not file, name
                code = source(test)


def test_the_example_of_the_readme() -> None:
    text = (ROOT / "sandbox/README.md").read_text()
    section = text.split("## Workspaces")[1].split("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(list(filter(None, example.splitlines()))) <= 15
    space: dict[str, object] = {}
    exec(example, space)
    assert space["answers"] == [b"0\n", b"1\n", b"4\n"]
