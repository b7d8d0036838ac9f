"""`pedrl evaluate` of a checkpoint: the torch backend samples batch by batch."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pedrl_agents.torch_policy import Sampling, load_policy
from pedrl_agents.views import PromptFormat
from pedrl_env.records import GenerationRequest, Task, Trajectory
from pedrl_env.rollout import rollout
from pedrl_env.verifier import Verifier
from pedrl_experiments.bases import base_path
from pedrl_experiments.config import CompareConfig
from pedrl_experiments.evaluate_run import Evaluation
from pedrl_experiments.evaluate_store import Place, Rollout
from pedrl_sandbox.errors import PedrlError


class ModelSampler:
    """Samples a local model; the rollouts of a batch share one stream of draws.

    Args:
        evaluation: what is asked; its policy is ``base``, a checkpoint folder, or the folder of a
            run, whose ``final`` is meant.
        tasks: of it.
        batch: rollouts sampled side by side, rounded up to whole tasks.
        prompt_format: see `views.View`.

    Raises:
        PedrlError: there is no such checkpoint, or it must not be tested on this suite.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        tasks: Sequence[Task],
        batch: int,
        prompt_format: PromptFormat,
    ) -> None:
        if batch < 1:
            raise PedrlError(f"batch must be at least 1, not {batch}")
        self.evaluation, self.tasks, self.batch = evaluation, {t.id: t for t in tasks}, batch
        self.folder = checkpoint(evaluation)
        sampling = Sampling(evaluation.max_new_tokens, evaluation.temperature)
        self.policy = load_policy(
            self.folder, sampling, storage="shared", prompt_format=prompt_format
        )
        self.trouble = ""

    @property
    def facts(self) -> Mapping[str, Any]:
        """How draws are grouped, and which weights these are: a folder may be written anew."""
        files = sorted(self.folder.glob("*.safetensors"))
        seen = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        weights = hashlib.sha256(repr(seen).encode()).hexdigest()
        return {"prompt_format": self.policy.view.format, "batch": self.batch, "weights": weights}

    def units(self) -> Sequence[Sequence[Place]]:
        """Batches of whole tasks."""
        samples, ids = self.evaluation.samples, list(self.tasks)
        per_batch = -(-self.batch // samples)
        batches = [ids[start : start + per_batch] for start in range(0, len(ids), per_batch)]
        return [[(i, n) for i in batch for n in range(samples)] for batch in batches]

    def sample(
        self, units: Sequence[Sequence[Place]], verifier: Verifier
    ) -> Iterator[Sequence[Rollout]]:
        """Sample and judge batch by batch."""
        for unit in units:
            ids = dict.fromkeys(i for i, _ in unit)
            requests = [
                GenerationRequest(self.tasks[i], "student", self.evaluation.samples) for i in ids
            ]
            seed = self.evaluation.draw(*unit[0])
            groups = rollout(requests, self.policy, verifier, seed=seed, policy_version=0)
            yield [self._row(t, n) for g in groups for n, t in enumerate(g.trajectories)]

    def _row(self, trajectory: Trajectory, sample: int) -> Rollout:
        ids = trajectory.turns[-1].action_ids
        answer = str(self.policy.tokenizer.decode(list(ids), skip_special_tokens=True))
        program, cut = trajectory.text, trajectory.truncated
        row = Rollout(
            trajectory.task_id, sample, answer, program, cut, len(ids), "unjudged", 0, 0, ""
        )
        return row.judged(trajectory.verdict)


def checkpoint(evaluation: Evaluation) -> Path:
    """Return the folder that a policy names.

    Raises:
        PedrlError: there is none, or it was trained on a relative of the suite.
    """
    base = "" if evaluation.policy == "base" else evaluation.policy
    if base and (Path(base) / "final" / "config.json").is_file():
        base = str(Path(base) / "final")
    return base_path(CompareConfig(suite=evaluation.suite, dials=evaluation.dials, base=base))
