"""Steps that cost what they must: rollouts asked for on sight, replay that survives a crash."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pedrl_env.records import GenerationRequest, Group, Task
from pedrl_experiments.config import CompareConfig
from pedrl_experiments.loop import Run, RunKey, run_one
from pedrl_experiments.sets import Value
from pedrl_experiments.store import RunStore, read_rows

SOLVABLE = "tests.e2e.canary_suite:CanarySuite"


def small(base: Path, method: str, knobs: Mapping[str, Value], budget: int = 48) -> CompareConfig:
    return CompareConfig(
        base=str(base),
        dials={"coined": 1},
        methods=(method,),
        settings={method: knobs},
        seeds=1,
        budget=budget,
        tasks_per_step=2,
        eval_points=2,
        eval_tasks=2,
        final_tasks=2,
        final_samples=1,
        max_new_tokens=8,
        gates=False,
    )


def train(config: CompareConfig, folder: Path, stop: int = 0) -> None:
    def tell(step: int, steps: int, score: float) -> None:
        if step == stop:
            raise InterruptedError

    run_one(config, RunKey(config.methods[0], 0), folder, tell)


def values(folder: Path, name: str) -> list[float]:
    return [r["value"] for r in read_rows([folder], "metrics") if r["name"] == name]


def test_privileged_rollouts_are_asked_for_charged_and_never_overrun_the_budget(
    tiny_base: Path, tmp_path: Path
) -> None:
    """The tiny base solves next to nothing, so nearly every task is one the student is blind on."""
    config = small(tiny_base, "hdpo", {"group_size": 2, "privileged": 3})
    train(config, tmp_path)
    rows = read_rows([tmp_path], "trajectories")
    roles = Counter(r["role"] for r in rows)
    assert roles["teacher"] > 0
    assert len(rows) == values(tmp_path, "budget/rollouts")[-1] <= 48
    steps = {r["step"] for r in rows}
    assert len(steps) < 12  # what it would do without follow-ups
    assert len(rows) > 48 - 2 * (2 + 3)  # and nothing that would have paid for a step is left
    evaluated = [r["rollouts"] for r in read_rows([tmp_path], "metrics") if r["name"] == "pass@1"]
    assert evaluated[0] == 0
    assert evaluated == sorted(set(evaluated))
    assert len(evaluated) == 4
    assert evaluated[-1] == len(rows)


def test_dropped_groups_are_charged_and_replaced_by_other_tasks(
    tiny_base: Path, tmp_path: Path
) -> None:
    config = small(tiny_base, "grpo", {"group_size": 2, "dynamic": 1}, budget=16)
    train(config, tmp_path)
    rows = read_rows([tmp_path], "trajectories")
    assert len(rows) == values(tmp_path, "budget/rollouts")[-1]
    first = [r["task"] for r in rows if r["step"] == 0]
    assert len(first) > 4
    plain = small(tiny_base, "grpo", {"group_size": 2}, budget=16)
    train(plain, tmp_path / "plain")
    before = [r for r in read_rows([tmp_path / "plain"], "trajectories") if r["step"] == 0]
    assert [r["task"] for r in before] == first[:4]  # the first ones are those of any other method
    assert [r["text"] for r in before] == [r["text"] for r in rows[:4]]


def test_a_follow_up_that_does_not_fit_is_not_sampled(tiny_base: Path, tmp_path: Path) -> None:
    config = small(tiny_base, "hdpo", {"group_size": 2, "privileged": 30}, budget=8)
    train(config, tmp_path)
    rows = read_rows([tmp_path], "trajectories")
    assert {r["role"] for r in rows} == {"student"}
    assert len(rows) == 8


def test_spare_tasks_differ_at_each_attempt_and_follow_the_seed(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pedrl_agents.algorithms.grpo import GRPO

    seen: list[list[str]] = []
    follow_up = GRPO.follow_up

    def noted(
        self: GRPO, groups: Sequence[Group], spare: Sequence[Task], attempt: int, state: object
    ) -> list[GenerationRequest]:
        seen.append([t.id for t in spare])
        return follow_up(self, groups, spare, attempt, state)  # type: ignore[arg-type]

    monkeypatch.setattr(GRPO, "follow_up", noted)
    config = small(tiny_base, "grpo", {"group_size": 2, "dynamic": 3}, budget=24)
    for n in (0, 1):
        train(config, tmp_path / str(n))
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    assert len(seen[0]) == 2
    assert seen[0] != seen[1]


def test_replay_survives_an_interruption(tiny_base: Path, tmp_path: Path) -> None:
    knobs: dict[str, Value] = {"group_size": 2, "warmup": 0, "replay": 3, "reward": "additive"}
    config = dataclasses.replace(small(tiny_base, "pedagogical", knobs), suite=SOLVABLE, dials={})
    train(config, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(config, tmp_path / "torn", stop=11)
    store = RunStore(tmp_path / "torn")
    run = Run(config, RunKey("pedagogical", 0), store)
    try:
        run._restore()
        assert run.step == 10
        assert run.evaluated > 1
        assert len(run.replay) == 3
    finally:
        run.close()
        store.close()
    train(config, tmp_path / "torn")
    weights = "final/model.safetensors"
    assert (tmp_path / "torn" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert values(tmp_path / "torn", "pass@1") == values(tmp_path / "whole", "pass@1")
