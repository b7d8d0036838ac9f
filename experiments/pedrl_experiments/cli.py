"""The command line. Heavy imports happen inside commands, so that ``--help`` is instant."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn, cast, get_args

import tyro
from rich.console import Console
from rich.markup import escape
from tyro.conf import Positional, arg

from pedrl_experiments.bench_command import benches
from pedrl_experiments.launch import speaks, together
from pedrl_experiments.models_command import models
from pedrl_experiments.sets import Sets, dials
from pedrl_experiments.tasks_command import tasks
from pedrl_sandbox.errors import PedrlError

app = tyro.extras.SubcommandApp()
console = Console(quiet=not speaks())
GROUPS = (["bench"], ["models"], ["tasks"])  # commands of commands: alone, they say what there is


@app.command
def compare(
    preset: str = "",
    suite: str = "",
    methods: tuple[str, ...] = (),
    seeds: int | None = None,
    budget: int | None = None,
    sets: Sets = (),
    context: tuple[str, ...] = (),
    base: str = "",
    sandbox: str = "",
    backend: Literal["torch", "vllm", ""] = "",
    eval_split: Literal["test", "validation", ""] = "",
    gates: bool = True,
    workers: int = 0,
    out: Path = Path("runs/compare"),
) -> None:
    """Train methods from one base checkpoint on equal budgets and write curves and a report.

    Running the same command again resumes what was interrupted. Try `pedrl compare --preset quick`.
    Under `torchrun` or `accelerate launch`, several GPUs train each run together (docs/plan.md).

    Args:
        preset: `quick`, `standard`, ... or a TOML file; flags override it.
        suite: the tasks, by registry name.
        methods: what to compare; see `pedrl methods`.
        seeds: runs per method.
        budget: rollouts per run, everything sampled for training counted.
        sets: dials and knobs.
        context: what teachers see: any of `solution`, `tests`, `notes`, `feedback`.
        base: checkpoint folder to start from; the suite's own if not given.
        sandbox: `zygote`, `bwrap`, `docker` or `unsafe-local` (no isolation: for code you trust).
        backend: what samples; vLLM needs an environment of its own (docs/backends.md).
        eval_split: held-out tasks to evaluate on; choose settings on `validation`.
        gates: also run the two SFT controls once, to check that the setting can tell methods apart.
        workers: parallel runs; 0 means as many as have cores for their `threads`.
        out: output folder.
    """
    from pedrl_experiments.config import CompareConfig, apply_sets, load_preset
    from pedrl_experiments.runner import compare as run_comparison

    plain = load_preset(preset) if preset else {}
    plain.pop("grid", None)  # what `pedrl tune` tries; the chosen values stand in [settings]
    flags = {
        "suite": suite,
        "methods": list(methods),
        "seeds": seeds,
        "budget": budget,
        "context": list(context),
        "base": base,
        "sandbox": sandbox,
        "backend": backend,
        "eval_split": eval_split,
    }
    plain |= {k: v for k, v in flags.items() if v is not None and v not in ("", [])}
    if not gates:
        plain["gates"] = False
    config = CompareConfig.from_json(apply_sets(plain, sets))
    summary = run_comparison(config, out, workers=workers, preset=preset, console=console)
    from pedrl_experiments.tables import print_summary

    print_summary(summary, console)
    console.print(f"curves: {out / 'curves.png'}\nreport: {out / 'report.html'}", markup=False)


@app.command
def tune(
    preset: str = "",
    suite: str = "",
    methods: Annotated[tuple[str, ...], arg(aliases=["--method"])] = (),
    grid: tuple[str, ...] = (),
    seeds: int | None = None,
    budget: int | None = None,
    sets: Sets = (),
    workers: int = 0,
    out: Path = Path("runs/tune"),
) -> None:
    """Choose settings on the validation split from grids of equal size, and print the evidence.

    Args:
        preset: a preset or TOML file; its [grid.METHOD] tables of lists are tried.
        suite: the tasks, by registry name.
        methods: tune only these; all in the grid if not given.
        grid: lists in place of the preset's: `learning_rate=1e-3,3e-3` for every method,
            `grpo.group_size=4,8` for one. With neither, three learning rates.
        seeds: runs per trial.
        budget: rollouts per run.
        sets: dials and knobs that every trial keeps.
        workers: parallel runs; 0 means as many as have cores for their `threads`.
        out: output folder; the same command again takes up where it stopped.
    """
    from pedrl_experiments.config import CompareConfig, apply_sets, load_preset
    from pedrl_experiments.grid import choose_grid
    from pedrl_experiments.tune import tune as run_trials

    plain = load_preset(preset) if preset else {}
    lists = choose_grid(plain.pop("grid", {}), preset, methods, grid)
    flags = {"suite": suite, "seeds": seeds, "budget": budget}
    plain |= {k: v for k, v in flags.items() if v not in (None, "")}
    config = CompareConfig.from_json(apply_sets(plain, sets))
    run_trials(config, lists, out, workers, console)


@app.command
def evaluate(
    suite: str,
    policy: str,
    split: Literal["train", "validation", "test"] = "test",
    samples: int = 1,
    k: str = "",
    limit: int = 0,
    sets: Sets = (),
    sandbox: str = "zygote",
    seed: int = 0,
    max_new_tokens: int = 0,
    temperature: float = 1.0,
    batch: int = 64,
    prompt_format: Literal["auto", "plain", "completion", "chat"] = "auto",
    concurrency: int = 8,
    timeout: float = 300.0,
    retries: int = 7,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Print how many tasks of a suite a policy solves: pass@k with intervals.

    With `--out` the rollouts are kept, and the same command goes on where it was interrupted.

    Args:
        suite: the tasks, by registry name.
        policy: `reference` (the suite's own solutions), `stub` (an empty function), `base` (the
            checkpoint the suite ships), a checkpoint (a folder, a run, a name of `pedrl models`, a
            hub id) or a server, `openai:URL#MODEL`, with its key in OPENAI_API_KEY.
        split: which tasks.
        samples: rollouts per task, of a model.
        k: attempts, as in `1,5,10`; 1 and all samples if not given.
        limit: only the first tasks; 0 means all.
        sets: dials of the suite.
        sandbox: backend that runs submissions.
        seed: of sampling.
        max_new_tokens: longest answer; 0 means 32 on `lexicon` and 512 elsewhere.
        temperature: of sampling; 0 takes the most likely token.
        batch: rollouts of a checkpoint that are sampled side by side; draws depend on it.
        prompt_format: `auto` is what a checkpoint was trained in, or chat where it has a template;
            of a server, chat.
        concurrency: requests to a server at a time.
        timeout: seconds that a server may take for an answer.
        retries: of a request that a server could not serve.
        out: folder for `trajectories.jsonl` and `results.json`.
        json: print JSON instead of a table.
    """
    from pedrl_experiments.evaluate_command import Asking, evaluate_model, evaluate_reference
    from pedrl_experiments.evaluate_program import ProgramPolicy
    from pedrl_experiments.evaluate_run import Evaluation

    chosen = dials(sets)
    if policy in get_args(ProgramPolicy):
        if out is not None or json:
            raise PedrlError(f"--out and --json are for models: nothing is kept of {policy!r}")
        program = cast(ProgramPolicy, policy)
        evaluate_reference(suite, chosen, program, split, sandbox, limit, console)
        return
    tokens = max_new_tokens or (32 if suite == "lexicon" else 512)
    evaluate_model(
        Evaluation(suite, chosen, split, limit, policy, samples, tokens, temperature, seed),
        Asking(batch, prompt_format, concurrency, timeout, retries),
        k,
        out,
        sandbox,
        json,
        console,
    )


