"""Claims, task streams, budgets and tuning: what a comparison does around its runs."""

import dataclasses
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from pedrl_experiments.config import CompareConfig
from pedrl_experiments.loop import RunKey, _seed, _task_stream, run_one
from pedrl_experiments.runner import Job, check_ready, claim, compare, side_by_side
from pedrl_experiments.store import RunStore, read_rows
from pedrl_experiments.tune import trials_of, tune
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.lexicon import Lexicon

TASKS = Lexicon(coined=2).tasks("train")


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def small(base: Path, method: str, **changes: Any) -> CompareConfig:
    """Twelve steps of four rollouts."""
    config = CompareConfig(
        base=str(base),
        dials={"coined": 1},
        methods=(method,),
        settings={method: {"group_size": 2}},
        seeds=1,
        budget=49,
        tasks_per_step=2,
        eval_points=2,
        eval_tasks=3,
        eval_samples=2,
        final_tasks=4,
        final_samples=1,
        max_new_tokens=8,
        gates=False,
    )
    return dataclasses.replace(config, **changes)


def train(config: CompareConfig, folder: Path) -> list[tuple[int, int, float]]:
    heard: list[tuple[int, int, float]] = []
    key = RunKey(config.methods[0], 0)
    run_one(config, key, folder, lambda *news: heard.append(news))
    return heard


def values(folder: Path, name: str) -> list[float]:
    return [r["value"] for r in read_rows([folder], "metrics") if r["name"] == name]


def test_a_run_spends_its_budget_in_whole_steps(tiny_base: Path, tmp_path: Path) -> None:
    heard = train(small(tiny_base, "grpo"), tmp_path)
    assert [step for step, _, _ in heard] == [*range(1, 13), 12]
    assert {steps for _, steps, _ in heard} == {12}  # 49 rollouts pay for 12 steps of 4
    assert values(tmp_path, "budget/rollouts")[:12] == [4 * n for n in range(1, 13)]
    evaluated = [r for r in read_rows([tmp_path], "metrics") if r["name"] == "pass@1"]
    assert [r["step"] for r in evaluated] == [0, 4, 8, 12]
    assert [r["rollouts"] for r in evaluated] == [0, 16, 32, 48]
    sizes = Counter(r["step"] for r in read_rows([tmp_path], "results"))
    assert sizes == {0: 3, 4: 3, 8: 3, 12: 4}
    executions, hits = values(tmp_path, "budget/executions"), values(tmp_path, "budget/cache_hits")
    assert executions[-1] + hits[-1] == 48  # evaluation is charged to no budget
    wall = values(tmp_path, "time/total")
    assert wall == sorted(wall)
    assert wall[0] > 0
    parts = ("sampling", "verifying", "scoring", "learning", "evaluating")
    spent = sum(values(tmp_path, f"time/{part}")[-1] for part in parts)
    assert 0 < spent <= wall[-1]


def test_verifying_evaluations_is_charged_to_no_budget(tiny_base: Path, tmp_path: Path) -> None:
    for method in ("grpo", "opsd"):  # opsd has nothing else verified
        train(small(tiny_base, method, budget=8), tmp_path / method)
        spent, whole = (
            values(tmp_path / method, f"budget/{name}") for name in ("sandbox_cpu_s", "cpu_s")
        )
        assert (np.array(spent) < np.array(whole)).all()
        if method == "grpo":
            assert spent[0] > 0.0
        else:
            assert spent == pytest.approx([0.0] * len(spent), abs=1e-9)
    assert values(tmp_path / "opsd", "time/verifying")[-1] > 0.0  # the last one is waited for


