"""Shapes of models, as in their `config.json`, so that nothing has to be fetched to plan a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pedrl_sandbox.errors import PedrlError, unknown_name

QWEN2: Final = {"model_type": "qwen2", "vocab_size": 151936, "num_key_value_heads": 2}
SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": {
        **QWEN2,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": {
        **QWEN2,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "tie_word_embeddings": True,
    },
    "meta-llama/Llama-3.2-3B-Instruct": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-4B": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "smollm2": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
}


def shape_of(base: str) -> Mapping[str, Any]:
    """The numbers of a model: of a known name, or from the `config.json` of a folder.

    Raises:
        PedrlError: it is neither.
    """
    if base in SHAPES:
        return SHAPES[base]
    path = Path(base) / "config.json"
    if not path.is_file():
        raise unknown_name("model", base, SHAPES)
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PedrlError(f"{path} is damaged: {error}") from error
    return plain
