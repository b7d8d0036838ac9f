"""The backend of a run: named in its config, refused in clear words, never replaced by another."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pedrl_experiments.config import CompareConfig, apply_sets, build_vllm
from pedrl_experiments.runner import compare
from pedrl_sandbox.errors import PedrlError


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_vllm_where_there_is_none_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    config = CompareConfig(methods=("grpo",), backend="vllm", gates=False)
    with pytest.raises(PedrlError, match=r"not installed in this environment.*docs/backends\.md"):
        compare(config, tmp_path / "out", workers=1, preset="", console=Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_settings_of_vllm_are_a_table_or_sets() -> None:
    plain = apply_sets({"vllm": {"cache_gib": 8}}, ["vllm.dtype=bfloat16", "coined=1"])
    config = CompareConfig.from_json({**plain, "backend": "vllm"})
    assert CompareConfig.from_json(config.to_json()) == config
    settings = build_vllm(config.vllm)
    assert (settings.dtype, settings.cache_gib, settings.max_model_len) == ("bfloat16", 8, 0)
    assert config.dials == {"coined": 1}


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"backend": "vlm"}, r"unknown backend 'vlm'.*vllm"),
        ({"vllm": {"cache_gb": 1}}, r"vllm\.cache_gb.*vllm\.cache_gib"),
        ({"vllm": {"cache_gib": 0}}, r"vllm\.cache_gib must be at least 1"),
        ({"vllm": {"dtype": "fp8"}}, r"vllm\.dtype"),
        ({"vllm": 3}, "vllm must be a table"),
    ],
)
def test_what_is_not_a_setting_is_refused(plain: dict[str, Any], said: str) -> None:
    with pytest.raises(PedrlError, match=said):
        CompareConfig.from_json(plain)
