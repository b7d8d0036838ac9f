"""Judge submissions by running them: two processes, one verdict, each program once.

The solver process, inside the sandbox, holds the submission and the arguments. Tests and expected
values stay on this side, where returned plain data is compared as the task declares. A check
program (asserts, as in HumanEval) runs in a sandbox of its own that never sees the submission: its
``candidate`` is a proxy, see ``pedrl_env.checking``.

A thread of its own does the running (``pedrl_env.owner``), so a caller may go on meanwhile: see
``Stream``.
"""

import hashlib
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final, Self

from pedrl_env.grader import Grader
from pedrl_env.grading_prepare import Prepared, prepare
from pedrl_env.owner import Owner
from pedrl_env.records import PytestProgram, ScriptCase, Submission, Task, Verdict

MAX_WORKERS: Final = 4


@dataclass(frozen=True, slots=True)
class VerifierStats:
    """What verifying has cost so far.

    Attributes:
        executions: programs that were run to a verdict; retries are not counted again.
        cache_hits: submissions that were answered from the cache, or by a twin in their batch.
        infra_errors: verdicts that could not be had. Never cached.
        wall_s: seconds that callers spent on submitting and on waiting for verdicts.
        cpu_s: CPU seconds spent in the sandbox; this process's own are not among them.
    """

    executions: int = 0
    cache_hits: int = 0
    infra_errors: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


