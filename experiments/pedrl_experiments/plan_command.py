"""`pedrl plan`: whether a preset fits on a GPU, and what to change if it does not."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from pedrl_agents.registry import methods
from pedrl_experiments.config import CompareConfig, build_method, build_vllm
from pedrl_experiments.plan_memory import (
    FP32,
    Load,
    Use,
    adapter_parameters,
    build,
    gathered,
    held,
    parameters,
    passing,
    peak,
)
from pedrl_experiments.plan_shapes import shape_of
from pedrl_experiments.sets import Value
from pedrl_sandbox.errors import PedrlError, unknown_name

GIB: Final = 2**30
GPUS: Final[Mapping[str, int]] = {  # GiB, as sold; a little less can be had
    "T4": 16,
    "L4": 24,
    "A10": 24,
    "RTX-4090": 24,
    "A100-40": 40,
    "L40S": 48,
    "A100-80": 80,
    "H100": 80,
    "H200": 141,
    "B200": 180,
}
MARGIN: Final = 0.1  # fragments
CONTEXT_GIB: Final = 1
SHARDS: Final = (2, 4, 8)
TOKEN_BYTES: Final = 25  # of a sampled token in a trajectory: its id, log-probability and text


@dataclass(frozen=True, slots=True)
class Plan:
    """What one method of a comparison takes.

    Attributes:
        method: its name.
        uses: of memory.
        gib: the most at one time, with the margin, on each GPU.
        over: the same on each of several GPUs, by their number.
        disk: bytes that one run leaves behind.
    """

    method: str
    uses: Sequence[Use]
    gib: float
    over: Mapping[int, float]
    disk: int


def plan_method(
    config: CompareConfig,
    method: str,
    model: PreTrainedModel,
    prompt: int,
    privileged: int,
    gpus: int = 1,
) -> Plan:
    """Estimate one method of a comparison.

    Args:
        config: the comparison.
        method: of it.
        model: without data.
        prompt: tokens of the longest task.
        privileged: tokens that a teacher sees more.
        gpus: that train each run together.
    """
    algorithm, learner = build_method(method, config.knobs(method))
    load = Load(
        config.tasks_per_step,
        algorithm.group_size,
        config.rows_per_batch,
        prompt,
        prompt + (privileged if methods()[method].privileged != "none" else 0),
        config.max_new_tokens,
    )
    vllm = build_vllm(config.vllm) if config.backend == "vllm" else None
    alone = held(model, method, algorithm, learner)
    alone += passing(model, learner, load, vllm)
    shared = alone + gathered(model, method, algorithm, learner.lora)
    over = {n: _with_margin(peak(shared, n)) for n in sorted({*SHARDS, gpus} - {1})}
    uses = [u.on(gpus) for u in shared] if gpus > 1 else alone
    size = parameters(model)
    moments = sum(u.bytes for u in alone if u.what == "AdamW's moments")
    if algorithm.storage == "lora":
        weights = 2 * FP32 * adapter_parameters(model, learner.lora)
    else:
        weights = FP32 * size * (1 if algorithm.storage == "shared" else 2)
    rollouts = TOKEN_BYTES * config.budget * config.max_new_tokens
    disk = FP32 * size + weights + moments + rollouts
    return Plan(method, uses, _with_margin(peak(uses)), over, disk)


def _with_margin(bytes: int) -> float:
    return bytes / GIB * (1 + MARGIN) + CONTEXT_GIB


def changes(config: CompareConfig, method: str) -> list[tuple[str, CompareConfig]]:
    """What could be set to need less, each on top of those before it; in words, and done."""
    algorithm, learner = build_method(method, config.knobs(method))
    tried: list[tuple[str, Value]] = []
    if learner.precision == "fp32":
        tried.append(("precision", "bf16"))
    budget = learner.tokens_per_batch
    while budget > 1024:
        budget //= 4
        tried.append(("tokens_per_batch", budget))
    if algorithm.storage != "lora":
        tried.append(("storage", "lora"))
    done: list[tuple[str, CompareConfig]] = []
    settings = {name: dict(knobs) for name, knobs in config.settings.items()}
    said: dict[str, str] = {}
    for knob, value in tried:
        wanted = {**settings, method: {**settings.get(method, {}), knob: value}}
        try:
            config = dataclasses.replace(config, settings=wanted)
        except PedrlError:  # this method has no such choice
            continue
        settings = wanted
        said[knob] = f"{method}.{knob}={value}"
        done.append((f"--set {' '.join(said.values())}", config))
    return done


def plan(
    config: CompareConfig,
    name: str,
    gpu: str,
    prompt: int,
    privileged: int,
    gpus: int,
    as_json: bool,
    console: Console,
) -> bool:
    """Print what a comparison takes; say whether it fits.

    Args:
        config: of the preset.
        name: of it, for the command that is printed.
        gpu: by name.
        prompt: tokens of the longest task.
        privileged: tokens that a teacher sees more.
        gpus: that train each run together.
        as_json: print JSON instead of tables.
        console: where to.

    Raises:
        PedrlError: the GPU or the model is not known.
    """
    if gpu not in GPUS:
        raise unknown_name("GPU", gpu, GPUS)
    if prompt < 1 or privileged < 0:
        raise PedrlError(f"prompts have at least 1 token ({prompt}), privilege 0 ({privileged})")
    if gpus < 1:
        raise PedrlError(f"a run needs at least 1 GPU, not {gpus}")
    model = build(shape_of(config.base))

    def planned(of: CompareConfig, method: str) -> Plan:
        return plan_method(of, method, model, prompt, privileged, gpus)

    plans = [planned(config, method) for method in config.planned]
    room = GPUS[gpu]
    advice = {}
    for one in plans:
        if one.gib > room:
            tried = [(text, planned(c, one.method).gib) for text, c in changes(config, one.method)]
            fits = next(((text, gib) for text, gib in tried if gib <= room), None)
            more = next((n for n, gib in one.over.items() if n > gpus and gib <= room), None)
            advice[one.method] = {"change": fits, "sharded_over": more}
    disk = sum(
        one.disk * (1 if one.method in config.gate_methods else config.seeds) for one in plans
    )
    disk += 2 * parameters(model)  # what is fetched, half precision
    facts: dict[str, Any] = {
        "preset": name,
        "base": config.base,
        "parameters": parameters(model),
        "gpu": gpu,
        "gpu_gib": room,
        "gpus": gpus,
        "prompt_tokens": prompt,
        "privileged_tokens": privileged,
        "methods": {
            p.method: {
                "gib": p.gib,
                "fits": p.gib <= room,
                "uses": [dataclasses.asdict(u) for u in p.uses],
                **advice.get(p.method, {}),
            }
            for p in plans
        },
        "runs": config.seeds * len(config.methods) + len(config.gate_methods),
        "disk_bytes": disk,
        "command": _command(name, gpus),
    }
    if as_json:
        console.print_json(json.dumps(facts))
    else:
        _show(facts, plans, console)
    return not advice


def _command(name: str, gpus: int) -> str:
    out = f"runs/{name.removesuffix('.toml').rpartition('/')[2]}"
    if gpus == 1:
        return f"pedrl compare --preset {name} --workers 1 --out {out}"
    launch = f"accelerate launch --use_fsdp --fsdp_version 2 --num_processes {gpus}"
    return f"{launch} -m pedrl_experiments.cli compare --preset {name} --out {out}"


def _show(facts: Mapping[str, Any], plans: Sequence[Plan], console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    each = " on each GPU" if facts["gpus"] > 1 else ""
    title = f"{facts['base']}, {facts['parameters'] / 1e9:.2f} billion parameters: GiB{each}"
    table = Table("what", "when", *(p.method for p in plans), title=title)
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for p in plans:
        for use in p.uses:
            rows.setdefault((use.phase, use.what), {})[p.method] = use.bytes
    order = ("always", "sampling", "scoring", "learning", "stepping")
    for (phase, what), sizes in sorted(rows.items(), key=lambda item: order.index(item[0][0])):
        cells = [f"{sizes[p.method] / GIB:.2f}" if p.method in sizes else "" for p in plans]
        table.add_row(what, phase, *cells)
    table.add_section()
    totals = (f"{p.gib:.1f}" for p in plans)
    table.add_row(f"at most, with {MARGIN:.0%} + {CONTEXT_GIB} GiB", "at one time", *totals)
    console.print(table)
    say(
        f"tokens assumed: {facts['prompt_tokens']} of a prompt, {facts['privileged_tokens']} more "
        "for a teacher (--prompt-tokens, --privileged-tokens)"
    )
    where = f"{facts['gpu']} ({facts['gpu_gib']} GiB)"
    if facts["gpus"] > 1:
        where = f"{facts['gpus']} x {where}"
    for method, found in facts["methods"].items():
        if found["fits"]:
            say(f"{method}: fits on {where}")
            continue
        text = f"{method}: does not fit on {where}"
        if found["change"]:
            text += f"; with {found['change'][0]} it does ({found['change'][1]:.1f} GiB)"
        else:
            text += "; nothing that can be set makes it fit: take a larger GPU or a smaller model"
        if found["sharded_over"]:
            over = found["sharded_over"]
            text += f"; with --gpus {over}, {over} such GPUs train a run together, and it fits"
        say(text)
    say(f"disk: {facts['disk_bytes'] / GIB:.1f} GiB for {facts['runs']} runs, one after another")
    say(facts["command"])