@app.command
def plan(
    preset: Positional[str],
    gpu: str = "H100",
    sets: Sets = (),
    prompt_tokens: int = 256,
    privileged_tokens: int = 256,
    gpus: int = 1,
    json: bool = False,
) -> None:
    """Estimate the memory of a preset's runs against a GPU, and say what to change.

    Ends with exit code 1 if something does not fit.

    Args:
        preset: by name, or a TOML file.
        gpu: T4, L4, A10, RTX-4090, A100-40, L40S, A100-80, H100, H200 or B200.
        sets: dials and knobs, in place of the preset's.
        prompt_tokens: the longest task.
        privileged_tokens: what a teacher sees more than that.
        gpus: that train each run together, weights and moments sharded over them.
        json: print JSON instead of tables.
    """
    from pedrl_experiments.config import CompareConfig, apply_sets, load_preset
    from pedrl_experiments.plan_command import plan as estimate

    plain = load_preset(preset)
    plain.pop("grid", None)
    config = CompareConfig.from_json(apply_sets(plain, sets))
    fits = estimate(config, preset, gpu, prompt_tokens, privileged_tokens, gpus, json, console)
    sys.exit(0 if fits else 1)


@app.command
def pretrain(
    suite: Positional[Literal["lexicon"]] = "lexicon",
    out: Path = Path("runs/lexicon-base"),
    steps: int | None = None,
    sets: Sets = (),
    sandbox: str = "zygote",
) -> None:
    """Build the base model of a suite from nothing and print its calibration table.

    Args:
        suite: only `lexicon` has a base model of its own.
        out: folder to write; must be empty or absent.
        steps: optimizer steps, if not the recipe's own.
        sets: fields of the recipe (hidden_size=128) or of its mix (mix.fused=0.5, mix.length=4).
        sandbox: backend that runs submissions for the calibration table.
    """
    from pedrl_experiments.calibration import calibrate
    from pedrl_experiments.pretrain import pretrain as build
    from pedrl_experiments.pretrain import recipe

    config = recipe([*sets, f"steps={steps}"] if steps is not None else sets)
    build(config, out, console.print)
    calibrate(out, config.mix, sandbox, console)


