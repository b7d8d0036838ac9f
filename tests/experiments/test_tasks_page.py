"""`pedrl tasks validate --page` writes the table of a suite's page, and nothing else of it."""

import sys
from pathlib import Path

import pytest

from pedrl_experiments import cli
from pedrl_experiments.tasks_page import BEGIN, END, write_page
from pedrl_experiments.tasks_validation import Validation
from pedrl_sandbox import PedrlError


def validate(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["pedrl", "tasks", *words])
    cli.main()


def test_the_command_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    validate(monkeypatch, "init", "mysuite")
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n{BEGIN}\nold\n{END}\nThe end.\n")
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            validate(monkeypatch, "validate", "./mysuite", "--repeats", "2", "--page", "page.md")
        lines = page.read_text().splitlines()
        assert (lines[:2], lines[-2:]) == (["# Mine", BEGIN], [END, "The end."])
        assert "Printed by `pedrl tasks validate ./mysuite --repeats 2`:" in lines
        assert {"| licence | CC0-1.0 |", "| references pass | 3/3 |"} <= set(lines)
        assert {"| test | 1 tasks |", "| flaky runs | 0.00% of 6 |"} <= set(lines)
        assert "old" not in lines


def test_reasons_list_their_tasks(tmp_path: Path) -> None:
    many = {f"mine/many{number}": "slow" for number in range(41)}
    programs = {"mine/a10": "check", "mine/a9": "check", "mine/b": "pytest"}
    found = Validation("mine", None, {"test": 44}, unproven=many, programs=programs)
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    write_page(found, "pedrl", page)
    lines = page.read_text().splitlines()
    assert {"- check: a9, a10", "- pytest: b", "- slow: 41"} <= set(lines)


def test_a_page_must_be_there_and_have_marks(tmp_path: Path) -> None:
    found, page = Validation("mine", None, {"test": 1}), tmp_path / "page.md"
    with pytest.raises(PedrlError, match=r"page.md: No such file or directory; make the page"):
        write_page(found, "pedrl", page)
    page.write_text(f"{BEGIN}\n")
    with pytest.raises(PedrlError, match=r"page.md needs two lines, <!-- pedrl tasks validate"):
        write_page(found, "pedrl", page)
    assert page.read_text() == f"{BEGIN}\n"
