"""A checkpoint is not tested on relatives of what it was trained on, wherever one asks for it."""

import json
import sys
from pathlib import Path

import pytest

from pedrl_experiments import cli
from pedrl_experiments.bases import base_path
from pedrl_experiments.config import CompareConfig
from pedrl_sandbox import PedrlError

SUITE = """
name = "{name}"
licence = "CC0-1.0"
citation = "Us"
contamination_group = "{group}"
[[task]]
id = "one"
split = "test"
entry_point = "one"
prompt = "def one():\\n"
solution = "    return 1\\n"
tests = ["one() == 1"]
"""


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a run on ./mine.toml left behind, beside two other suites."""
    monkeypatch.chdir(tmp_path)
    for name, group in (("mine", "ours"), ("near", "ours"), ("far", "theirs")):
        Path(f"{name}.toml").write_text(SUITE.format(name=name, group=group))
    folder = tmp_path / "out" / "runs" / "grpo-s0" / "final"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    facts = {"suite": "./mine.toml", "dials": {}}
    (tmp_path / "out" / "config.json").write_text(json.dumps(facts))
    return folder


def base(suite: str, folder: Path) -> Path:
    return base_path(CompareConfig(suite=suite, base=str(folder)))


def test_relatives_are_refused(checkpoint: Path) -> None:
    for suite in ("./mine.toml", "./far.toml", "lexicon"):
        assert base(suite, checkpoint) == checkpoint
    message = "suites 'mine' and 'near' share problems .*'ours'.*test on the splits of 'mine'"
    with pytest.raises(PedrlError, match=message):
        base("./near.toml", checkpoint)


def test_evaluate_refuses_them_too(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["pedrl", "evaluate", "--suite", "./near.toml", "--policy", str(checkpoint)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "suites 'mine' and 'near' share problems" in capfd.readouterr().err


def test_what_cannot_be_known_is_said(checkpoint: Path) -> None:
    Path("mine.toml").unlink()
    with pytest.raises(PedrlError, match=r"config.json: no suite at mine.toml.*; mend that, or"):
        base("./near.toml", checkpoint)
    (checkpoint.parents[2] / "config.json").write_text("{}")
    with pytest.raises(PedrlError, match=r"was trained on cannot be known: .*'suite'"):
        base("./near.toml", checkpoint)
    elsewhere = checkpoint.rename(checkpoint.parents[3] / "final")
    assert base("./near.toml", elsewhere) == elsewhere
