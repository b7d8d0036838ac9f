"""Two processes on a CPU do what one does: the same tokens, scores, updates, curves."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from pedrl_agents.distributed import Streams, joined, world
from pedrl_agents.torch_policy import Sampling, load_policy
from pedrl_env.records import Group, TokenScores
from pedrl_experiments.store import read_rows
from tests.agents import sharded
from tests.processes import run_processes

STEP = """
suite = "lexicon"
base = "{base}"
dials = {{ coined = 1 }}
methods = ["pedagogical"]
seeds = 1
budget = 104
tasks_per_step = 2
eval_points = 1
eval_tasks = 3
eval_samples = 2
final_tasks = 5
final_samples = 1
max_new_tokens = 8
gates = false
[settings.pedagogical]
group_size = 4
warmup = 1
tokens_per_batch = 256
"""


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="module")
def together(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes left behind."""
    out = tmp_path_factory.mktemp("together")
    for target in (sharded.train_together, sharded.held, sharded.sample_together):
        codes = run_processes(2, target, tiny_base, out, log=out / "log")
        assert codes == [0, 0], (out / "log").read_text()
    return out


@pytest.mark.parametrize("name", sharded.CASES)
def test_updates_are_those_of_one_process(tiny_base: Path, together: Path, name: str) -> None:
    ours = load(together / f"{name}.pt")
    before = sharded.learner_of(tiny_base, name)[0].state()
    theirs = sharded.train(tiny_base, name)
    then = sharded.train(tiny_base, name, copy.deepcopy(theirs))
    for left, wanted in zip(ours, (theirs, then), strict=True):
        for mine, other in zip(left.metrics, wanted.metrics, strict=True):
            assert mine == pytest.approx(other, rel=1e-4, abs=1e-6)
        for role, weights in wanted.models.items():
            assert apart(left.models[role], weights) < 1e-5
            assert apart(before[role], weights) > 1e-4
        for role, optimizer in wanted.learner["optimizers"].items():
            for i, state in optimizer["state"].items():
                assert apart(left.learner["optimizers"][role]["state"][i], state) < 1e-5


def test_each_process_holds_half(together: Path) -> None:
    both = [load(together / f"held{rank}.pt") for rank in (0, 1)]
    for role in ("student", "teacher"):
        for kind in ("weights", "gradients", "moments"):
            mine, theirs = (counts[role][kind] for counts in both)
            assert mine + theirs == both[0][role]["all"]
            assert mine < 0.6 * (mine + theirs)


