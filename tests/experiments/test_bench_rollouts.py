"""`pedrl bench rollouts` on the tiny base: it counts rollouts, and judges time and memory."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from pedrl_experiments.bench import rollouts
from pedrl_experiments.bench.rollouts import MIB, Endurance, Part, Report
from pedrl_sandbox.errors import PedrlError


def endurance(base: Path, total: int = 40) -> Endurance:
    return Endurance("lexicon", {}, str(base), total, 2, 2, 6, verify=True, threads=1)


def test_every_rollout_is_sampled_and_verified(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = rollouts.bench(endurance(tiny_base), True, Console(file=io.StringIO()))
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["held"] else 1)
    assert [part["rollouts"] for part in report["parts"]] == [4] * 10
    assert all(part["wall_s"] > 0 and part["rss"] > 50 * MIB for part in report["parts"])
    assert 40 <= report["tokens"] <= 44 * 6
    assert 0 <= report["pass_rate"] <= 1


def test_unverified_rollouts_have_no_pass_rate(tiny_base: Path) -> None:
    what = dataclasses.replace(endurance(tiny_base), verify=False)
    assert rollouts.measure(what, Progress(disable=True)).pass_rate is None


def made_up(seconds: list[float], cpu: list[float], mib: list[float]) -> Report:
    parts = [
        Part(10, wall, own, round(rss * MIB))
        for wall, own, rss in zip(seconds, cpu, mib, strict=True)
    ]
    return rollouts.judge(endurance(Path("base")), 100 * MIB, parts, tokens=1, pass_rate=0.5)


FLAT, GROWING = [1.0] * 10, [1.0 + 0.05 * i for i in range(10)]


def test_what_is_linear_and_what_is_flat() -> None:
    good = made_up(FLAT, FLAT, [100.0] * 10)
    assert (good.linear, good.flat) == (True, True)
    busy = made_up(GROWING, FLAT, [100.0] * 10)  # another program took its share of the cores
    assert busy.linear
    assert not made_up(GROWING, GROWING, [100.0] * 10).linear
    leak = made_up(FLAT, FLAT, [100.0 + i for i in range(10)])
    assert leak.drift == pytest.approx(0.09)
    assert not leak.flat


def test_the_page_says_what_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = made_up(GROWING, GROWING, [100.0 + i for i in range(10)])
    monkeypatch.setattr(rollouts, "measure", lambda *_: bad)
    page = io.StringIO()
    assert rollouts.bench(bad.endurance, False, Console(file=page, width=160)) == 1
    assert page.getvalue().count("NOT HELD") == 2


def test_too_few_rollouts_is_one_sentence(tiny_base: Path) -> None:
    with pytest.raises(PedrlError, match="at least 40"):
        rollouts.measure(endurance(tiny_base, total=39), Progress(disable=True))
