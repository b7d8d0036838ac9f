"""Every suite has a page, and what it says of the suite is so."""

import re

import pytest

from pedrl_env import make_suite
from pedrl_env.registry import SUITES
from pedrl_env.suite import SuiteInfo
from pedrl_experiments.tasks_page import BEGIN, END
from pedrl_sandbox import PedrlError
from tests.project.conftest import ROOT

NAMES = sorted(set(SUITES) - {"folder"})
PAGES = ROOT / "docs" / "suites"
BESIDE = ROOT.parent / "shared" / "data"
# A puzzle has many right answers, and many mutants find one: see its page.
KNOWN = {"puzzles": "1"}
# Their pages are about a tree of tests, or about another suite.
BORROWED = ("quixbugs", "exercism", "hf", "harbor")


def rows(name: str) -> dict[str, str]:
    """What the tables of a page say."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    table = text.partition(BEGIN)[2].partition(END)[0]
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE))


def test_every_suite_has_a_page_and_every_page_a_suite() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_pages_tell_a_sound_suite(name: str) -> None:
    said = rows(name)
    assert {"splits", "references pass", "flaky runs", "mutation score"} <= set(said)
    assert said["problems"] == KNOWN.get(name, "0")
    failed = re.findall(
        r"(\d+)/(\d+)", " ".join(text for key, text in said.items() if " fail" in key)
    )
    assert failed
    assert all(fail == total for fail, total in failed)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(BORROWED)))
def test_pages_tell_the_suite_of_today(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts and counts; the counts of a benchmark only where its file is."""
    said = rows(name)
    if BESIDE.is_dir():
        monkeypatch.setenv("PEDRL_DATA", str(BESIDE))
    try:
        suite = make_suite(name if name != "repair" else "starter")  # a bug for each task of it
    except PedrlError as error:
        pytest.skip(str(error))
    counts = {split: len(suite.tasks(split)) for split in ("train", "validation", "test")}
    assert said["splits"] == ", ".join(f"{n} {split}" for split, n in counts.items() if n)
    found = getattr(suite, "info", None)
    assert isinstance(found, SuiteInfo)
    for fact in ("licence", "group", "sha256"):
        assert said.get(fact, "") == getattr(found, fact)
