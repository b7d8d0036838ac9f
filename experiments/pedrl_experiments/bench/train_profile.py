"""What a training step is spent on besides model arithmetic and verification, by torch.profiler.

A few steps of our side are run once more under the profiler, apart from the race, because it slows
them down. On the thread that trains, three kinds of time are told apart:

- in a torch operation, of a forward pass, a backward pass, the optimizer or the drawing of tokens;
- in a call of the model, the backward pass or the optimizer, between two such operations: Python;
- waiting for verdicts.

What is left is everything else: prompts, padding, lists of tokens, texts, credit, logs.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity

from pedrl_agents.llama import Llama
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_experiments.bench.train_sides import Race, lap, start_run

WHOLE: Final = "pedrl::steps"
MODEL: Final = "pedrl::model"
CALLS: Final = (MODEL, "autograd::engine", "Optimizer.")
WARM, STEPS = 2, 2

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of wall time of the profiled steps; they add up to 1."""

    operations: float
    between: float
    verifying: float
    other: float

    @property
    def text(self) -> str:
        """In a line."""
        return (
            f"profiled apart: torch operations {self.operations:.1%}, Python between them inside "
            f"of model, backward pass and optimizer {self.between:.1%}, waiting for verdicts "
            f"{self.verifying:.1%}, everything else {self.other:.1%}"
        )


def profile(race: Race) -> Shares:
    """Warm up, profile a few steps, and share out their time."""
    os.environ["KINETO_LOG_LEVEL"] = "99"  # it would say that it starts and stops
    torch.set_num_threads(race.threads)
    batches = race.batches()
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(race, Path(folder))
        lap(run, batches[:WARM])
        activities = [ProfilerActivity.CPU]
        with (
            marked(run.policy),
            torch.profiler.profile(activities=activities) as profiler,
            record_function(WHOLE),
        ):
            found = lap(run, batches[WARM : WARM + STEPS])
        run.close()
    events: Any = profiler.events()
    thread = next(event.thread for event in events if event.name == WHOLE)
    spans = [
        ((event.time_range.start, event.time_range.end), event.name.startswith(CALLS))
        for event in events
        if event.thread == thread and event.name != WHOLE
    ]
    operations = covered([span for span, call in spans if not call]) / 1e6
    both = covered([span for span, _ in spans]) / 1e6
    waited = found.times["verifying"]
    shares = operations, both - operations, waited, found.wall_s - both - waited
    return Shares(*(seconds / found.wall_s for seconds in shares))


@contextmanager
def marked(policy: TorchPolicy) -> Iterator[None]:
    """Mark calls of the models, of their heads, and steps of decoding, for the profiler."""
    open_marks: list[record_function] = []

    def enter(*_: object) -> None:
        open_marks.append(record_function(MODEL))
        open_marks[-1].__enter__()

    def leave(*_: object) -> None:
        open_marks.pop().__exit__(None, None, None)

    models = {id(model): model for model in policy.models.values()}.values()
    parts = [part for model in models for part in (model.base_model, model.get_output_embeddings())]
    handles = [part.register_forward_pre_hook(enter) for part in parts]
    handles += [part.register_forward_hook(leave) for part in parts]
    try:
        with patch.object(Llama, "step", record_function(MODEL)(Llama.step)):
            yield
    finally:
        for handle in handles:
            handle.remove()


def covered(spans: Sequence[Span]) -> float:
    """The length of the union of some spans."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total
