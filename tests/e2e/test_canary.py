"""A string planted in the privileged record reaches the teacher's prompts and nothing else."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from torch import Tensor

import pedrl_env  # noqa: F401  (registers the environments)
from pedrl_agents.forward import Pair
from pedrl_agents.learner import Learner, Normalisers
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_env.policy import Ended
from pedrl_env.records import GenerationRequest, Role, Signal, TokenScores, Turn
from pedrl_experiments import runner
from pedrl_experiments.config import CompareConfig
from pedrl_experiments.loop import run_one
from pedrl_experiments.runner import Job
from pedrl_sandbox.registry import SANDBOXES
from tests.e2e.canary_suite import CANARIES, RecordingSandbox, canaries_in

SUITE = "tests.e2e.canary_suite:CanarySuite"
METHODS = (
    "pedagogical",
    "grpo",
    "opsd",
    "rejection-sft",
    "sdpo",
    "jolt",
    "hdpo",
)
UNJUDGED = {"opsd"}
SMALL = {"group_size": 2}


@dataclass
class Read:
    """Every prompt that the weights of a role were given, by what for."""

    prompts: dict[tuple[Role, str], set[tuple[int, ...]]] = field(default_factory=dict)
    tokenizer: Any = None

    def note(self, role: Role, purpose: str, prompts: Sequence[tuple[int, ...]]) -> None:
        self.prompts.setdefault((role, purpose), set()).update(prompts)

    def texts(self, role: Role, purpose: str) -> list[str]:
        return [self.tokenizer.decode(list(p)) for p in self.prompts.get((role, purpose), ())]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Note what `generate`, `score` and the learner are given, and pass it on unchanged."""
    seen = Read()
    generate, score, loss = TorchPolicy.generate, TorchPolicy.score, Learner._loss

    def noted_generate(
        self: TorchPolicy,
        requests: Sequence[GenerationRequest],
        seed: int,
        ended: Ended | None = None,
    ) -> list[list[Turn]]:
        seen.tokenizer = self.tokenizer
        turns = generate(self, requests, seed, ended)
        for request, group in zip(requests, turns, strict=True):
            seen.note(request.role, "generate", [t.prompt_ids for t in group])
        return turns

    def noted_score(self: TorchPolicy, role: Role, pairs: Sequence[Pair]) -> list[TokenScores]:
        seen.note(role, "score", [prompt for prompt, _ in pairs])
        return score(self, role, pairs)

    def noted_loss(self: Learner, role: Role, signals: list[Signal], norms: Normalisers) -> Tensor:
        for signal in signals:  # by view: shared weights learn under both
            seen.note(signal.learner, "learn", [signal.prompt_ids])
        seen.note(
            "teacher", "target", [s.teacher_prompt_ids for s in signals if s.teacher_prompt_ids]
        )
        return loss(self, role, signals, norms)

    monkeypatch.setattr(TorchPolicy, "generate", noted_generate)
    monkeypatch.setattr(TorchPolicy, "score", noted_score)
    monkeypatch.setattr(Learner, "_loss", noted_loss)
    return seen


def test_canaries_of_a_whole_comparison(
    tiny_base: Path,
    tmp_path: Path,
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def one_after_another(jobs: Sequence[Job], workers: int, console: Console) -> None:
        """The same runs in this process, where they can be watched."""
        for job in jobs:
            run_one(
                job.config,
                job.key,
                job.folder,
                lambda step, steps, score: console.print(f"{step}/{steps} {score}"),
            )

    monkeypatch.setattr(runner, "run_all", one_after_another)
    monkeypatch.setitem(SANDBOXES, "recording", "tests.e2e.canary_suite:RecordingSandbox")
    monkeypatch.setattr(RecordingSandbox, "jobs", [])
    settings: dict[str, dict[str, Any]] = {m: dict(SMALL) for m in METHODS}
    settings["pedagogical"] |= {"warmup": 1, "replay": 4}
    config = CompareConfig(
        suite=SUITE,
        base=str(tiny_base),
        methods=METHODS,
        settings=settings,
        seeds=1,
        budget=44,
        tasks_per_step=2,
        eval_points=1,
        eval_tasks=3,
        eval_samples=1,
        final_tasks=3,
        final_samples=1,
        max_new_tokens=6,
        context=("solution", "tests", "notes", "feedback"),
        sandbox="recording",
        gates=False,
    )
    out = tmp_path / "out"
    shown = io.StringIO()
    runner.compare(config, out, console=Console(file=shown, width=200))

    # The teacher does see them, so the rest of this test can fail; the derivation is no one's.
    for purpose in ("generate", "learn", "target"):
        told = {name for text in read.texts("teacher", purpose) for name in canaries_in(text)}
        assert told == {"solution", "tests", "notes", "feedback"}, purpose
    for purpose in ("generate", "score", "learn"):
        texts = read.texts("student", purpose)
        assert texts, purpose
        assert [t for t in texts if canaries_in(t)] == []
        assert {t.split("\n")[0] for t in texts} == {"def f(x):"}

    assert len(RecordingSandbox.jobs) > 50
    assert [job for job in RecordingSandbox.jobs if canaries_in(job)] == []

    files = [p for p in out.rglob("*") if p.is_file()]
    kinds = {p.suffix for p in files}
    assert kinds >= {".json", ".jsonl", ".parquet", ".png", ".html", ".safetensors", ".pt"}
    assert [str(p) for p in files if canaries_in(p.read_bytes())] == []
    for table in ("metrics.parquet", "results.parquet"):  # compressed: look inside as well
        values = pd.read_parquet(out / table).astype(str).to_numpy()
        assert canaries_in("\n".join(np.ravel(values))) == []

    printed = capfd.readouterr()
    assert canaries_in(printed.out + printed.err + shown.getvalue()) == []
    imitated = {json_line for m in METHODS for json_line in _passed(out, m)}
    assert imitated == {*METHODS} - UNJUDGED  # all that are judged met rollouts that passed


def _passed(out: Path, method: str) -> list[str]:
    rows = pd.read_json(out / "runs" / f"{method}-s0" / "trajectories.jsonl", lines=True)
    return [method] if (rows["status"] == "passed").any() else []


def test_canaries_of_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SANDBOXES, "recording", "tests.e2e.canary_suite:RecordingSandbox")
    monkeypatch.setattr(RecordingSandbox, "jobs", [])
    env = gymnasium.make("pedrl/lexicon-v0", suite=SUITE, sandbox="recording", render_mode="ansi")
    try:
        public: list[Any] = []
        for seed in range(3):
            observation, info = env.reset(seed=seed)
            secrets = info["privileged"]
            assert all(canaries_in(getattr(secrets, name)) == [name] for name in CANARIES)
            public += [observation, env.render(), info, repr(secrets), str(secrets)]
            public += [str(env.unwrapped), repr(vars(env.unwrapped))]
            public += [*env.step(f"nothing {seed}\n"), env.render()]
        assert canaries_in("\n".join(str(p) for p in public)) == []
        assert len(RecordingSandbox.jobs) == 3
        assert canaries_in("\n".join(RecordingSandbox.jobs)) == []
    finally:
        env.close()
