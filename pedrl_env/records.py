"""Every record that crosses a package border: frozen, slotted, defined once.

Axis suffixes used across the project: B batch, T token, V vocabulary, G group, P problem.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Role = Literal["student", "teacher"]
Split = Literal["train", "validation", "test"]
Status = Literal["passed", "failed", "timeout", "oom", "malformed", "infra_error", "unjudged"]
Comparison = Literal["exact", "equal", "float", "unordered"]
OutputComparison = Literal["lines", "exact", "tokens", "float"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one submission may use; CPU time is the real limit, wall time a generous cap."""

    cpu_s: float = 2.0
    wall_s: float = 20.0
    memory_mb: int = 512
    processes: int = 8
    output_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """One hidden test of a function task: ``entry_point(*args, **kwargs)``, and what is right then.

    The arguments and what is to be observed are all that ever enters the sandbox. Everything that
    is declared must hold.

    Attributes:
        args: positional arguments, plain data.
        expected: what must be returned; not looked at where there is a predicate or ``raises``.
        comparison: how, see ``pedrl_env.comparison.matches``; of ``arguments`` too.
        tolerance: relative and absolute, of the comparison ``float``.
        kwargs: arguments by name.
        raises: name of the builtin exception that the call must raise. All that is told of an
            exception is the first builtin class in its method resolution order: that one must be
            ``raises`` or derived from it.
        stdout: what the call must print through ``sys.stdout``, exactly.
        arguments: what the positional arguments must be after the call.
        items: if not 0, the result is iterated, and the list of its first ``items`` items (of all,
            where there are fewer) is what is compared.
        predicate: trusted source of ``accepts(args, value) -> bool``, which runs in a sandbox of
            the verifier: the value is plain data, but a hostile one.
    """

    args: tuple[Any, ...]
    expected: Any = None
    comparison: Comparison = "exact"
    tolerance: float = 1e-6
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    raises: str = ""
    stdout: str | None = None
    arguments: tuple[Any, ...] | None = None
    items: int = 0
    predicate: str = ""


@dataclass(frozen=True, slots=True)
class ScriptCase:
    """One hidden test of a script task: the submission is a program, run once per case.

    Attributes:
        stdin: its whole input.
        stdout: what it must print, see ``pedrl_env.comparison.prints``.
        comparison: ``lines``, ``exact``, ``tokens`` or ``float``.
        tolerance: relative and absolute, of the comparison ``float``.
        exit_code: with which it must end.
    """

    stdin: str
    stdout: str
    comparison: OutputComparison = "lines"
    tolerance: float = 1e-6
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class CheckProgram:
    """Hidden tests as trusted source, for suites that ship asserts (HumanEval).

    ``source`` runs on the verifier's side and defines ``check(candidate)``; ``candidate`` is a
    proxy whose calls are answered by the solver process, so asserts and expected values never
    enter the sandbox. ``preamble`` (the trusted prompt, say) is executed first.
    """

    source: str
    preamble: str = ""


@dataclass(frozen=True, slots=True)
class PytestProgram:
    """Hidden tests for pytest. The submission is the file ``solution.py`` beside ``Task.files``.

    pytest runs on the verifier's side, where no file of the submission is: importing one of
    ``modules`` gives proxies, and another sandbox answers for them. A test may be fooled all the
    same (by an object that equals every other object), so the verdict is weaker evidence.

    Attributes:
        files: relative path -> source of pristine tests, ``conftest.py`` and data.
        modules: the names that the workspace serves; all of its modules and packages when empty.
    """

    files: Mapping[str, str]
    modules: tuple[str, ...] = ()


Tests = tuple[Case, ...] | tuple[ScriptCase, ...] | CheckProgram | PytestProgram


@dataclass(frozen=True, slots=True, repr=False)
class Privileged:
    """What a teacher may see and a student may not. Its ``repr`` never shows the contents.

    Attributes:
        solution: a reference program.
        tests: the hidden tests, as text for a prompt.
        notes: facts that explain the solution (for lexicon: the glossary of coined words).
        feedback: execution feedback on an earlier attempt.
        derivation: a correct answer in the base model's own style; read by the `oracle-sft`
            control alone and rendered by no view.
    """

    solution: str = ""
    tests: str = ""
    notes: str = ""
    feedback: str = ""
    derivation: str = ""

    def __repr__(self) -> str:
        return "Privileged(<hidden>)"


