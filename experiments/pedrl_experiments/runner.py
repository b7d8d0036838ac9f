"""Run a comparison: its runs spread over processes, its tables collected, its report written."""

import dataclasses
import json
import multiprocessing
import os
import platform
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from pedrl_agents.distributed import gather, in_turns, joined, rank
from pedrl_agents.torch_policy import Sampling, load_policy
from pedrl_agents.vllm_engine import check_vllm
from pedrl_agents.vllm_server import vllm_server
from pedrl_env.records import MetricsRow, TaskResult
from pedrl_env.registry import make_suite
from pedrl_env.verifier import Verifier
from pedrl_experiments.bases import base_path
from pedrl_experiments.config import CompareConfig, build_vllm, vllm_url
from pedrl_experiments.loop import RunKey, run_one
from pedrl_experiments.report import write_report
from pedrl_experiments.statistics import gain_over_base
from pedrl_experiments.store import read_rows
from pedrl_experiments.summary import summarize
from pedrl_sandbox.errors import PedrlError

VERSIONED = ("pedrl", "torch", "transformers", "tokenizers", "gymnasium", "numpy")
Message = tuple[str, int, int, float]


@dataclass(frozen=True, slots=True)
class Job:
    """One run and the folder it lives in."""

    config: CompareConfig
    key: RunKey
    folder: Path


def compare(
    config: CompareConfig, out: Path, *, workers: int = 0, preset: str = "", console: Console
) -> dict[str, Any]:
    """Run every method and seed, resuming what `out` already holds; return the summary.

    Processes that a launcher started train one run after the other, all of them together.

    Args:
        config: the comparison.
        out: output folder; holds exactly one comparison.
        workers: processes; 0 means as many as have cores for their threads.
        preset: recorded with the results.
        console: where progress is shown.

    Raises:
        PedrlError: if `workers` is negative, `out` cannot be written or holds another comparison,
            or a run failed.
    """
    if joined():
        _check_launched(workers, config)
    else:
        check_workers(workers, config)
    check_ready(config)
    with in_turns():
        claim(config.to_json(), out, preset)
    jobs = [
        Job(config, RunKey(m, s), out / "runs" / f"{m}-s{s}")
        for s in range(config.seeds)
        for m in config.methods
    ]
    jobs += [Job(config, RunKey(g, 0), out / "gates" / f"{g}-s0") for g in config.gate_methods]
    if joined():
        run_together(jobs, console)
    else:
        run_all(jobs, workers, console)
    with in_turns():
        if rank() == 0:
            collect(out, config.gate_methods)
            write_report(out)
        return summarize(out)


def check_workers(workers: int, config: CompareConfig) -> None:
    """Refuse a number of processes that means nothing, or more than can be served.

    Raises:
        PedrlError: if it is negative, or not 1 where one vLLM server samples.
    """
    if workers < 0:
        raise PedrlError(f"workers must be at least 1, or 0 to fill the cores, not {workers}")
    if vllm_url(config) and workers != 1:
        raise PedrlError("a vLLM server (vllm.url) serves one run at a time: add --workers 1")


def _check_launched(workers: int, config: CompareConfig) -> None:
    if workers > 1:
        raise PedrlError("launched processes train one run at a time: leave out --workers")
    if vllm_url(config):
        raise PedrlError(
            "a vLLM server (vllm.url) samples for one process: leave it out, and each of those "
            "that were launched has an engine of its own"
        )


def check_ready(config: CompareConfig) -> None:
    """Try tasks, checkpoint and sandbox once, so that nothing is written if one of them is unfit.

    Raises:
        PedrlError: in the words of whichever does not work.
    """
    suite = make_suite(config.suite, dict(config.dials))
    if not suite.tasks("train"):
        raise PedrlError(
            f"suite {config.suite!r} has no training tasks: it is for `pedrl evaluate`"
        )
    if not suite.tasks(config.eval_split):
        raise PedrlError(f"suite {config.suite!r} has no {config.eval_split} tasks")
    vllm = build_vllm(config.vllm)
    if vllm_url(config):
        vllm_server(base_path(config), vllm)
    elif config.backend == "vllm":
        check_vllm()
    load_policy(base_path(config), Sampling(), "shared", prompt_format=config.prompt_format)
    with Verifier(config.sandbox, workers=1) as verifier:
        verdict = verifier.verify(suite.tasks("train")[0], "    return None\n")
    if verdict.status == "infra_error":
        raise PedrlError(
            f"sandbox {config.sandbox!r} does not work here ({verdict.detail}): see `pedrl doctor`"
        )


def collect(out: Path, gates: Sequence[str]) -> None:
    """Merge what the runs logged into the tables that the report reads."""
    folders = sorted((out / "runs").iterdir())
    for name, file, record in (
        ("metrics", "metrics.parquet", MetricsRow),
        ("results", "results.parquet", TaskResult),
    ):
        columns = [f.name for f in dataclasses.fields(record)]
        table = pd.DataFrame(read_rows(folders, name), columns=columns)
        partial = out / f"{file}.partial"
        table.to_parquet(partial, index=False)
        partial.replace(out / file)
    if gates:
        plain = json.loads((out / "config.json").read_text())
        plain["gates"] = {g: _gate_result(out / "gates" / f"{g}-s0") for g in gates}
        _write_json(out / "config.json", plain)