def test_tokens_do_not_depend_on_the_number_of_processes(tiny_base: Path, together: Path) -> None:
    alone = together / "alone"
    alone.mkdir()
    assert run_processes(1, sharded.sample_together, tiny_base, alone, log=alone / "log") == [0]
    files = [alone / "sampled0.pt", together / "sampled0.pt", together / "sampled1.pt"]
    everyone = [load(file) for file in files]
    groups: list[list[Group]] = [sampled for sampled, _ in everyone]
    for left, right in ((0, 1), (1, 2)):
        for mine, other in zip(groups[left], groups[right], strict=True):
            assert (mine.task.id, mine.role) == (other.task.id, other.role)
            assert [t.turns[0].action_ids for t in mine.trajectories] == [
                t.turns[0].action_ids for t in other.trajectories
            ]
            assert [t.verdict for t in mine.trajectories] == [t.verdict for t in other.trajectories]
            assert [t.group for t in mine.trajectories] == [t.group for t in other.trajectories]
    answers = {t.turns[0].action_ids for g in groups[0] for t in g.trajectories}
    assert len(answers) > 5  # no two rows share their draws
    scores: list[list[TokenScores]] = [read for _, read in everyone]
    for one in scores[1:]:
        for a, b in zip(scores[0], one, strict=True):
            assert np.allclose(a.logprobs, b.logprobs, atol=1e-5)
    # An adapter is merged into what is saved, and that gives the log-probabilities sampled with.
    saved = load_policy(together / "saved", Sampling(), "shared")
    sampled = groups[1][2].trajectories[0].turns[0]
    (score,) = saved.score("student", [(sampled.prompt_ids, sampled.action_ids)])
    assert np.allclose(score.logprobs, sampled.logprobs, atol=1e-4)
    config = json.loads((together / "saved" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert AutoModelForCausalLM.from_pretrained(together / "saved") is not None


def test_a_process_group_that_somebody_else_made_is_not_ours(tmp_path: Path) -> None:
    alone = f"file://{tmp_path}/group"  # vLLM makes one of this size
    dist.init_process_group("gloo", init_method=alone, rank=0, world_size=1)
    try:
        assert (joined(), world()) == (False, 1)
    finally:
        dist.destroy_process_group()


def test_draws_are_those_of_splitmix64() -> None:
    def draw(seed: int, count: int) -> float:
        mask = 2**64 - 1
        x = (seed + (count + 1) * 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return ((x ^ (x >> 31)) >> 11) / 2**53

    seeds = [0, 1, 2**63 + 5, 2**64 - 1]
    streams = Streams(seeds, torch.device("cpu"))
    for count in range(40):
        ours = streams(np.array([3, 1, 2, 0]))[:, 0].tolist()
        assert ours == [draw(seeds[i], count) for i in (3, 1, 2, 0)]


@pytest.mark.parametrize("failing", [(1,), (0, 1)])
def test_a_failure_is_said_once_and_ends_all(tmp_path: Path, failing: tuple[int, ...]) -> None:
    codes = run_processes(2, sharded.fail, failing, log=tmp_path / "log")
    assert codes == [2, 2]
    said = (tmp_path / "log").read_text()
    assert said.count("pedrl: no luck: try again") == 1
    assert "Traceback" not in said


def test_a_process_that_is_killed_is_missed(tmp_path: Path) -> None:
    codes = run_processes(2, sharded.fail, (), True, log=tmp_path / "log")
    assert codes == [2, -signal.SIGKILL]
    said = (tmp_path / "log").read_text()
    assert said.count("another process of this run was killed") == 1
    assert "Traceback" not in said


def test_only_compare_runs_in_several_processes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run_processes(2, sharded.command, ["methods"], log=log) == [2, 2]
    assert log.read_text().count("runs in one process") == 1


def curve(out: Path, name: str) -> list[tuple[object, ...]]:
    rows = read_rows([out / "runs" / "pedagogical-s0"], name)
    if name == "metrics":
        rows = [r for r in rows if not r["name"].startswith(("time/", "budget/"))]
    rounded = ("wall_s", "logprobs")
    return [tuple(v for k, v in row.items() if k not in rounded) for row in rows]


def test_a_killed_comparison_resumes_with_another_number_of_processes(
    tiny_base: Path, tmp_path: Path
) -> None:
    """A real launcher starts two; one is killed after the first checkpoint; one goes on alone."""
    preset = tmp_path / "step.toml"
    preset.write_text(STEP.format(base=tiny_base))
    words = ["compare", "--preset", str(preset), "--out"]
    out, wanted = tmp_path / "out", tmp_path / "wanted"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = ["-m", "pedrl_experiments.cli", *words, str(out)]
    launched = subprocess.Popen(
        [sys.executable, *launcher, *program], stderr=subprocess.PIPE, text=True
    )
    try:
        until = time.monotonic() + 120
        while not (out / "runs" / "pedagogical-s0" / "checkpoint.pt").exists():
            assert launched.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text()
        os.kill(int(children.split()[1]), signal.SIGKILL)
        said = launched.communicate(timeout=60)[1]
    finally:
        launched.terminate()
    assert launched.returncode != 0
    assert "SIGKILL" in said  # the launcher says it

    assert run_processes(1, sharded.command, [*words, str(out)], log=tmp_path / "log") == [0]
    assert run_processes(1, sharded.command, [*words, str(wanted)], log=tmp_path / "log") == [0]
    for name in ("results", "trajectories"):
        assert curve(out, name) == curve(wanted, name)
    for mine, other in zip(curve(out, "metrics"), curve(wanted, "metrics"), strict=True):
        assert mine[:-1] == other[:-1]
        assert mine[-1] == pytest.approx(other[-1], rel=1e-3, abs=1e-6)
    assert (out / "report.html").exists()
