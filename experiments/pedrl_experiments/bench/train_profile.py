"""What a training step is spent on besides model arithmetic and verification.

A few steps of our side are run three times more, from the same weights, apart from the race: the
draws are the same each time, so the work is, too.

- As they are. From the second time on, their verdicts are known: no sandbox runs, and no thread of
  the verifier contends for the interpreter.
- By a stopwatch, which stands still outside of the calls of the model, the backward pass and the
  optimizer.
- By torch.profiler, which tells how much of those calls is torch operations, the rest being Python
  between them, and how much there are besides: draws, losses, padding. It is asked for ratios
  alone, because what it records of each operation takes time outside of that operation: steps of
  small ones become half as long again.

What is left of the steps with known verdicts is everything else: prompts, lists of tokens, texts,
credit, logs. What the steps as they are took longer is verification.
"""

import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity

from pedrl_agents.llama import Llama
from pedrl_agents.torch_policy import TorchPolicy
from pedrl_experiments.bench.train_sides import Race, lap, start_run
from pedrl_experiments.loop import Run

WHOLE: Final = "pedrl::steps"
CALL: Final = "pedrl::call"
METHODS: Final = (
    (Llama, "start"),
    (Llama, "step"),
    (torch.Tensor, "backward"),
    (torch.optim.AdamW, "step"),
)
WARM, STEPS = 2, 2

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of wall time of a step.

    Attributes:
        operations, between, verifying, other: add up to 1.
        alone: what ``other`` is of a step whose verdicts are known before.
    """

    operations: float
    between: float
    verifying: float
    other: float
    alone: float

    @property
    def text(self) -> str:
        """In a line."""
        return (
            f"measured apart: torch operations {self.operations:.1%}, Python between them inside "
            f"of model, backward pass and optimizer {self.between:.1%}, verifying "
            f"{self.verifying:.1%}, everything else {self.other:.1%} ({self.alone:.1%} of a step "
            "whose verdicts are known)"
        )


def profile(race: Race) -> Shares:
    """Warm up, run a few steps three times, and share out their time."""
    os.environ["KINETO_LOG_LEVEL"] = "99"  # it would say that it starts and stops
    torch.set_num_threads(race.threads)
    batches = list(islice(cycle(race.batches()), WARM + STEPS))  # a short race has fewer
    measured = batches[WARM:]
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(race, Path(folder))
        lap(run, batches[:WARM])
        again = _returning(run)
        whole = lap(run, measured)
        again()
        with marked(run.policy) as watch:
            known = lap(run, measured)
        again()
        with (
            marked(run.policy),
            torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler,
            record_function(WHOLE),
        ):
            profiled = lap(run, measured)
        run.close()
    assert whole.tokens == known.tokens == profiled.tokens
    events: Any = profiler.events()
    thread = next(event.thread for event in events if event.name == WHOLE)
    mine = [e for e in events if e.thread == thread and e.name != WHOLE]
    calls = [(e.time_range.start, e.time_range.end) for e in mine if e.name == CALL]
    operations = [(e.time_range.start, e.time_range.end) for e in mine if e.name != CALL]
    called, either = covered(calls), covered([*calls, *operations])
    inside = called + covered(operations) - either
    # Operations outside of calls: as a ratio, since another pass may have been slowed down by what
    # else runs. The profiler's own time is in calls, too, so this is rather too little of them.
    loose = watch.seconds * (either - called) / called
    computed = watch.seconds * inside / called + loose
    spent = known.wall_s - known.times["verifying"]
    other = spent - watch.seconds - loose
    return Shares(
        computed / whole.wall_s,
        (watch.seconds + loose - computed) / whole.wall_s,
        1 - spent / whole.wall_s,
        other / whole.wall_s,
        other / known.wall_s,
    )


def _returning(run: Run) -> Callable[[], None]:
    """Keep where a run is; return what brings it back there."""
    kept = copy.deepcopy((run.policy.state(), run.learner.state(), run.replay, run.step))

    def again() -> None:
        weights, learner, run.replay, run.step = copy.deepcopy(kept)
        run.policy.load_state(weights)
        run.learner.load_state(learner)

    return again


class Watch:
    """Seconds inside of calls, each marked for the profiler as well; one in another counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._open: list[tuple[float, record_function]] = []

    def enter(self, *_: object) -> None:
        """A call begins."""
        start, mark = time.perf_counter(), record_function(CALL)
        mark.__enter__()
        self._open.append((start, mark))

    def leave(self, *_: object) -> None:
        """The call that began last ends."""
        start, mark = self._open.pop()
        mark.__exit__(None, None, None)
        if not self._open:
            self.seconds += time.perf_counter() - start

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same method, as a call."""

        @wraps(method)
        def called(*arguments: Any, **named: Any) -> Any:
            self.enter()
            try:
                return method(*arguments, **named)
            finally:
                self.leave()

        return called


@contextmanager
def marked(policy: TorchPolicy) -> Iterator[Watch]:
    """Watch calls of the models and their heads, of decoding, backward pass and optimizer."""
    watch = Watch()
    models = {id(model): model for model in policy.models.values()}.values()
    parts = [part for model in models for part in (model.base_model, model.get_output_embeddings())]
    with ExitStack() as stack:
        for part in parts:
            for handle in (
                part.register_forward_pre_hook(watch.enter),
                part.register_forward_hook(watch.leave),
            ):
                stack.callback(handle.remove)
        for owner, name in METHODS:
            stack.enter_context(patch.object(owner, name, watch.around(getattr(owner, name))))
        yield watch


def covered(spans: Sequence[Span]) -> float:
    """The length of the union of some spans."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total
