"""Summaries of tables whose answers are known: by construction, or worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from pedrl_experiments.summary import summarize
from pedrl_experiments.tables import print_summary
from pedrl_experiments.verdict import caveats
from pedrl_sandbox import PedrlError
from tests.experiments.conftest import BuildRun

TASKS = 4


def write_exact(
    out: Path, curves: dict[str, list[list[int]]], *, copies: int = 1, **config: object
) -> Path:
    """Curves as tasks solved (of 4) at rollouts 0, 100, 200, 300, 400; one list per seed.

    With ``copies`` every task stands that many times under other names.

    A curve cut short is a run that did not finish. Every task is sampled twice.
    """
    rows = [
        {"run": f"{method}-s{seed}", "method": method, "seed": seed, "step": step}
        | {"rollouts": 100 * step, "split": "test", "task_id": f"t{task}-{copy}", "samples": 2}
        | {"correct": 2 * (task < solved)}
        for method, seeds in curves.items()
        for seed, curve in enumerate(seeds)
        for step, solved in enumerate(curve)
        for task in range(TASKS)
        for copy in range(copies)
    ]
    columns = ["run", "method", "seed", "step", "rollouts", "tokens", "wall_s", "split", "name"]
    settings = {"suite": "lexicon", "methods": list(curves), "budget": 400}
    settings["seeds"] = max(map(len, curves.values()))
    pd.DataFrame(rows).to_parquet(out / "results.parquet")
    pd.DataFrame(columns=[*columns, "value"]).to_parquet(out / "metrics.parquet")
    (out / "config.json").write_text(json.dumps(settings | config), encoding="utf-8")
    return out


@pytest.fixture
def exact(tmp_path: Path) -> dict[str, Any]:
    write_exact(
        tmp_path,
        {
            # reaches 50% at 100, 200 and 300; the last also only 2 of 4
            "pedagogical": [[0, 2, 4, 4, 4], [0, 0, 2, 4, 4], [0, 0, 0, 2, 2]],
            "grpo": [[0, 0, 0, 0, 2], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]],
        },
    )
    return summarize(tmp_path)


def test_final_scores_by_hand(exact: dict[str, Any]) -> None:
    final = exact["methods"]["pedagogical"]["final"]
    assert final["per_seed"] == {"0": 1.0, "1": 1.0, "2": 0.5}
    assert final["mean"]["value"] == pytest.approx(2.5 / 3, abs=1e-6)
    assert final["iqm"]["value"] == pytest.approx((0.25 * 0.5 + 1 + 0.25) / 1.5, abs=1e-6)
    assert final["iqm"]["low"] < final["iqm"]["value"] <= final["iqm"]["high"]
    assert final["iqm"]["over"] == "seeds and tasks"
    assert list(final["pass@k"]) == ["1", "2"]
    assert exact["base"]["value"] == 0.0
    assert exact["complete"]
    assert exact["warnings"] == []
    assert exact["tasks"] == TASKS


def test_rollouts_to_threshold_with_censoring_by_hand(exact: dict[str, Any]) -> None:
    pedagogical = exact["methods"]["pedagogical"]["to_threshold"]
    # seeds reach 25% at 50, 150, 250 and 50% at 100, 200, 300; 75% at 150, 250 and never
    assert pedagogical["0.25"]["value"] == pytest.approx(150)
    assert pedagogical["0.5"]["value"] == pytest.approx(200)
    assert pedagogical["0.75"]["value"] == pytest.approx(250)
    assert pedagogical["0.75"]["reached_by"] == "2 of 3 seeds"
    assert pedagogical["0.75"]["high"] is None
    assert pedagogical["0.75"]["interval_text"].endswith("> 400")
    grpo = exact["methods"]["grpo"]["to_threshold"]
    assert grpo["0.25"]["value"] == pytest.approx(350)  # 350, 300 and never
    assert (grpo["0.5"]["value"], grpo["0.5"]["text"]) == (None, "> 400")


def test_speed_up_against_grpo_by_hand(exact: dict[str, Any]) -> None:
    speed_up = exact["methods"]["pedagogical"]["speed_up"]
    assert speed_up["0.5"]["bound"] == "at least"
    assert speed_up["0.5"]["text"] == "≥ 2.0×"  # grpo: > 400, pedagogical: 200
    assert exact["methods"]["grpo"]["speed_up"] is None
    assert math.isclose(speed_up["0.75"]["value"], 1.6)


def test_area_of_a_constant_curve_is_its_height(tmp_path: Path) -> None:
    write_exact(tmp_path, {"grpo": [[1] * 5, [1] * 5], "opsd": [[0] * 5, [4] * 5]})
    methods = summarize(tmp_path)["methods"]
    assert methods["grpo"]["aulc"]["value"] == pytest.approx(0.25)
    assert methods["opsd"]["aulc"]["value"] == pytest.approx(0.5)


def test_unfinished_and_missing_seeds_are_flagged_and_left_out(tmp_path: Path) -> None:
    write_exact(tmp_path, {"grpo": [[0, 0, 1, 2, 2], [0, 4]], "opsd": [[0] * 5]}, seeds=3)
    summary = summarize(tmp_path)
    grpo = summary["methods"]["grpo"]
    assert (grpo["seeds"], grpo["unfinished"], grpo["missing"]) == ([0], [1], [2])
    assert grpo["final"]["iqm"]["value"] == 0.5
    assert grpo["final"]["iqm"]["over"] == "tasks only (one seed)"
    assert not summary["complete"]
    assert "grpo: unfinished seed 1 (left out of the scores)" in summary["warnings"]
    assert summary["methods"]["opsd"]["missing"] == [1, 2]


def test_runs_that_all_stopped_early_are_summarised_at_what_they_share(tmp_path: Path) -> None:
    write_exact(tmp_path, {"grpo": [[0, 1, 2], [0, 1]]})
    grpo = summarize(tmp_path)["methods"]["grpo"]
    assert grpo["last_budget"] == 100
    assert grpo["unfinished"] == [0, 1]
    assert grpo["aulc"] is None  # an area over a budget that was not spent would be invented
    assert grpo["to_threshold"]["0.5"]["text"] == "> 100"


def test_a_rewritten_evaluation_counts_once(tmp_path: Path) -> None:
    write_exact(tmp_path, {"grpo": [[0, 0, 0, 0, 4]]})
    before = summarize(tmp_path)
    results = pd.read_parquet(tmp_path / "results.parquet")
    pd.concat([results.assign(correct=0), results]).to_parquet(tmp_path / "results.parquet")
    assert summarize(tmp_path) == before


def test_gates_from_this_comparison_from_the_config_or_not_run(tmp_path: Path) -> None:
    write_exact(tmp_path, {"oracle-sft": [[0, 1, 2, 2, 4]], "reference-sft": [[0, 1, 1, 1, 1]]})
    gates = summarize(tmp_path)["gates"]
    assert (gates["oracle-sft"]["status"], gates["oracle-sft"]["gain"]["value"]) == ("passed", 1.0)
    assert gates["reference-sft"]["status"] == "failed"  # 25 points: no leap to bridge
    write_exact(
        tmp_path,
        {"grpo": [[0, 0, 0, 0, 1]]},
        gates={"oracle-sft": {"base": 0.01, "final": 0.2}},
    )
    summary = summarize(tmp_path)
    assert summary["gates"]["oracle-sft"]["status"] == "failed"
    assert summary["gates"]["oracle-sft"]["source"] == "a separate gate run"
    assert summary["gates"]["reference-sft"]["status"] == "not run"
    assert any("Gate failed" in sentence for sentence in summary["verdict"])


def test_the_verdict_follows_the_intervals(tmp_path: Path) -> None:
    strong, weak = [[0, 4, 4, 4, 4]] * 3, [[0, 0, 0, 0, 0]] * 3
    methods = {"pedagogical": strong, "grpo": weak, "oracle-sft": strong}
    write_exact(tmp_path, methods, copies=25)
    verdict = summarize(tmp_path)["verdict"]
    # all 100 tasks passed: an exact bound, 0.025 ** (1/100), not an interval of zero width
    assert verdict[0].startswith("pedagogical is ahead: 100.0% [96.4, 100.0]")
    assert verdict[0].endswith("100.0 points [92.8, 100.0].")
    assert "do not overlap" in verdict[0]
    assert "grpo cannot be told from it" in verdict[1]
    write_exact(tmp_path, {"pedagogical": weak, "grpo": strong}, copies=25)
    assert summarize(tmp_path)["verdict"][0].startswith("grpo is ahead")
    mixed = [[0, 0, 1, 1, 2], [0, 0, 1, 1, 1], [0, 0, 1, 1, 3]]
    write_exact(tmp_path, {"pedagogical": mixed, "grpo": mixed[::-1]})
    assert summarize(tmp_path)["verdict"][0].startswith("No clear winner")


def test_budgets_are_medians_over_seeds_and_demonstrations_give_the_axis(
    build_run: BuildRun,
) -> None:
    out = build_run(methods=("grpo", "oracle-sft"), seeds=3, tasks=20)
    methods = summarize(out)["methods"]
    assert methods["grpo"]["budget"]["rollouts"] == 10_240
    assert methods["grpo"]["verifying_share"] == pytest.approx(0.15)
    assert methods["grpo"]["verifying_cpu_share"] == pytest.approx(0.25)
    assert methods["oracle-sft"]["budget"]["demonstrations"] == 10_240
    assert methods["oracle-sft"]["axis"] == "demonstrations"
    assert methods["oracle-sft"]["last_budget"] == 10_240
    assert methods["oracle-sft"]["speed_up"] is None
    with (console := Console(width=120)).capture() as captured:
        print_summary(summarize(out), console)
    assert "verifying, all methods: 15.0% of wall time" in captured.get()


def test_twelve_methods_ten_seeds_and_a_written_file_without_nan(build_run: BuildRun) -> None:
    names = tuple(f"method-{i}" for i in range(12))
    out = build_run(methods=names, seeds=10, tasks=15, steps=8, eval_every=4)
    summary = summarize(out)
    text = (out / "summary.json").read_text(encoding="utf-8")
    assert json.loads(text) == summary
    assert "NaN" not in text
    assert "Infinity" not in text
    assert len(summary["comparisons"]) == 66
    assert not list(out.glob("*.tmp"))


@pytest.mark.parametrize("name", ["config.json", "metrics.parquet", "results.parquet"])
def test_a_missing_or_corrupt_file_is_one_clear_sentence(build_run: BuildRun, name: str) -> None:
    out = build_run(methods=("grpo",), seeds=1, tasks=5, steps=2, eval_every=1)
    (out / name).write_bytes(b"not what it should be")
    with pytest.raises(PedrlError, match=name):
        summarize(out)
    (out / name).unlink()
    with pytest.raises(PedrlError, match=name):
        summarize(out)
    assert not (out / "summary.json").exists()


def test_a_comparison_without_test_results_is_refused(build_run: BuildRun) -> None:
    out = build_run(methods=("grpo",), seeds=1, tasks=5, steps=2, eval_every=1)
    results = pd.read_parquet(out / "results.parquet").assign(split="validation")
    results.to_parquet(out / "results.parquet")
    with pytest.raises(PedrlError, match="no result on the test split"):
        summarize(out)


def test_a_comparison_made_for_choosing_settings_says_so(build_run: BuildRun) -> None:
    out = build_run(
        methods=("grpo",), seeds=1, tasks=5, steps=2, config={"eval_split": "validation"}
    )
    results = pd.read_parquet(out / "results.parquet").assign(split="validation")
    results.to_parquet(out / "results.parquet")
    summary = summarize(out)
    assert summary["split"] == "validation"
    assert any("for choosing settings" in sentence for sentence in caveats(summary))


def test_a_larger_final_evaluation_counts_whole_and_curves_use_what_is_shared(
    tmp_path: Path,
) -> None:
    write_exact(tmp_path, {"grpo": [[0, 1, 2, 3, 4]], "opsd": [[0, 0, 0, 0, 1]]})
    results = pd.read_parquet(tmp_path / "results.parquet")
    few = results["task_id"].isin(["t0-0", "t1-0"]) | (results["step"] == 4)
    results[few].to_parquet(tmp_path / "results.parquet")
    summary = summarize(tmp_path)
    assert (summary["tasks"], summary["curve_tasks"]) == (4, 2)
    opsd = summary["methods"]["opsd"]
    assert opsd["final"]["mean"]["value"] == 0.25
    assert opsd["gain"]["value"] == 0.5  # on the two tasks of the base
    assert opsd["to_threshold"]["0.5"]["value"] == 400
    assert any("use the 2 tasks of every evaluation" in sentence for sentence in caveats(summary))


def test_evaluations_lost_to_infrastructure_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    write_exact(tmp_path, {"grpo": [[0, 1, 2, 3, 3]]})
    results = pd.read_parquet(tmp_path / "results.parquet")
    lost = (results["step"] == 4) & (results["task_id"] == "t3-0")
    results.loc[lost, "samples"] = 0
    results.to_parquet(tmp_path / "results.parquet")
    summary = summarize(tmp_path)
    assert summary["methods"]["grpo"]["final"]["mean"]["value"] == 1.0
    assert summary["tasks"] == 3
    assert any("infrastructure" in warning for warning in summary["warnings"])


def test_a_control_placed_by_cost_says_that_it_sampled_nothing(build_run: BuildRun) -> None:
    out = build_run(methods=("grpo", "oracle-sft"), seeds=2, tasks=10)
    results = pd.read_parquet(out / "results.parquet")
    results["rollouts"] = 128 * results["step"]
    results.to_parquet(out / "results.parquet")
    methods = summarize(out)["methods"]
    assert methods["grpo"]["axis"] == "rollouts"
    assert methods["oracle-sft"]["axis"] == "rollout equivalents"
    assert methods["oracle-sft"]["speed_up"] is None
    assert methods["oracle-sft"]["aulc"] is not None


def test_runs_that_mark_their_end_are_believed(tmp_path: Path) -> None:
    write_exact(tmp_path, {"grpo": [[0, 0, 1, 2, 2], [0, 4, 4, 4, 4]]})
    for seed in (0, 1):
        (tmp_path / "runs" / f"grpo-s{seed}").mkdir(parents=True)
    (tmp_path / "runs" / "grpo-s0" / "done").touch()
    assert summarize(tmp_path)["methods"]["grpo"]["unfinished"] == [1]
