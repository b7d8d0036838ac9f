"""One vLLM engine for the session, of the base model that is shipped; none where vLLM is not."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from pedrl_agents.vllm_engine import VllmEngine, VllmSettings, vllm_engine
from pedrl_experiments.bases import base_path
from pedrl_experiments.config import CompareConfig


@pytest.fixture(scope="session")
def base() -> Path:
    """The checkpoint that is shipped with `lexicon`."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed in this environment: `make test-vllm` has one")
    return base_path(CompareConfig())


@pytest.fixture(scope="session")
def engine(base: Path) -> VllmEngine:
    """The engine that runs of that checkpoint use, too."""
    torch.set_num_threads(1)
    return vllm_engine(base, VllmSettings())
