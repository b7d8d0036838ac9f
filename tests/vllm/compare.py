"""The command as a user would start it."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]


def compare_grpo(preset: Path, out: Path, *words: str) -> pd.DataFrame:
    """Run GRPO alone by a preset; return what was logged."""
    command = ["compare", "--preset", str(preset), "--methods", "grpo", *words]
    command += ["--no-gates", "--workers", "1", "--out", str(out)]
    done = subprocess.run(
        [Path(sys.executable).with_name("pedrl"), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return pd.read_parquet(out / "metrics.parquet")
