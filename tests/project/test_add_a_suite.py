"""The page "Add a suite" as a new user tries it: every block in order, with the wheel alone."""

import re

import pytest

from tests.project.conftest import ROOT, CleanVenv, run

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs" / "add-a-suite.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_block_of_the_page_works(clean_venv: CleanVenv) -> None:
    script = "\n".join(["set -eu", f"PATH={clean_venv.bin}:$PATH", *BLOCK.findall(PAGE)])
    folder = clean_venv.bin.parent.parent / "add-a-suite"
    folder.mkdir()
    done = run(["bash", "-c", script], cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    out = done.stdout
    assert out.count("validate ./mysuite") == 1  # what `init` says to do next
    assert re.findall(r"argued equivalent +│ (\d+)", out) == ["0", "0", "2", "0", "0", "0"]
    assert re.findall(r"problems +│ (\d+)", out) == ["0"] * 6
    assert "mysuite reference: 1/1 passed" in out
    assert "1.0 passed" in out
    assert out.count("mysuite: 4 tasks") == 3  # twice by path, then by the name of its package
