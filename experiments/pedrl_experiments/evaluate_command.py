"""`pedrl evaluate`: who is asked. Imports no torch where no local model is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pedrl_agents.views import PromptFormat
from pedrl_env.records import Split
from pedrl_env.registry import make_suite
from pedrl_experiments.evaluate_program import ProgramPolicy, evaluate_program_policy
from pedrl_experiments.evaluate_run import Evaluation, Sampler, ranks, run
from pedrl_experiments.sets import Value
from pedrl_sandbox.errors import PedrlError


@dataclass(frozen=True, slots=True)
class Asking:
    """How a model is asked.

    Attributes:
        batch: rollouts of a local model that are sampled side by side.
        prompt_format: see `views.View`; a server is asked for a chat where it says ``auto``.
        concurrency, timeout_s, retries: of requests to a server.
    """

    batch: int
    prompt_format: PromptFormat
    concurrency: int
    timeout_s: float
    retries: int


def evaluate_model(
    evaluation: Evaluation,
    asking: Asking,
    k: str,
    out: Path | None,
    sandbox: str,
    as_json: bool,
    console: Console,
) -> None:
    """Evaluate a checkpoint or a server; see `evaluate_run.run`."""
    chosen = ranks(k, evaluation.samples)
    tasks = evaluation.tasks()
    sampler: Sampler
    if evaluation.policy.startswith("openai:"):
        from pedrl_agents.endpoint import Endpoint
        from pedrl_experiments.evaluate_endpoint import EndpointSampler

        endpoint = Endpoint(
            *Endpoint.address(evaluation.policy),
            "chat" if asking.prompt_format in ("auto", "chat") else "completion",
            evaluation.max_new_tokens,
            evaluation.temperature,
            asking.timeout_s,
            asking.retries,
            asking.concurrency,
        )
        sampler = EndpointSampler(evaluation, tasks, endpoint)
    else:
        from pedrl_experiments.evaluate_model import ModelSampler

        sampler = ModelSampler(evaluation, tasks, asking.batch, asking.prompt_format)
    run(evaluation, tasks, sampler, chosen, out, sandbox, as_json, console)


def evaluate_reference(
    suite: str,
    dials: Mapping[str, Value],
    policy: ProgramPolicy,
    split: Split,
    sandbox: str,
    limit: int,
    console: Console,
) -> None:
    """Verify the references of a suite, or stubs, and name the references that do not pass.

    Raises:
        PedrlError: there is nothing to evaluate, or verdicts could not be had.
    """
    verdicts = evaluate_program_policy(
        make_suite(suite, dict(dials)), policy, split, sandbox, limit or None
    )
    for task, verdict in verdicts:
        if policy == "reference" and verdict.status != "passed":
            console.print(f"{task.id}: {verdict.status} {verdict.detail}", highlight=False)
    broken = sum(v.status == "infra_error" for _, v in verdicts)
    if broken:
        raise PedrlError(f"{broken} verdicts could not be had (infra_error): see `pedrl doctor`")
