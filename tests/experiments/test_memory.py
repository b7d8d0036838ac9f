"""`pedrl bench memory`: both ways make the same step; a broken promise is an exit code."""

import io
import json

import pytest
from rich.console import Console

from pedrl_experiments.bench import memory
from pedrl_experiments.bench.memory import Shape

SMALL = Shape(vocabulary=40_000, sequences=3, tokens=500, hidden=16)


@pytest.mark.slow
def test_chunks_need_less_than_all_logits_at_once_and_learn_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = io.StringIO()
    assert memory.bench(SMALL, True, True, Console(file=page)) == 0
    plain = json.loads(page.getvalue())
    chunks, whole = plain["peaks"]
    assert (chunks["way"], whole["way"]) == ("in chunks", "at once")
    assert chunks["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    assert chunks["loss"] > 0
    assert 0 < chunks["above"] < whole["above"] / 2
    assert plain["kept"] is True
    monkeypatch.setattr(memory, "PROMISE", 1)
    monkeypatch.setattr(memory, "_apart", lambda way, shape: memory.Peak(**chunks))
    shown = io.StringIO()
    assert memory.bench(SMALL, False, False, Console(file=shown, width=120)) == 1
    assert "BROKEN" in shown.getvalue()