@app.command
def doctor(sandbox: tuple[str, ...] = ("zygote", "bwrap", "docker")) -> None:
    """Print what sandboxes really enforce on this machine, and the versions in use.

    Args:
        sandbox: which to try; the exit status is about the first.
    """
    from pedrl_experiments.doctor import run_doctor

    sys.exit(run_doctor(sandbox))


@app.command
def sandbox(action: Positional[Literal["build-image"]]) -> None:
    """Prepare a sandbox: `build-image` assembles the image of `docker`, from this Python alone.

    Args:
        action: what to do.
    """
    from pedrl_experiments.sandbox_command import build_image

    build_image(console)


app.command(tasks, name="tasks", help="Make, list, show, validate and measure task suites.")
app.command(models, name="models", help="Fetch base models, and say which are here.")
app.command(benches, name="bench", help="Measure what is promised about speed and safety.")


@app.command
def methods(names: Positional[tuple[str, ...]] = (), json: bool = False) -> None:
    """List the methods that can be compared; with names, also what can be set, with ranges.

    Args:
        names: methods to describe.
        json: print JSON instead of tables.
    """
    from pedrl_experiments.methods_command import show

    show(names, json, console)


def _join_sets(words: Sequence[str]) -> list[str]:
    """Join repeated ``--set``: the parser would keep the last one and drop the others."""
    rest: list[str] = []
    sets: list[str] = []
    taking = False
    for word in words:
        if word == "--set":
            taking = True
        elif taking and not word.startswith("-"):
            sets.append(word)
        else:
            taking = False
            rest.append(word)
    return [*rest, "--set", *sets] if sets else list(words)


def _complain(message: str) -> NoReturn:
    console = Console(stderr=True)
    console.print("[bold red]pedrl:[/] " + escape(message), highlight=False, soft_wrap=True)
    sys.exit(2)


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence and exit code 2."""
    try:
        with together("".join(sys.argv[1:2])):
            app.cli(
                prog="pedrl",
                description="Pedagogical RL on code: environments and comparisons.",
                args=_join_sets([*sys.argv[1:], *(["--help"] if sys.argv[1:] in GROUPS else [])]),
            )
    except PedrlError as error:
        _complain(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("pedrl_agents", "pedrl_experiments", "pedrl_env"):
            raise
        _complain(
            f"this command needs {error.name}, which is not installed: "
            "run `pip install 'pedrl[train]'`"
        )
    except KeyboardInterrupt:
        Console(stderr=True).print("pedrl: interrupted; the same command again takes it up")
        sys.exit(130)


if __name__ == "__main__":
    main()