def default_workers() -> int:
    """As many sandboxes as there are CPUs, up to four."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


def assemble(task: Task, action: str) -> str:
    """The program that ``action`` stands for: a completion of the prompt, or a whole program.

    It is whole when it defines the entry point itself at the start of a line. Decided by a pattern,
    since hostile text must never reach a parser on this side. Scripts and workspaces are taken as
    they are; of a literal, the program does nothing but read it.
    """
    if task.literal:
        read = f"ast.literal_eval({action.strip()!r})"
        return f"import ast\ndef {task.entry_point}():\n    return {read}\n"
    tests = task.tests
    script = isinstance(tests, tuple) and tests and isinstance(tests[0], ScriptCase)
    if script or isinstance(tests, PytestProgram):
        return action
    name = re.escape(task.entry_point)
    if re.search(
        rf"^(?:(?:async[ \t]+)?def|class)[ \t]+{name}\b|^{name}[ \t]*=(?!=)", action, re.M
    ):
        return action
    return task.prompt + action


class Verifier:
    """Turns submissions into verdicts.

    Args:
        sandbox: name of a sandbox; it starts at the first submission.
        cache: whether an identical submission to the same task is run only once.
        workers: sandboxes that run side by side; as many as there are CPUs, up to four, when None.

    Raises:
        PedrlError: the sandbox is not known.
        IsolationUnavailableError: it cannot work on this machine.
    """

    def __init__(
        self, sandbox: str = "zygote", *, cache: bool = True, workers: int | None = None
    ) -> None:
        if workers is None:
            workers = default_workers()
        self._grader = Grader(sandbox, workers)
        self._owner = Owner()
        self._caching = cache
        self._cache: dict[bytes, Verdict] = {}
        self._same: dict[Verdict, Verdict] = {}  # equal verdicts are kept once, however many
        self._known: dict[str, Prepared] = {}
        self._executions = self._cache_hits = self._infra_errors = 0
        self._waited_s = self._cpu_s = 0.0

    @property
    def stats(self) -> VerifierStats:
        """What verifying has cost so far."""
        return VerifierStats(
            self._executions, self._cache_hits, self._infra_errors, self._waited_s, self._cpu_s
        )

    def verify(self, task: Task, action: str) -> Verdict:
        """Judge one submission; see ``verify_batch``."""
        return self.verify_batch([(task, action)])[0]

    def verify_batch(self, submissions: Sequence[Submission]) -> list[Verdict]:
        """Judge submissions; identical ones are run once.

        Returns:
            One verdict for each submission, in their order.

        Raises:
            PedrlError: a task has no tests, or tests that do not run.
            IsolationUnavailableError: the sandbox does not start here.
        """
        with self.stream() as stream:
            for task, action in submissions:
                stream.submit(task, action)
            return stream.verdicts()

    def stream(self) -> "Stream":
        """Judge submissions while the caller does something else."""
        return Stream(self)

    def _grade(self, asked: Sequence["_Asked"]) -> tuple[dict[bytes, Verdict], float]:
        """Run submissions to their verdicts, in the thread that owns the sandboxes."""
        graded = self._grader.grade([(item.prepared, item.program) for item in asked])
        verdicts = {item.key: verdict for item, (verdict, _) in zip(asked, graded, strict=True)}
        had = {key: verdict for key, verdict in verdicts.items() if verdict.judged}
        cpu_s = sum(used for _, used in graded)
        self._cpu_s += cpu_s
        self._infra_errors += len(verdicts) - len(had)
        if self._caching:
            for key, verdict in had.items():
                self._keep(verdict, [key])
        return verdicts, cpu_s

    def _keep(self, verdict: Verdict, keys: Iterable[bytes]) -> None:
        self._cache |= dict.fromkeys(keys, self._same.setdefault(verdict, verdict))

    def _know(self, task: Task) -> Prepared:
        """What all submissions to ``task`` share, made once."""
        known = self._known.get(task.id)
        if known is None or known.task is not task:
            known = self._known[task.id] = prepare(task)
        return known

    def cache_state(self) -> list[tuple[dict[str, Any], list[str]]]:
        """The cache as JSON-able data, for a run that is resumed: verdicts and whose they are."""
        whose: dict[int, list[str]] = {id(verdict): [] for verdict in self._same}
        for key, verdict in self._cache.items():
            whose[id(verdict)].append(key.hex())
        return [(asdict(verdict), whose[id(verdict)]) for verdict in self._same]

    def load_cache_state(self, state: Sequence[tuple[dict[str, Any], list[str]]]) -> None:
        """Take over what ``cache_state`` returned."""
        for fields, keys in state:
            lists = {name: tuple(fields[name]) for name in ("results", "names")}
            self._keep(Verdict(**{**fields, **lists}), map(bytes.fromhex, keys))

    def close(self) -> None:
        """End the thread and the sandboxes."""
        self._owner.close()
        self._grader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Stream:
    """Submissions that are judged while their author goes on: ``with verifier.stream() as stream``.

    Verdicts, and what is run and what is not, depend on the order of the submissions and not on
    time. (Two streams that are open at once may each run the same program.) Left early, by whatever
    exception, it kills what runs and forgets the rest.

    Attributes:
        cpu_s: CPU seconds that sandboxes spent on these submissions so far.
    """

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._keys: list[bytes] = []
        self._verdicts: dict[bytes, Verdict] = {}
        self._asked: set[bytes] = set()
        self._waiting: deque[_Asked] = deque()
        self._runs: list[Future[None]] = []
        self._due = False  # a run that has not begun takes all that waits by then
        self._broken = False
        self.cpu_s = 0.0

    def submit(self, task: Task, action: str) -> None:
        """Have one submission judged, unless an identical one was.

        Raises:
            PedrlError: the task has no tests.
            IsolationUnavailableError: an earlier submission found that the sandbox does not start.
        """
        start = time.monotonic()
        if self._broken:
            self._wait()
        verifier = self._verifier
        program, prepared = assemble(task, action), verifier._know(task)
        key = _key(prepared, program) if verifier._caching else b"%d" % len(self._keys)
        if key not in self._asked and key in verifier._cache:
            self._verdicts[key] = verifier._cache[key]
        if key in self._asked or key in self._verdicts:
            verifier._cache_hits += 1
        else:
            verifier._executions += 1
            self._asked.add(key)
            self._waiting.append(_Asked(key, program, prepared))
            if not self._due:
                self._due = True
                self._runs.append(verifier._owner.submit(self._run))
        self._keys.append(key)
        verifier._waited_s += time.monotonic() - start

    def _run(self) -> None:
        """In the owner's thread: judge all that waits by now."""
        self._due = False  # before looking: what comes later has a run of its own
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if self._broken or not batch:
            return
        try:
            verdicts, cpu_s = self._verifier._grade(batch)
            self._verdicts |= verdicts
            self.cpu_s += cpu_s
        except BaseException:
            self._broken = True
            raise

    def verdicts(self) -> list[Verdict]:
        """Wait for the verdicts of all submissions so far; they are in the order of these.

        Raises:
            IsolationUnavailableError: the sandbox does not start here.
        """
        start = time.monotonic()
        self._wait()
        self._verifier._waited_s += time.monotonic() - start
        return [self._verdicts[key] for key in self._keys]

    def _wait(self) -> None:
        for run in self._runs:
            run.result()
        self._runs.clear()

    def close(self) -> None:
        """Give up what is not there yet, and kill what runs for it."""
        self._waiting.clear()
        verifier = self._verifier
        if verifier._owner.stop(self._runs, verifier._grader.owners):
            verifier._grader.reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Asked:
    key: bytes
    program: str
    prepared: Prepared


def _key(prepared: Prepared, program: str) -> bytes:
    text = program.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(prepared.fingerprint + text, digest_size=16).digest()
