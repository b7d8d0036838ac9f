"""`pedrl bench train` on the tiny base: both sides really train, on the same work."""

import importlib.util
import io
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from pedrl_experiments import cli
from pedrl_experiments.bench import train, train_sides
from pedrl_experiments.bench.train_profile import Shares, Watch, covered
from pedrl_experiments.bench.train_sides import Lap, Race, prompt
from pedrl_experiments.config import CompareConfig
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.lexicon import Lexicon
from tests.tiny import tiny_policy


def race(base: Path) -> Race:
    config = CompareConfig(
        base=str(base),
        methods=("grpo",),
        settings={"grpo": {"learning_rate": 1e-3, "group_size": 4}},
        tasks_per_step=2,
        max_new_tokens=6,
        temperature=0.8,
        budget=sys.maxsize,
    )
    return Race(config, steps=2, rounds=1, threads=1, passes=2, attention="eager")


@pytest.mark.slow
def test_both_sides_train(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shortest = replace(race(tiny_base), steps=1)
    code = train.bench(shortest, True, Console(file=io.StringIO()))
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["held"] else 1)
    assert report["floor"] is None  # nothing is promised of this model
    ours, theirs = report["sides"][train.OURS], report["sides"][train.PEER]
    for side in (ours, theirs):
        assert side["rollouts_per_s"] > 0
        assert 1 <= side["length"] <= 6
        assert 0 <= side["pass_rate"] <= 1
        assert 0 <= side["idle"] <= 1
        assert sum(side["shares"].values()) == pytest.approx(1, abs=0.01)
    assert all(ours["shares"][part] > 0 for part in ("sampling", "learning"))
    assert all(theirs["shares"][part] > 0 for part in ("sampling", "verifying", "learning"))
    shares = report["overhead"]
    assert shares.pop("alone") < 1
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["operations"] > 0  # of a tiny model, beside real verdicts
    assert shares["between"] > 0


def test_trl_sees_the_same_prompts(tiny_base: Path) -> None:
    policy = tiny_policy(tiny_base, storage="shared")
    task = Lexicon().tasks("train")[0]
    assert tuple(policy.tokenizer(prompt(policy, task))["input_ids"]) == policy.prompt_ids(
        task, "student"
    )
    policy.prompt_ids = lambda task, role: (1, 2)  # type: ignore[method-assign]
    with pytest.raises(PedrlError, match="would encode the prompt"):
        prompt(policy, task)


def test_every_round_has_tasks_of_its_own(tiny_base: Path) -> None:
    batches = race(tiny_base).batches()
    assert [len(batch) for batch in batches] == [2] * 4
    assert len({task.id for batch in batches for task in batch}) == 8


def test_without_trl_it_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec

    def missing(name: str, package: str | None = None) -> Any:
        return None if name == "trl" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    monkeypatch.setattr(sys, "argv", ["pedrl", "bench", "train"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "trl is not installed here: run `pip install trl" in capsys.readouterr().err


def test_a_side_that_dies_is_one_sentence(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead:
        def send(self, word: str) -> None: ...

        def recv(self) -> Lap:
            raise EOFError

    with pytest.raises(PedrlError, match="the process of pedrl ended early"):
        train._lap(train.OURS, cast(Any, Dead()))


def test_the_profile_adds_up_overlapping_spans_once() -> None:
    assert covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4
    assert covered([]) == 0


def test_a_call_in_a_call_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 10.0, 15.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    watch = Watch()
    inner = watch.around(lambda x: x + 1)
    assert watch.around(lambda x: 2 * inner(x))(3) == 8  # from 0 to 3
    with pytest.raises(ZeroDivisionError):
        watch.around(lambda: 1 / 0)()  # from 10 to 15
    assert watch.seconds == 3 + 5


def test_the_page_says_what_is_not_held(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lap = Lap(2.0, 1.5, dict.fromkeys(train_sides.PARTS, 0.4), 16, 4.0, 80, 1.0)
    slow = train.Report(
        race(tiny_base),
        {name: train._side([lap], race(tiny_base)) for name in train.SIDES},
        [1.9],
        1.9,
        1.9,
        1.9,
        2.0,
        Shares(0.5, 0.2, 0.1, 0.2, 0.3),
    )
    monkeypatch.setattr(train, "measure", lambda *_: slow)
    page = io.StringIO()
    assert train.bench(slow.race, False, Console(file=page, width=160)) == 1
    assert page.getvalue().count("NOT HELD") == 2
    assert "20.0%" in page.getvalue()  # other
