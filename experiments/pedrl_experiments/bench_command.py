"""`pedrl bench`: the commands. Heavy imports happen inside them."""

import os
import sys
from typing import Literal

import tyro
from rich.console import Console

from pedrl_experiments.sets import Sets, dials

benches = tyro.extras.SubcommandApp()
console = Console()


@benches.command(name="sandbox")
def bench_sandbox(tasks: int = 0, rounds: int = 5, soak: int = 0, json: bool = False) -> None:
    """Print what a verification costs, beside its peers, in one interleaved run.

    With `--soak N` instead: run N verifications of mixed programs and print what they left behind;
    ends with exit code 1 if anything was left or memory was not flat. Try `--soak 100000`.

    Args:
        tasks: HumanEval references; 0 for all.
        rounds: how often each runner is measured.
        soak: how many verifications to run, instead of comparing.
        json: print JSON instead of a table.
    """
    if soak:
        from pedrl_experiments.bench.soak import soak as run_soak

        sys.exit(run_soak(soak, json, console))
    from pedrl_experiments.bench.sandbox import bench as measure

    measure(tasks, rounds, json, console)


@benches.command(name="attack")
def bench_attack(
    backends: tuple[str, ...] = (), families: tuple[str, ...] = (), json: bool = False
) -> None:
    """Run every hostile program on every backend; print what stopped it and what it left behind.

    Ends with exit code 1 if an attack succeeded or left anything. On `unsafe-local`, which is
    attacked only if it is named, just what does no lasting damage is run: most of it succeeds.

    Args:
        backends: sandboxes; `zygote`, `bwrap` and, where it works, `docker` if not given.
        families: kinds of attacks, by the first column of the table; all if not given.
        json: print JSON instead of a table.
    """
    from pedrl_experiments.bench.attack import bench as attack

    sys.exit(attack(backends, families, json, console))


@benches.command(name="memory")
def bench_memory(
    vocabulary: int = 50_000,
    sequences: int = 8,
    tokens: int = 512,
    at_once: bool = False,
    json: bool = False,
) -> None:
    """Print the peak memory of a full-vocabulary divergence above its model.

    Ends with exit code 1 if it is more than the promised 2 GiB.

    Args:
        vocabulary: entries.
        sequences: of the batch.
        tokens: of each.
        at_once: also hold all logits at once, to see what chunks save; takes several gigabytes.
        json: print JSON instead of a table.
    """
    from pedrl_experiments.bench.memory import Shape, bench

    sys.exit(bench(Shape(vocabulary, sequences, tokens), at_once, json, console))


@benches.command(name="generate")
def bench_generate(
    model: str = "",
    suite: str = "",
    prompts: int = 8,
    samples: int = 8,
    tokens: int = 0,
    rounds: int = 7,
    threads: int = 0,
    sets: Sets = (),
    json: bool = False,
) -> None:
    """Print tokens a second of the torch backend, beside those of `transformers.generate`.

    Ends with exit code 1 if it is not 2.5 times as fast, or its log-probabilities are not exact.

    Args:
        model: an added model, a folder or a hub id; the embedded base if not given.
        suite: whose tasks are the prompts; `lexicon`, or `starter` for a model that is named.
        prompts: how many.
        samples: of each prompt.
        tokens: most new ones of a sample; 0 means 32 on `lexicon` and 64 elsewhere.
        rounds: how often both are timed.
        threads: of torch; 0 means one per core.
        sets: dials of the suite.
        json: print JSON instead of a table.
    """
    from pedrl_experiments.bench.generate import Draw, bench

    suite = suite or ("starter" if model else "lexicon")
    tokens = tokens or (32 if suite == "lexicon" else 64)
    draw = Draw(suite, dials(sets), model, prompts, samples, tokens, threads)
    sys.exit(bench(draw, rounds, json, console))


