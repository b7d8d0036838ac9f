"""`pedrl bench generate` on the tiny base: both sides sample, and what ours says is checked."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from pedrl_agents.torch_policy import Sampling, load_policy
from pedrl_env.records import GenerationRequest
from pedrl_experiments.bench import generate
from pedrl_experiments.bench.generate import OURS, PEER, Draw
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.lexicon import Lexicon


def draw(base: Path) -> Draw:
    return Draw("lexicon", {}, str(base), prompts=2, samples=3, tokens=6, threads=1)


def test_both_sides_sample_and_ours_is_exact(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = generate.bench(draw(tiny_base), 2, True, Console(file=io.StringIO()))
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["held"] else 1)
    assert report["speeds"].keys() == {OURS, PEER}
    for speed in report["speeds"].values():
        assert 1 <= speed["length"] <= 6
        assert speed["tokens_per_s"] > 0
    assert 0 < report["error"] < generate.EXACT
    assert report["repeatable"] is True
    assert report["floor"] == 2.5


def test_a_wrong_log_probability_is_seen(tiny_base: Path) -> None:
    policy = load_policy(tiny_base, Sampling(6), storage="shared")
    requests = [GenerationRequest(task, "student", 2) for task in Lexicon().tasks("train")[:2]]
    (first, *_), *_ = policy.generate(requests, 1)
    off = dataclasses.replace(first, logprobs=(first.logprobs[0] - 0.5, *first.logprobs[1:]))
    model = policy.models["student"]
    assert generate.largest_error(model, [first]) < generate.EXACT
    assert generate.largest_error(model, [off]) == pytest.approx(0.5, abs=1e-3)


def test_the_page_says_what_is_not_held(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = generate.measure(draw(tiny_base), 1, Progress(disable=True))
    page = io.StringIO()
    slow = dataclasses.replace(report, ratio=2.49, error=2e-4, repeatable=False)
    monkeypatch.setattr(generate, "measure", lambda *_: slow)
    assert generate.bench(draw(tiny_base), 1, False, Console(file=page, width=160)) == 1
    assert page.getvalue().count("NOT HELD") == 3


def test_too_many_prompts_is_one_sentence(tiny_base: Path) -> None:
    many = dataclasses.replace(draw(tiny_base), prompts=100_000)
    with pytest.raises(PedrlError, match="tasks, not 100000"):
        generate.measure(many, 1, Progress(disable=True))
