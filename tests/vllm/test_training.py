"""Training with vLLM sampling and torch learning: real base model, real tasks, real sandbox."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pedrl_agents.vllm_engine import VllmEngine
from pedrl_experiments.config import CompareConfig, build_method
from pedrl_experiments.loop import RunKey, run_one
from pedrl_experiments.store import read_rows
from tests.vllm.compare import compare_grpo

STEPS = 3
SMALL: dict[str, Any] = {
    "dials": {"coined": 1},
    "settings": {
        "grpo": {"group_size": 8, "policy_loss.truncation": 2.0},
        "pedagogical": {"warmup": 0},
    },
    "seeds": 1,
    "tasks_per_step": 4,
    "eval_points": 0,
    "eval_tasks": 8,
    "final_tasks": 8,
    "final_samples": 2,
    "gates": False,
    "backend": "vllm",
}


def config(method: str) -> CompareConfig:
    size = build_method(method, SMALL["settings"][method])[0].group_size
    return CompareConfig.from_json({**SMALL, "methods": [method], "budget": STEPS * 4 * size})


@pytest.mark.parametrize("method", ["grpo", "pedagogical"])
def test_a_few_steps(engine: VllmEngine, tmp_path: Path, method: str) -> None:
    before = engine.syncs
    runs = [tmp_path / name for name in ("first", "again")]
    for folder in runs:
        run_one(config(method), RunKey(method, 0), folder, lambda *news: None)
    rows, again = (pd.DataFrame(read_rows([folder], "metrics")) for folder in runs)
    learner = "teacher" if method == "pedagogical" else "student"
    found = rows[rows["name"] == f"mismatch/{learner}_max"]
    print(f"{method}: mismatch of steps {found['value'].tolist()}")  # noqa: T201
    assert len(found) >= 2
    assert found["value"].max() < 1e-4
    assert (rows["name"] == f"loss/{learner}").sum() >= 2
    # Each step moved weights, and vLLM took them up before it sampled again.
    assert engine.syncs - before >= 2 * STEPS
    # The sandbox judged what vLLM wrote: the base solves some of these tasks, and not all.
    score = rows[rows["name"] == "pass@1"]["value"]
    assert len(score) == 2
    assert 0 < score.iloc[0] < 1
    # Same seed, same run, to the last bit.
    told = ~rows["name"].str.startswith(("time/", "budget/"))
    assert rows[told]["value"].tolist() == again[told]["value"].tolist()


def test_the_command(base: Path, tmp_path: Path) -> None:
    preset = tmp_path / "small.toml"
    preset.write_text(
        'suite = "lexicon"\nseeds = 1\nbudget = 64\ntasks_per_step = 4\neval_points = 0\n'
        "eval_tasks = 4\nfinal_tasks = 4\ndials = { coined = 1 }\n"
        "[vllm]\nmax_num_seqs = 16\n[settings.grpo]\ngroup_size = 8\n"
    )
    metrics = compare_grpo(preset, tmp_path / "out", "--backend", "vllm")
    kept = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (kept["backend"], kept["vllm"]) == ("vllm", {"max_num_seqs": 16})
    assert metrics[metrics["name"] == "mismatch/student_max"]["value"].max() < 1e-4