def _gate_result(folder: Path) -> dict[str, Any]:
    """Return pass@1 of a gate run before and after, on shared tasks, and the gain's interval."""
    table = pd.DataFrame(read_rows([folder], "results"))
    table["rate"] = table["correct"] / table["samples"]
    rates = table.pivot(index="task_id", columns="step", values="rate")
    paired = rates[[rates.columns.min(), rates.columns.max()]].dropna().to_numpy()
    base, final = paired[:, 0], paired[:, 1]
    gain = gain_over_base(final[None, :], base)
    return {
        "base": float(base.mean()),
        "final": float(final.mean()),
        "gain": [gain.value, gain.low, gain.high, gain.over],
        "tasks": len(paired),
    }


def claim(wanted: Mapping[str, Any], out: Path, preset: str) -> None:
    """Write config.json, or check that the folder holds this very comparison.

    Raises:
        PedrlError: if it holds another one, or cannot be written.
    """
    path = out / "config.json"
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise PedrlError(f"{path} is damaged: choose another --out") from error
        different = [k for k in wanted if k != "gates" and found.get(k) != wanted[k]]
        if different:
            key = different[0]
            raise PedrlError(
                f"{out} holds another comparison ({key} is {found.get(key)!r} there, "
                f"{wanted[key]!r} here): choose another --out, or remove it"
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        facts = {
            "preset": preset,
            "command": " ".join(["pedrl", *sys.argv[1:]]),
            "versions": {name: version(name) for name in VERSIONED},
            "python": platform.python_version(),
            "git": _git_revision(),
        }
        _write_json(path, {**wanted, "gates": {}, **facts})
    except OSError as error:
        raise PedrlError(f"cannot write to {out}: {error.strerror}") from error


def side_by_side(workers: int, jobs: Sequence[Job]) -> int:
    """Return how many jobs run at a time: ``workers``; if 0, as many as have cores."""
    fitting = len(os.sched_getaffinity(0)) // max(job.config.threads for job in jobs)
    return min(workers or max(1, fitting), len(jobs))


def run_all(jobs: Sequence[Job], workers: int, console: Console) -> None:
    """Run every job that has not ended, showing progress; the first failure ends them all.

    Args:
        jobs: what to run; the order decides what starts first.
        workers: processes; 0 means as many as have cores for their threads.
        console: where progress is shown.
    """
    waiting = [job for job in jobs if not (job.folder / "done").exists()]
    if not waiting:
        return
    workers = side_by_side(workers, waiting)
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        _pool(workers, context) as pool,
        Progress(*_columns(), console=console) as progress,
    ):
        messages: queue.Queue[Message] = manager.Queue()
        futures: list[Future[None]] = [
            pool.submit(_work, job, messages, os.getpid()) for job in waiting
        ]
        ended = len(jobs) - len(waiting)
        overall = progress.add_task("all runs", total=len(jobs), completed=ended, score="")
        bars: dict[str, Any] = {}
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=0.3)
            for future in finished:
                try:
                    future.result()  # a failed run ends the comparison, in its own words
                except BrokenProcessPool as error:
                    raise PedrlError(
                        "the process of a run was killed (out of memory?): the same command again "
                        "resumes, with fewer --workers if memory is short"
                    ) from error
                progress.advance(overall)
            while not messages.empty():
                name, step, steps, score = messages.get()
                if name not in bars:
                    bars[name] = progress.add_task(name, total=steps, score="")
                progress.update(bars[name], completed=step, score=_percent(score))


def run_together(jobs: Sequence[Job], console: Console) -> None:
    """Run what has not ended, one run after the other, in the processes that a launcher started.

    Args:
        jobs: what to run, in order.
        console: where progress is shown.
    """
    waiting = [job for job in jobs if not (job.folder / "done").exists()]
    gather(None)  # the first run does not end before all have looked
    with Progress(*_columns(), console=console) as progress:
        for job in waiting:
            bar = progress.add_task(job.folder.name, total=None, score="")

            def tell(step: int, steps: int, score: float, bar: TaskID = bar) -> None:
                progress.update(bar, completed=step, total=steps, score=_percent(score))

            _run(job, tell)


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description:24s}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pass@1 {task.fields[score]}"),
        TimeElapsedColumn(),
    )


def _percent(score: float) -> str:
    return "" if score != score else f"{100 * score:5.1f}%"


@contextmanager
def _pool(workers: int, context: Any) -> Iterator[ProcessPoolExecutor]:
    """Yield a process pool; when the comparison fails or is interrupted, end its processes."""
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        yield pool
    except BaseException:
        for process in list(pool._processes.values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _work(job: Job, messages: "queue.Queue[Message]", parent: int) -> None:
    def tell(step: int, steps: int, score: float) -> None:
        if os.getppid() != parent:  # the comparison was killed: stop where a resume will start
            os._exit(1)
        messages.put((job.folder.name, step, steps, score))

    _run(job, tell)


def _run(job: Job, tell: Callable[[int, int, float], None]) -> None:
    try:
        run_one(job.config, job.key, job.folder, tell)
    except PedrlError as error:
        raise PedrlError(f"{job.folder.name}: {error}") from error


def _git_revision() -> str:
    """Return the revision of the source tree, marked if it was changed; empty outside one."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return found.stdout.strip()


def _write_json(path: Path, plain: dict[str, Any]) -> None:
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(plain, indent=2) + "\n")
    partial.replace(path)
