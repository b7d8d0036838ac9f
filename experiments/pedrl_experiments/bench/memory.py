"""`pedrl bench memory`: what a full-vocabulary divergence needs beside its model.

One step of distillation on random weights, in a process of its own for each way of doing it:
logits in chunks, as the learner does it, and all at once. Peak memory is the high-water mark of the
process after the step, less what it held before it, with student and teacher loaded.
"""

import dataclasses
import json
import multiprocessing
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

PROMISE = 2 * 2**30
"""Bytes above the model."""
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of the step.

    Attributes:
        vocabulary: entries.
        sequences, tokens: of the batch; every token is distilled.
        hidden: size of the model's states; it has two layers.
    """

    vocabulary: int
    sequences: int
    tokens: int
    hidden: int = 128


@dataclass(frozen=True, slots=True)
class Peak:
    """What one way needed.

    Attributes:
        way: ``in chunks`` or ``at once``.
        model: bytes of both models' weights.
        above: bytes above what the process held before the step: states, logits and gradients.
        loss: the same for every way, but for rounding.
        seconds: of the step.
    """

    way: str
    model: int
    above: int
    loss: float
    seconds: float


def bench(shape: Shape, at_once: bool, as_json: bool, console: Console) -> int:
    """Print the peak of a step; return 1 if the learner's way needs more than is promised."""
    peaks = [_apart("in chunks", shape)]
    if at_once:
        peaks.append(_apart("at once", shape))
    kept = peaks[0].above <= PROMISE
    if as_json:
        plain = {"shape": dataclasses.asdict(shape), "promise": PROMISE, "kept": kept}
        console.print_json(json.dumps(plain | {"peaks": [dataclasses.asdict(p) for p in peaks]}))
        return 0 if kept else 1
    title = (
        f"one step of distillation: vocabulary {shape.vocabulary}, "
        f"{shape.sequences} x {shape.tokens} tokens"
    )
    table = Table("logits", "both models", "peak above them", "loss", "seconds", title=title)
    for p in peaks:
        sizes = (f"{p.model / MIB:.0f} MiB", f"{p.above / MIB:.0f} MiB")
        table.add_row(p.way, *sizes, f"{p.loss:.6f}", f"{p.seconds:.1f}")
    console.print(table)
    told = "kept" if kept else "BROKEN"
    console.print(f"promise: at most {PROMISE // MIB} MiB above the model: {told}", markup=False)
    return 0 if kept else 1


def _apart(way: str, shape: Shape) -> Peak:
    """Measure in a fresh process: a high-water mark never falls."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure, (way, shape))


def measure(way: str, shape: Shape) -> Peak:
    """Make one optimizer step of distillation in this process, and see what it took."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from pedrl_agents.forward import LOGITS_PER_CHUNK
    from pedrl_agents.learner import Learner, LearnerConfig
    from pedrl_agents.losses import Divergence, PolicyLoss
    from pedrl_agents.torch_policy import Sampling, TorchPolicy
    from pedrl_env.records import Signal

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=2 * shape.hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2 * shape.tokens,
        tie_word_embeddings=True,
    )
    student, teacher = LlamaForCausalLM(config), LlamaForCausalLM(config)
    # It only names the padding: no text is read here.
    silent = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<end>": 0})), eos_token="<end>", pad_token="<end>"
    )
    policy = TorchPolicy({"student": student, "teacher": teacher}, silent, Sampling())
    chunk = LOGITS_PER_CHUNK if way == "in chunks" else sys.maxsize
    learner = Learner(
        policy,
        LearnerConfig(tokens_per_batch=sys.maxsize, logits_per_chunk=chunk),
        PolicyLoss(),
        Divergence(0.5),
    )
    draw = torch.randint(3, shape.vocabulary, (shape.sequences, shape.tokens)).tolist()
    signals = [Signal("student", (1, 2), tuple(row), teacher_prompt_ids=(2, 1)) for row in draw]
    weights = sum(w.numel() * w.element_size() for m in (student, teacher) for w in m.parameters())
    before, start = memory_of("VmRSS"), time.perf_counter()
    loss = learner.step(signals)["loss/student"]
    # Not ru_maxrss: a process inherits that from the one that started it.
    above = memory_of("VmHWM") - before
    return Peak(way, weights, above, loss, time.perf_counter() - start)


def memory_of(field: str) -> int:
    """Bytes, of a field of this process's ``/proc`` status that is told in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(row for row in lines if row.startswith(field + ":")).split()[1]) * 1024