def test_a_control_is_placed_by_what_its_steps_would_have_cost(
    tiny_base: Path, tmp_path: Path
) -> None:
    train(small(tiny_base, "oracle-sft"), tmp_path)
    assert values(tmp_path, "budget/rollouts")[-1] == 0
    assert values(tmp_path, "budget/demonstrations")[-1] == 24
    assert values(tmp_path, "budget/executions")[-1] == 0
    evaluated = [r for r in read_rows([tmp_path], "metrics") if r["name"] == "pass@1"]
    assert [r["rollouts"] for r in evaluated] == [0, 16, 32, 48]
    losses = values(tmp_path, "loss/student")
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_a_run_that_has_ended_is_left_alone(tiny_base: Path, tmp_path: Path) -> None:
    config = small(tiny_base, "grpo", budget=4)
    assert train(config, tmp_path) != []
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert train(config, tmp_path) == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_run_interrupted_anywhere_ends_the_same(tiny_base: Path, tmp_path: Path) -> None:
    """Stopped before and after its checkpoint at step 10, in this process."""
    config = small(tiny_base, "opsd")
    train(config, tmp_path / "whole")

    class Stop(Exception):
        pass

    for stop in (3, 11):

        def tell(step: int, steps: int, score: float, at: int = stop) -> None:
            if step == at:
                raise Stop

        with pytest.raises(Stop):
            run_one(config, RunKey("opsd", 0), tmp_path / "torn", tell)
    assert (tmp_path / "torn" / "checkpoint.pt").exists()
    train(config, tmp_path / "torn")
    for name in ("loss/student", "pass@1", "student/entropy", "budget/executions"):
        assert values(tmp_path / "torn", name) == values(tmp_path / "whole", name)
    weights = "final/model.safetensors"
    assert (tmp_path / "torn" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_another_seed_is_another_run(tiny_base: Path, tmp_path: Path) -> None:
    config = small(tiny_base, "opsd", budget=8)
    for seed in (0, 1):
        run_one(config, RunKey("opsd", seed), tmp_path / str(seed), lambda *news: None)
    one, other = (read_rows([tmp_path / str(s)], "trajectories") for s in (0, 1))
    assert [r["task"] for r in one] != [r["task"] for r in other]
    assert [r["text"] for r in one] != [r["text"] for r in other]


def test_a_run_has_the_threads_that_its_config_says(tiny_base: Path, tmp_path: Path) -> None:
    config, before = small(tiny_base, "opsd", threads=2), torch.get_num_threads()
    try:
        train(config, tmp_path / "a")
        assert torch.get_num_threads() == 2
        train(config, tmp_path / "b")
    finally:
        torch.set_num_threads(before)
    a, b = (values(tmp_path / name, "loss/student") for name in "ab")
    assert len(a) == 12
    assert a == b


def test_runs_side_by_side_have_cores_for_their_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def jobs(count: int, threads: int) -> list[Job]:
        return [Job(CompareConfig(threads=threads), RunKey("grpo", 0), tmp_path)] * count

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(5)))
    assert side_by_side(0, jobs(9, 1)) == 5
    assert side_by_side(0, jobs(9, 2)) == 2
    assert side_by_side(0, jobs(9, 8)) == 1  # one always fits
    assert side_by_side(0, jobs(3, 1)) == 3
    assert side_by_side(4, jobs(9, 2)) == 4  # as told


def test_task_stream_is_the_same_for_everyone_and_visits_every_task_once_an_epoch() -> None:
    def take(seed: int, batch: int, count: int) -> list[str]:
        stream = _task_stream(TASKS[:10], batch, seed)
        return [t.id for _ in range(count) for t in next(stream)]

    assert take(0, 3, 20) == take(0, 3, 20) != take(1, 3, 20)
    assert take(0, 3, 10) == take(0, 5, 6)  # how it is cut changes nothing
    epochs = take(0, 5, 6)
    for start in (0, 10, 20):
        assert sorted(epochs[start : start + 10]) == sorted(t.id for t in TASKS[:10])
    assert epochs[:10] != epochs[10:20]
    assert len(take(0, 25, 1)) == 25  # a batch may be larger than the task list


def test_seeds_are_independent_of_each_other() -> None:
    seeds = [_seed(p, s, t) for p in ("train", "evaluate") for s in range(5) for t in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)