@dataclass(frozen=True, slots=True)
class Task:
    """One problem. ``tests`` and ``privileged`` are hidden from repr, prompts and logs.

    Attributes:
        id: ``<suite>/<name>``, unique within its suite.
        prompt: what the student sees; a submission completes it (or replaces it whole, if it
            defines ``entry_point`` itself at the start of a line). Scripts and workspaces are
            never completed: the submission is all of the program, or all of ``solution.py``.
        entry_point: the function that the tests call; empty for scripts and workspaces.
        literal: the submission is one value, read by ``ast.literal_eval`` and never run.
        tests: cases, or programs that test.
        files: relative path -> text, beside the submission.
        tags: public facts for grouping results; never secrets.
    """

    id: str
    prompt: str
    entry_point: str
    tests: Tests = field(repr=False)
    privileged: Privileged = field(repr=False)
    split: Split
    limits: Limits = Limits()
    files: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    literal: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier says about one submission.

    Attributes:
        status: ``infra_error`` is a verdict that could not be had, ``unjudged`` one that nobody
            asked for; neither is ever counted as a failure of the policy.
        reward: 1.0 if every test passed, else 0.0; meaningless unless ``judged``.
        passed: number of tests passed, of ``total``.
        detail: one public line (an exception type, a limit); never an expected value.
        results: one public status per test, in order: ``passed``, ``wrong answer``, ``raised
            KeyError``, ``malformed``, ``not reached`` and the like.
        names: of the tests, where they have any (pytest), without their parameters.
        evidence: ``weak`` where the submission could have fooled a test, as in ``PytestProgram``.
    """

    status: Status
    reward: float
    passed: int
    total: int
    detail: str = ""
    results: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    evidence: Literal["strong", "weak"] = "strong"

    @property
    def judged(self) -> bool:
        """Whether the submission ran to a verdict, so that it may enter baselines and rates."""
        return self.status not in ("infra_error", "unjudged")


@dataclass(frozen=True, slots=True)
class Turn:
    """One generation. Token ids are kept as sampled and never re-tokenised.

    Attributes:
        prompt_ids: T_prompt token ids, unpadded.
        action_ids: T sampled token ids, the end-of-sequence token included when it was sampled.
        logprobs: T natural-log probabilities at sampling time, at its temperature, over the full
            vocabulary.
        stop: ``"eos"``, ``"stop"`` or ``"length"``.
    """

    prompt_ids: tuple[int, ...]
    action_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One rollout: who sampled what on which task, and how it was judged.

    ``turns`` of a teacher hold the privileged prompt; an export writes action ids only.
    """

    task_id: str
    group: int
    role: Role
    policy_version: int
    turns: tuple[Turn, ...]
    text: str
    verdict: Verdict
    seed: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Ask for ``samples`` rollouts on ``task``, seen through the view of ``role``.

    Attributes:
        judge: whether they are verified; an algorithm that reads no reward saves the executions.
    """

    task: Task
    role: Role
    samples: int
    judge: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """All rollouts of one request; what baselines are computed over."""

    task: Task
    role: Role
    trajectories: tuple[Trajectory, ...]


@dataclass(frozen=True, slots=True)
class MetricsRow:
    """One number, in long form: a row of ``metrics.parquet``.

    ``rollouts`` and ``tokens`` are the cumulative training budget at the time of measurement,
    teacher, discarded and probe rollouts included; evaluation rollouts are not charged.
    """

    run: str
    method: str
    seed: int
    step: int
    rollouts: int
    tokens: int
    wall_s: float
    split: str
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class TaskResult:
    """``correct`` of ``samples`` evaluation rollouts on one held-out task passed."""

    run: str
    method: str
    seed: int
    step: int
    rollouts: int
    split: str
    task_id: str
    samples: int
    correct: int


Submission = tuple[Task, str]
Submissions = Sequence[Submission]


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """One action sequence under one view: T values each, natural logs at the policy's temperature.

    Attributes:
        logprobs: log pi(action_t).
        gaps: max_a log pi(a) - log pi(action_t) >= 0, the surprise gap d_t.
        entropies: of the next-token distribution.
        ranks: 1 for the likeliest token.
    """

    logprobs: FloatArray
    gaps: FloatArray
    entropies: FloatArray
    ranks: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """What an algorithm says about one action sequence, beside the trajectory, never inside it.

    Each present term adds to the loss of `learner`; an absent one costs nothing.

    Attributes:
        learner: the role whose weights this moves.
        prompt_ids: the view under which `learner` must predict the actions.
        action_ids: T token ids, as sampled (or a demonstration, encoded once).
        advantages: T policy-gradient weights; needs `old_logprobs`.
        old_logprobs: T log-probabilities under the policy that sampled.
        ce_weights: T imitation weights (a gate); the learner divides by their sum over the batch.
        teacher_prompt_ids: the view under which the teacher's full distributions are the target of
            a per-token divergence.
    """

    learner: Role
    prompt_ids: tuple[int, ...]
    action_ids: tuple[int, ...]
    advantages: FloatArray | None = None
    old_logprobs: FloatArray | None = None
    ce_weights: FloatArray | None = None
    teacher_prompt_ids: tuple[int, ...] | None = None