@benches.command(name="train")
def bench_train(
    model: str = "",
    suite: str = "",
    tasks: int = 0,
    samples: int = 8,
    tokens: int = 0,
    learning_rate: float = 0.0,
    temperature: float = 1.0,
    prompt_format: Literal["auto", "plain", "completion", "chat"] = "auto",
    steps: int = 0,
    rounds: int = 7,
    threads: int = 0,
    rows: int = 64,
    passes: int = 0,
    attention: Literal["sdpa", "eager"] = "sdpa",
    sandbox: str = "zygote",
    sets: Sets = (),
    json: bool = False,
) -> None:
    """Race GRPO end to end against TRL's GRPOTrainer, on the same tasks, weights and settings.

    Ends with exit code 1 if it is not 3 times as fast with the embedded base, 2 times with
    `smollm2`, or spends more than a tenth of a step on neither model arithmetic nor verification.

    Args:
        model: an added model, a folder or a hub id; the embedded base if not given.
        suite: the tasks; `lexicon`, or `starter` for a model that is named.
        tasks: of a step; 0 means 16 on `lexicon` and 8 elsewhere.
        samples: of a task.
        tokens: most new ones of a sample; 0 means 32 on `lexicon` and 64 elsewhere.
        learning_rate: 0 means 3e-4 on `lexicon` and 1e-5 elsewhere.
        temperature: at which both sample. At 1, `smollm2` solves next to nothing, so that there is
            nothing to learn from; try 0.5, with `--prompt-format completion --set band=1`.
        prompt_format: of both sides' prompts, as in `pedrl evaluate`.
        steps: of a round; 0 means 20 on `lexicon` and 1 elsewhere.
        rounds: that are counted, after one to warm up.
        threads: of torch, on either side; 0 means one per core.
        rows: that ours samples side by side; their verdicts come while the next are sampled.
        passes: micro-batches of a step in TRL; 0 means 1 on `lexicon` and 4 elsewhere.
        attention: implementation that TRL's model uses.
        sandbox: backend that runs submissions, on both sides.
        sets: dials of the suite.
        json: print JSON instead of a table.
    """
    from pedrl_experiments.bench.train import bench
    from pedrl_experiments.bench.train_sides import Race
    from pedrl_experiments.config import CompareConfig

    suite = suite or ("starter" if model else "lexicon")
    small = suite == "lexicon"
    knobs = {"learning_rate": learning_rate or (3e-4 if small else 1e-5), "group_size": samples}
    config = CompareConfig(
        suite=suite,
        dials=dials(sets),
        base=model,
        methods=("grpo",),
        settings={"grpo": knobs},
        tasks_per_step=tasks or (16 if small else 8),
        max_new_tokens=tokens or (32 if small else 64),
        temperature=temperature,
        prompt_format=prompt_format,
        rows_per_batch=rows,
        budget=sys.maxsize,
        sandbox=sandbox,
    )
    race = Race(
        config,
        steps or (20 if small else 1),
        rounds,
        threads or len(os.sched_getaffinity(0)),
        passes or (1 if small else 4),
        attention,
    )
    sys.exit(bench(race, json, console))


@benches.command(name="rollouts")
def bench_rollouts(
    total: int = 100_000,
    model: str = "",
    suite: str = "",
    tasks: int = 16,
    samples: int = 16,
    tokens: int = 0,
    threads: int = 0,
    verify: bool = True,
    sets: Sets = (),
    json: bool = False,
) -> None:
    """Print time and memory of many rollouts: the first must be linear, the second flat.

    Ends with exit code 1 if they are not.

    Args:
        total: rollouts.
        model: an added model, a folder or a hub id; the embedded base if not given.
        suite: the tasks; `lexicon`, or `starter` for a model that is named.
        tasks: of a batch.
        samples: of a task.
        tokens: most new ones of a sample; 0 means 32 on `lexicon` and 64 elsewhere.
        threads: of torch; 0 means one per core.
        verify: also run the answers.
        sets: dials of the suite.
        json: print JSON instead of a table.
    """
    from pedrl_experiments.bench.rollouts import Endurance, bench

    suite = suite or ("starter" if model else "lexicon")
    tokens = tokens or (32 if suite == "lexicon" else 64)
    what = Endurance(suite, dials(sets), model, total, tasks, samples, tokens, verify, threads)
    sys.exit(bench(what, json, console))
