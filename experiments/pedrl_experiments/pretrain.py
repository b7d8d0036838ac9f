"""`pedrl pretrain lexicon`: build the base model from nothing, in minutes on two cores.

A Llama of about half a million parameters with a BPE tokenizer whose pieces are the suite's own
words, digits and line starts. The result is an ordinary Hugging Face folder. What is left out on
purpose: no data files (the corpus is drawn on the fly), no evaluation during training (see
`calibration`), no mixed precision.
"""

import dataclasses
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pedrl_agents.views import FORMAT_KEY
from pedrl_experiments.config import replace_field
from pedrl_experiments.corpus import Mix, Sample, draw_sample
from pedrl_experiments.sets import split_set
from pedrl_sandbox.errors import PedrlError

EOS = "<|endoftext|>"
IGNORE = -100
# Pieces that never merge with their neighbours: answers come out as 20 tokens, digits one by one.
PIECES = (
    r"def f\(x\):\n|# [A-Z][^\n]*:\n| {4}return | {4}[a-z] = [a-z]|# |[a-z]+(?: [a-z]+)*"
    r"|, |: x|[0-9]| [-+*%] |\n|."
)


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """How the lexicon base model is built.

    Attributes:
        mix: the dials of the pre-training text.
        hidden_size, layers, heads: the Llama.
        steps, batch_size: optimizer steps, samples in each.
        learning_rate: peak of a cosine schedule with 50 steps of linear warm-up.
        seed: of weights and data.
        threads: torch threads; results are bit-identical only for the same number.
    """

    mix: Mix = field(default_factory=Mix)
    hidden_size: int = 96
    layers: int = 4
    heads: int = 4
    steps: int = 1500
    batch_size: int = 192
    learning_rate: float = 3e-3
    seed: int = 0
    threads: int = 2


def recipe(sets: Sequence[str]) -> PretrainConfig:
    """Return the default recipe with ``key=value`` changes; ``mix.fused=0.5`` reaches the mix.

    Raises:
        PedrlError: for a field that does not exist or a value of the wrong type.
    """
    config = PretrainConfig()
    for item in sets:
        key, value = split_set(item, example="mix.fused=0.5")
        head, dot, tail = key.partition(".")
        if head == "mix" and dot:
            mix = replace_field(config.mix, tail, value, key)
            config = dataclasses.replace(config, mix=mix)
        else:
            config = replace_field(config, key, value, key)
    return config


def build_tokenizer(mix: Mix, seed: int) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer on drawn samples; any text can be encoded."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    everything = dataclasses.replace(mix, accent=0.1, spike=0.1, fused=0.4, warm_share=0.0)
    rng = random.Random(f"tokenizer/{seed}")
    samples = [draw_sample(rng, everything, progress=0.5) for _ in range(4000)]
    bpe.train_from_iterator(
        [s.prompt + s.answer for s in samples],
        trainers.BpeTrainer(
            vocab_size=1000,
            special_tokens=[EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=EOS, pad_token=EOS, **{FORMAT_KEY: "plain"}
    )


def build_model(config: PretrainConfig, vocabulary: int) -> LlamaForCausalLM:
    """Return the untrained model."""
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=config.hidden_size,
            intermediate_size=config.hidden_size * 8 // 3 // 8 * 8,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    model.set_attn_implementation("eager")  # at this size the fused backward is slower on CPU
    return model


def collate_pairs(
    samples: Sequence[Sample], tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded ids (B, T) and labels (B, T); only answers carry labels."""
    prompts = tokenizer([s.prompt for s in samples])["input_ids"]
    answers = tokenizer([s.answer for s in samples])["input_ids"]
    width = max(len(p) + len(a) + 1 for p, a in zip(prompts, answers, strict=True))
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer) + 1  # id 0 ends every answer
        ids[i, : end - 1] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : end] = ids[i, len(prompt) : end]
    return ids, labels


def answer_loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean negative log-likelihood of the answer tokens."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != IGNORE
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), labels[:, 1:][wanted])


def pretrain(config: PretrainConfig, out: Path, say: Callable[[str], None]) -> None:
    """Build tokenizer and model and save both to `out`, with the config that made them.

    Raises:
        PedrlError: if `out` is a non-empty folder, or none can be made there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
        if any(out.iterdir()):
            raise PedrlError(f"{out} is not empty: choose another --out, or remove it first")
    except OSError as error:
        raise PedrlError(f"cannot write to {out}: {error.strerror}") from error
    torch.set_num_threads(config.threads)
    tokenizer = build_tokenizer(config.mix, config.seed)
    model = build_model(config, len(tokenizer))
    size = sum(p.numel() for p in model.parameters())
    say(f"{size:,} parameters, vocabulary {len(tokenizer)}, {config.steps} steps")
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    rng = random.Random(f"pretrain/{config.seed}")
    columns = (TextColumn("pre-training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.3f}")) as progress:
        bar = progress.add_task("", total=config.steps, loss=float("nan"))
        for step in range(config.steps):
            done = step / config.steps
            for group in optimizer.param_groups:
                cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))
                group["lr"] = config.learning_rate * min(1.0, (step + 1) / 50) * cosine
            samples = [draw_sample(rng, config.mix, done) for _ in range(config.batch_size)]
            optimizer.zero_grad()
            loss = 0.0
            for role in ("student", "teacher"):  # apart, so that short prompts carry no padding
                part = [s for s in samples if s.role == role]
                if not part:
                    continue
                share = len(part) / len(samples)
                term = answer_loss(model, *collate_pairs(part, tokenizer)) * share
                term.backward()
                loss += term.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.update(bar, advance=1, loss=loss)
            if (step + 1) % 100 == 0:
                say(f"step {step + 1:5d}  loss {loss:.4f}")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "pretrain.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