def test_a_claim_is_made_once_and_kept(tmp_path: Path) -> None:
    config = CompareConfig(dials={"coined": 1})
    claim(config.to_json(), tmp_path / "out", "quick")
    path = tmp_path / "out" / "config.json"
    before = path.read_bytes()
    claim(config.to_json(), tmp_path / "out", "")
    for changes, message in (
        ({"dials": {"coined": 2}}, "dials is {'coined': 1} there, {'coined': 2} here"),
        ({"seeds": 4}, "seeds is 3 there, 4 here"),
        ({"methods": ("grpo",)}, "methods is"),
    ):
        other = dataclasses.replace(config, **changes)
        with pytest.raises(PedrlError, match="choose another --out") as caught:
            claim(other.to_json(), tmp_path / "out", "")
        assert message in str(caught.value)
    assert path.read_bytes() == before
    recorded = json.loads(before)
    assert recorded["preset"] == "quick"
    path.write_text("{")
    with pytest.raises(PedrlError, match=r"config.json is damaged"):
        claim(config.to_json(), tmp_path / "out", "")


def test_a_run_that_fails_ends_the_comparison_in_its_own_words(
    tiny_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = small(tiny_base, "grpo")
    store = RunStore(out / "runs" / "grpo-s0")
    store.checkpoint({"step": 1})
    store.close()
    (out / "runs" / "grpo-s0" / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(PedrlError, match=r"checkpoint.pt is damaged"):
        compare(config, out, workers=1, console=quiet())
    assert not (out / "summary.json").exists()


def test_ready_needs_tasks_a_checkpoint_and_a_sandbox(tiny_base: Path) -> None:
    check_ready(small(tiny_base, "grpo"))
    with pytest.raises(PedrlError, match="did you mean 'bwrap'"):
        check_ready(small(tiny_base, "grpo", sandbox="bwarp"))


def test_a_grid_is_a_cartesian_product_of_the_same_size_for_all() -> None:
    grid: dict[str, dict[str, list[Any]]] = {
        "grpo": {"learning_rate": [1e-3, 3e-3], "advantage": ["none", "group"]},
        "opsd": {"learning_rate": [1e-4, 1e-3, 3e-3, 1e-2]},
    }
    trials = trials_of(grid)
    assert {m: len(t) for m, t in trials.items()} == {"grpo": 4, "opsd": 4}
    assert {"learning_rate": 3e-3, "advantage": "none"} in trials["grpo"]
    with pytest.raises(PedrlError, match="same number of trials"):
        trials_of({**grid, "opsd": {"learning_rate": [1e-4]}})


@pytest.mark.slow
def test_tuning_chooses_on_validation_and_refuses_to_mix(tiny_base: Path, tmp_path: Path) -> None:
    config = small(tiny_base, "oracle-sft", budget=8)
    grid: dict[str, dict[str, list[Any]]] = {"oracle-sft": {"learning_rate": [1e-9, 1e-2]}}
    best = tune(config, grid, tmp_path, 1, quiet())
    plain = json.loads((tmp_path / "tuning.json").read_text())
    assert plain["config"]["eval_split"] == "validation"
    rows = read_rows(sorted((tmp_path / "trials").iterdir()), "results")
    assert {r["split"] for r in rows} == {"validation"}
    scores = {t["knobs"]["learning_rate"]: t["score"] for t in plain["trials"]}
    assert set(scores) == {1e-9, 1e-2}
    assert best["oracle-sft"].score == max(scores.values())
    assert plain["best"]["oracle-sft"]["group_size"] == 2  # settings that every trial keeps
    with pytest.raises(PedrlError, match=r"holds another comparison \(budget is 8 there, 16"):
        tune(dataclasses.replace(config, budget=16), grid, tmp_path, 1, quiet())


def test_a_run_that_diverges_ends_the_comparison_by_name(tiny_base: Path, tmp_path: Path) -> None:
    settings = {"oracle-sft": {"group_size": 2, "learning_rate": 1e36, "lr_warmup": 1}}
    config = small(tiny_base, "oracle-sft", settings=settings, eval_points=0)
    with pytest.raises(PedrlError, match="oracle-sft-s0: training diverged at update 2 of the stu"):
        compare(config, tmp_path, workers=1, console=quiet())
    assert not (tmp_path / "runs" / "oracle-sft-s0" / "done").exists()
    assert not (tmp_path / "summary.json").exists()
