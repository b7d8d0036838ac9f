"""Bad input on the command line: exit code 2, one sentence, nothing written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pedrl_experiments import cli
from pedrl_sandbox.errors import PedrlError

SMALL = ("--methods", "grpo", "--seeds", "1", "--budget", "128", "--no-gates")


def pedrl(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run the command line in this process; return (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["pedrl", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "lexcon"], "unknown suite 'lexcon': did you mean 'lexicon'?"),
        (["--suite", "nowhere:Suite"], "suite 'nowhere:Suite' (nowhere:Suite) cannot be imported"),
        (["--suite", "humaneval"], "suite 'humaneval' has no training tasks"),
        (["--methods", "grpo", "opds"], "unknown method 'opds': did you mean 'opsd'?"),
        (["--methods", "grpo", "grpo"], "method 'grpo' is named twice"),
        (["--preset", "quik"], "unknown preset 'quik': did you mean 'quick'?"),
        (["--preset", "none.toml"], "no preset file at none.toml"),
        (["--set", "coind=1"], "unknown lexicon dial 'coind': did you mean 'coined'?"),
        (["--set", "coined=7"], "lexicon: coined must be 0 to length (3), not 7"),
        (["--set", "coined=one"], "lexicon: coined must be int, not 'one'"),
        (["--set", "grpo.learning_rte=1"], "did you mean 'learning_rate'"),
        (["--set", "grop.learning_rate=1"], "unknown method in --set 'grop': did you mean 'grpo'"),
        (["--set", "grpo.advantage=grup"], "did you mean 'group'?"),
        (["--set", "coined"], "--set 'coined': write key=value, for example coined=2"),
        (["--budget", "0"], "budget must be a whole number of at least 1, not 0"),
        (["--budget", "127"], "budget 127 is less than one step of grpo: 128 rollouts"),
        (["--seeds", "0"], "seeds must be a whole number of at least 1, not 0"),
        (["--sandbox", "bwrp"], "unknown sandbox 'bwrp': did you mean 'bwrap'?"),
        (["--workers", "-1"], "workers must be at least 1, or 0 to fill the cores, not -1"),
        (["--set", "length=4"], "was pre-trained for length=3, not 4: build one with `pedrl"),
        (["--set", "modulus=97"], "was pre-trained for modulus=101, not 97: build one with"),
        (["--base", "nowhere"], "no checkpoint at nowhere: expected a folder with a config.json"),
    ],
)
def test_a_wrong_comparison_is_one_sentence_and_leaves_nothing(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = pedrl(["compare", *SMALL, *words, "--out", "out"], monkeypatch, capfd)
    assert message in stderr
    assert (code, stdout) == (2, "")
    assert stderr.startswith("pedrl: ")
    assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def truncated_copy(base: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return folder


def test_a_corrupt_checkpoint_is_found_before_anything_is_written(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    base = truncated_copy(tiny_base, tmp_path / "base")
    out = tmp_path / "out"
    words = ["compare", *SMALL, "--base", str(base), "--out", str(out)]
    code, _, stderr = pedrl(words, monkeypatch, capfd)
    assert code == 2
    assert f"the checkpoint at {base} cannot be loaded" in stderr
    assert "fetch it again or rebuild it with `pedrl pretrain`" in stderr
    assert "Traceback" not in stderr
    assert stderr.count("pedrl:") == 1
    assert not out.exists()


@pytest.mark.parametrize("command", ["compare", "pretrain", "tune"])
def test_a_folder_that_cannot_be_written(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "out"
    extra = {
        "compare": list(SMALL),
        "pretrain": ["--steps", "1000000"],
        "tune": ["--preset", str(tmp_path / "grid.toml")],
    }[command]
    (tmp_path / "grid.toml").write_text("[grid.grpo]\nlearning_rate = [1e-3]\n")
    code, _, stderr = pedrl([command, *extra, "--out", str(out)], monkeypatch, capfd)
    assert f"pedrl: cannot write to {out}: Not a directory" in stderr
    assert code == 2
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "lexcon", "--policy", "reference"], "did you mean 'lexicon'"),
        (["--suite", "lexicon", "--policy", "refrence"], "no checkpoint at refrence"),
        (["--suite", "humaneval", "--policy", "base"], "ships no base model"),
        (["--suite", "lexicon", "--policy", "base", "--samples", "0"], "samples must be at least"),
        (["--suite", "lexicon", "--policy", "base", "--set", "coind=1"], "did you mean 'coined'"),
        (["--suite", "lexicon", "--policy", "stub", "--set", "coined"], "write key=value"),
        (["--suite", "lexicon", "--policy", "stub", "--limit", "-1"], "limit must be at least"),
        (["--suite", "lexicon", "--policy", "stub", "--sandbox", "bwrp"], "did you mean 'bwrap'"),
    ],
)
def test_wrong_evaluations(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, stdout, stderr = pedrl(["evaluate", *words], monkeypatch, capfd)
    assert message in stderr
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("grid", "words", "message"),
    [
        ("", [], "has no [grid.METHOD] tables: there is nothing to tune"),
        (
            "[grid.grpo]\nlearning_rate = [1e-3, 3e-3]\n[grid.opsd]\nlearning_rate = [1e-3]\n",
            [],
            "every method must get the same number of trials, not {'grpo': 2, 'opsd': 1}",
        ),
        ("[grid.grpo]\nlearning_rate = 1e-3\n", [], "grid.grpo.learning_rate must be a list"),
        ("[grid.grpo]\nlearning_rte = [1e-3]\n", [], "did you mean 'learning_rate'"),
        ("[grid.grpo]\nlearning_rate = [1e-3]\n", ["--methods", "gprpo"], "did you mean 'grpo'"),
        ("[grid.grpo]\nlearning_rate = [1e-3]\n", ["--workers", "-2"], "workers must be at least"),
    ],
)
def test_wrong_grids(
    grid: str,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    preset, out = tmp_path / "grid.toml", tmp_path / "out"
    preset.write_text(grid)
    arguments = ["tune", "--preset", str(preset), *words, "--out", str(out)]
    code, stdout, stderr = pedrl(arguments, monkeypatch, capfd)
    assert message in stderr
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert not (out / "trials").exists()


def test_repeated_set_flags_add_up() -> None:
    words = ["compare", "--set", "a=1", "--budget", "5", "--set", "b=2", "c=3", "--out", "x"]
    assert cli._join_sets(words) == [
        "compare", "--budget", "5", "--out", "x", "--set", "a=1", "b=2", "c=3",
    ]  # fmt: skip
    assert cli._join_sets(["methods"]) == ["methods"]


def test_brackets_in_a_message_survive(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--suite", "lexicon", "--policy", "runs/[bold]x[/]"]
    code, _, stderr = pedrl(words, monkeypatch, capfd)
    assert code == 2
    assert "no checkpoint at runs/[bold]x[/]: expected" in stderr


def test_a_missing_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(**options: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli.app, "cli", broken)
    code, _, stderr = pedrl(["methods"], monkeypatch, capfd)
    assert code == 2
    assert "needs torch, which is not installed: run `pip install 'pedrl[train]'`" in stderr


def test_an_error_that_is_no_users_mistake_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**options: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(cli.app, "cli", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main()
    assert not issubclass(ValueError, PedrlError)


def test_the_real_command(tmp_path: Path) -> None:
    """Once as a user runs it: its own process, its own streams."""
    done = subprocess.run(
        [sys.executable, "-m", "pedrl_experiments.cli", "compare", "--set", "coined=9"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "pedrl: lexicon: coined must be 0 to length (3), not 9\n"
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_to_import() -> None:
    """`--help` must not wait for torch."""
    program = "import sys, pedrl_experiments.cli; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", "import json; " + program],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "transformers", "pandas", "scipy", "matplotlib"}
