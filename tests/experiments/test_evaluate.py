"""`pedrl evaluate` of checkpoints and servers: numbers, what is kept, kills, faults, secrets."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pedrl_env.registry import make_suite
from pedrl_experiments import cli
from pedrl_experiments.evaluate_run import ranks, score
from pedrl_experiments.evaluate_store import Rollout
from pedrl_sandbox.errors import PedrlError
from pedrl_sandbox.registry import SANDBOXES
from tests.e2e.canary_suite import RecordingSandbox, canaries_in
from tests.openai_server import Server, serving
from tests.tiny import make_task

TASKS = make_suite("starter").tasks("test")


def model(prompt: str, seed: int) -> str:
    """Solves every second task of `starter`, two times in three, in the manner of a chat."""
    number = next(n for n, t in enumerate(TASKS) if t.prompt.rstrip() in prompt)
    good = number % 2 == 0 and seed % 3 != 0
    task = TASKS[number]
    code = task.prompt + task.privileged.solution if good else "def nothing():\n    pass\n"
    return f"Here it is:\n\n```python\n{code}```\n\nIt works."


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(model) as running:
        yield running


class Pedrl:
    """The command line, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Return (exit code, stdout, stderr)."""
        self.monkeypatch.setattr(sys, "argv", ["pedrl", "evaluate", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = self.capfd.readouterr()
        return code, captured.out, captured.err


@pytest.fixture
def pedrl(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Pedrl:
    return Pedrl(monkeypatch, capfd)


def asked(server: Server, *more: str, samples: int = 3, limit: int = 10) -> list[str]:
    size = ["--samples", str(samples), "--limit", str(limit)]
    policy = f"openai:{server.url}#some/model"
    return ["--suite", "starter", "--policy", policy, *size, "--retries", "3", *more]


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "trajectories.jsonl").read_text().splitlines()]


def test_a_server_from_end_to_end(server: Server, pedrl: Pedrl, tmp_path: Path) -> None:
    server.faults = ["429", "reset", "malformed"]
    out = tmp_path / "out"
    code, stdout, stderr = pedrl(*asked(server, "--k", "1,2,3", "--json", "--out", str(out)))
    assert code == 0, stderr
    results = json.loads(stdout)
    assert results == json.loads((out / "results.json").read_text())
    kept = rows(out)
    assert [(r["task"], r["sample"]) for r in kept] == [
        (task.id, n) for task in TASKS[:10] for n in range(3)
    ]
    passed = np.array([r["status"] == "passed" for r in kept]).reshape(10, 3)
    assert not passed[1::2].any()
    assert 0 < passed[::2].mean() < 1
    for k in (1, 2, 3):  # the share of all draws of k in which one passed
        draws = [passed[:, list(chosen)].any(1) for chosen in itertools.combinations(range(3), k)]
        assert results["pass"][str(k)]["value"] == pytest.approx(np.mean(draws))
    assert (
        results["pass"]["1"]["low"] < results["pass"]["1"]["value"] < results["pass"]["1"]["high"]
    )
    assert (results["rollouts"], results["lost"], results["infra_errors"]) == (30, 0, 0)
    assert results["correct"] == passed.sum()
    assert kept[0]["text"].startswith("Here it is:")
    assert kept[0]["program"].startswith("def ")
    assert len({r["body"]["seed"] for r in server.seen}) == 30  # one for each rollout
    assert len(server.seen) == 33

    again = pedrl(*asked(server, "--k", "1,2,3", "--json", "--out", str(out)))
    assert again[:2] == (0, stdout)
    assert len(server.seen) == 33
    shown = pedrl(*asked(server, "--out", str(out)))[1]
    assert f"{passed.sum()}/30 rollouts passed" in shown
    assert f"{100 * passed.mean():.1f}%" in shown


def test_a_server_that_is_down_is_no_failure_of_the_model(
    server: Server, pedrl: Pedrl, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert pedrl(*asked(server, "--out", str(whole)))[0] == 0
    server.down = True
    once = ["--concurrency", "2", "--retries", "0", "--out", str(out)]
    code, _, stderr = pedrl(*asked(server, *once))
    assert code == 2
    message = stderr.splitlines()[-1]
    assert message == (
        "pedrl: 30 of 30 answers could not be had (503 told to; None): they count for nothing; "
        "the same command again asks for them"
    )
    assert rows(out) == []

    server.down, server.faults = False, ["500"] * 3
    code, stdout, stderr = pedrl(*asked(server, *once, "--json", "--concurrency", "8"))
    assert code == 2
    results = json.loads(stdout)
    assert (results["lost"], results["rollouts"]) == (3, 27)
    assert results["pass"]["3"]["tasks"] < 10
    assert "pedrl: 3 of 30 answers could not be had (500" in stderr

    assert pedrl(*asked(server, *once))[0] == 0
    for name in ("trajectories.jsonl", "results.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_killed_it_goes_on_to_the_same_files(server: Server, tmp_path: Path) -> None:
    def start(out: Path) -> subprocess.Popen[str]:
        words = asked(server, "--concurrency", "2", "--out", str(out), samples=4)
        return subprocess.Popen(
            [sys.executable, "-m", "pedrl_experiments.cli", "evaluate", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    whole, out = tmp_path / "whole", tmp_path / "out"
    process = start(whole)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    server.seen.clear()
    for least in (6, 16):
        server.most = len(server.seen) + 10
        process = start(out)
        deadline = time.monotonic() + 120
        while len(kept(out)) < least:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert len(kept(out)) < 40
    assert not (out / "results.json").exists()
    server.most = None
    process = start(out)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for name in ("trajectories.jsonl", "results.json", "config.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert len(server.seen) <= 40 + 2 * 4  # what was kept is not asked for again


def kept(out: Path) -> list[str]:
    path = out / "trajectories.jsonl"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def evaluated(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint evaluated in three batches, without interruption."""
    out = tmp_path_factory.mktemp("model") / "out"
    done = subprocess.run(
        [sys.executable, "-m", "pedrl_experiments.cli", "evaluate", *of_model(tiny_base, out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def of_model(base: Path, out: Path, *more: str) -> list[str]:
    size = ["--samples", "2", "--limit", "6", "--batch", "4", "--max-new-tokens", "12"]
    return ["--suite", "lexicon", "--policy", str(base), *size, "--out", str(out), *more]


@pytest.mark.parametrize("kept_bytes", [0, 0.1, 0.5, 0.999])
def test_a_checkpoint_goes_on_wherever_it_was_cut_off(
    kept_bytes: float, evaluated: Path, tiny_base: Path, pedrl: Pedrl, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_bytes((evaluated / "config.json").read_bytes())
    lines = (evaluated / "trajectories.jsonl").read_bytes()
    (out / "trajectories.jsonl").write_bytes(lines[: int(kept_bytes * len(lines))])
    code, _, stderr = pedrl(*of_model(tiny_base, out))
    assert code == 0, stderr
    for name in ("trajectories.jsonl", "results.json"):
        assert (out / name).read_bytes() == (evaluated / name).read_bytes()


def test_the_folder_of_a_run_means_its_student(
    tiny_base: Path, evaluated: Path, pedrl: Pedrl, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    (run / "final").symlink_to(tiny_base)
    assert pedrl(*of_model(run, out))[0] == 0
    assert (out / "trajectories.jsonl").read_bytes() == (
        evaluated / "trajectories.jsonl"
    ).read_bytes()


def test_other_evaluations_and_damage_are_refused(
    evaluated: Path, tiny_base: Path, pedrl: Pedrl, tmp_path: Path
) -> None:
    code, _, stderr = pedrl(*of_model(tiny_base, evaluated, "--seed", "1"))
    assert code == 2
    assert "holds another evaluation (seed is 0 there, 1 here): choose another --out" in stderr
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_bytes((evaluated / "config.json").read_bytes())
    first, *rest = (evaluated / "trajectories.jsonl").read_text().splitlines(keepends=True)
    (out / "trajectories.jsonl").write_text("".join([first, "{\n", *rest]))
    code, _, stderr = pedrl(*of_model(tiny_base, out))
    assert code == 2
    assert "trajectories.jsonl, line 2, is damaged" in stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", "1,x"], "--k '1,x': write numbers with commas, for example 1,5,10"),
        (["--k", "0"], "every k must be at least 1"),
        (["--k", "1,5", "--samples", "4"], "pass@5 needs --samples 5 or more, not 4"),
        (["--batch", "0"], "batch must be at least 1, not 0"),
        (["--temperature", "-1"], "temperature at least 0 (-1)"),
        (["--policy", "openai:here#m"], "write openai:URL#MODEL"),
        (["--policy", "openai:http://h/v1#m", "--concurrency", "0"], "concurrency must be at"),
        (["--policy", "reference"], "--out and --json are for models"),
    ],
)
def test_wrong_evaluations_leave_nothing(
    words: Sequence[str], message: str, pedrl: Pedrl, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    basic = ["--suite", "lexicon", "--policy", "base", "--out", str(out)]
    code, _, stderr = pedrl(*basic, *words)
    assert (code, stderr.count("\n")) == (2, 1)
    assert message in " ".join(stderr.split())
    assert not out.exists()


def test_no_secret_is_sent_kept_or_shown(
    tiny_base: Path, pedrl: Pedrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SANDBOXES, "recording", "tests.e2e.canary_suite:RecordingSandbox")
    monkeypatch.setattr(RecordingSandbox, "jobs", [])
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-4711")
    suite = ["--suite", "tests.e2e.canary_suite:CanarySuite", "--sandbox", "recording"]
    shown = ""
    with serving(lambda prompt, seed: "```python\ndef f(x):\n    return x + 1\n```") as server:
        server.faults = ["500", "500"]
        for name, policy in (("a", f"openai:{server.url}#m"), ("b", str(tiny_base))):
            out = ["--out", str(tmp_path / name), "--max-new-tokens", "6", "--retries", "0"]
            code, stdout, stderr = pedrl(*suite, "--policy", policy, *out)
            assert code == (2 if name == "a" else 0)
            shown += stdout + stderr
        assert canaries_in(server.seen) == []
    assert len(RecordingSandbox.jobs) >= 10
    assert canaries_in(RecordingSandbox.jobs) == []
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 6
    for text in (shown, *(p.read_text() for p in files)):
        assert canaries_in(text) == []
        assert "4711" not in text


def test_a_base_model_behind_a_server_continues_the_prompt(pedrl: Pedrl, tmp_path: Path) -> None:
    def complete(prompt: str, seed: int) -> str:
        task = next(t for t in TASKS if t.prompt == prompt)
        return task.privileged.solution + "\n\nprint(1 / 0)\n"

    with serving(complete) as server:
        more = ["--prompt-format", "completion", "--json", "--out", str(tmp_path / "out")]
        code, stdout, stderr = pedrl(*asked(server, *more, samples=1))
    assert code == 0, stderr
    assert json.loads(stdout)["pass"]["1"]["value"] == 1.0
    assert all("1 / 0" not in r["program"] for r in rows(tmp_path / "out"))


def test_attempts_and_scores_by_hand() -> None:
    assert ranks("", 1) == [1]
    assert ranks("", 8) == [1, 8]
    assert ranks("10,1,5", 10) == [1, 5, 10]
    with pytest.raises(PedrlError, match="pass@2 needs"):
        ranks("2", 1)
    one, two = make_task("one", ""), make_task("two", "")
    statuses = {one.id: ["passed", "failed", "failed", "failed"], two.id: ["passed", "infra_error"]}
    rollouts = [
        Rollout(task, n, "", "", n == 0, 3, status, 0, 1, "")  # type: ignore[arg-type]
        for task, row in statuses.items()
        for n, status in enumerate(row)
    ]
    results = score(rollouts, [one, two], [1, 2], 8)
    assert results["pass"]["1"]["value"] == pytest.approx((1 / 4 + 1) / 2)
    assert results["pass"]["2"]["value"] == pytest.approx(1 / 2)  # two of one's three pairs of six
    assert results["pass"]["2"]["tasks"] == 1  # the other task has one verdict left
    assert (results["rollouts"], results["lost"], results["infra_errors"]) == (5, 2, 1)
    assert results["statuses"] == {"failed": 3, "passed": 2}
    assert (results["truncated"], results["tokens"]) == (2, 15)
