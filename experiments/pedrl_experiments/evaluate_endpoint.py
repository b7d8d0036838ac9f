"""`pedrl evaluate --policy openai:URL#model`: a server answers; we take the code and judge it."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pedrl_agents.endpoint import Answer, Client, Endpoint, Lost, Protocol, Question
from pedrl_env.records import PytestProgram, ScriptCase, Task
from pedrl_env.verifier import Verifier
from pedrl_experiments.evaluate_run import Evaluation
from pedrl_experiments.evaluate_store import Place, Rollout

FENCE: Final = re.compile(r"^```[^\n]*\n(.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)
ASK: Final = "Answer with the whole program in one ```python block.\n\n"


class EndpointSampler:
    """Asks a server; each rollout is a request of its own, with a seed of its own.

    Args:
        evaluation: what is asked.
        tasks: of it.
        endpoint: who is asked.
    """

    def __init__(self, evaluation: Evaluation, tasks: Sequence[Task], endpoint: Endpoint) -> None:
        self.evaluation, self.endpoint = evaluation, endpoint
        self._tasks = {task.id: task for task in tasks}
        self.trouble = ""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The format; the rest is in the evaluation, and the key nowhere."""
        return {"format": self.endpoint.protocol}

    def units(self) -> Sequence[Sequence[Place]]:
        """Every rollout by itself."""
        return [[(i, n)] for i in self._tasks for n in range(self.evaluation.samples)]

    def sample(
        self, units: Sequence[Sequence[Place]], verifier: Verifier
    ) -> Iterator[Sequence[Rollout]]:
        """Ask, and judge whatever has come in while the next answers are on their way."""
        places = [place for unit in units for place in unit]
        with Client(self.endpoint) as client:
            for came in client.ask_all([self._question(place) for place in places]):
                answered = [self._unjudged(places[i], a) for i, a in came if isinstance(a, Answer)]
                for _, answer in came:
                    self.trouble = answer.reason if isinstance(answer, Lost) else self.trouble
                submissions = [(self._tasks[r.task], r.program) for r in answered]
                verdicts = verifier.verify_batch(submissions)
                yield [r.judged(v) for r, v in zip(answered, verdicts, strict=True)]

    def _question(self, place: Place) -> Question:
        task = self._tasks[place[0]]
        seed = self.evaluation.draw(*place, bits=31)
        if self.endpoint.protocol == "completion":
            return Question(task.prompt, seed)
        return Question(chat_prompt(task), seed)

    def _unjudged(self, place: Place, answer: Answer) -> Rollout:
        program = taken(self._tasks[place[0]], answer.text, self.endpoint.protocol)
        cut, tokens = answer.truncated, answer.tokens
        return Rollout(*place, answer.text, program, cut, tokens, "unjudged", 0, 0, "")


def chat_prompt(task: Task) -> str:
    """What a chat model is told: what is wanted, and the prompt of the task."""
    if task.literal:
        return f"Answer with the value alone, as a Python literal.\n\n{task.prompt}"
    if _whole(task):
        return f"Write a Python program. {ASK}{task.prompt}"
    return f"Complete this Python program. {ASK}```python\n{task.prompt}\n```\n"


def taken(task: Task, text: str, protocol: Protocol) -> str:
    """The program in an answer.

    Of a chat, the last fenced block that defines the entry point, the last one where none does, and
    the whole text where there is no fence; a fence that was never closed ends with the text. Of a
    completion, the lines up to the first that is not indented, which the function cannot own.
    """
    if protocol == "completion":
        return text if task.literal or _whole(task) else _body(text)
    blocks: list[str] = FENCE.findall(text)
    name = re.escape(task.entry_point)
    if not task.literal and task.entry_point:
        blocks = [b for b in blocks if re.search(rf"^(async )?def {name}\b", b, re.M)] or blocks
    return blocks[-1] if blocks else text


def _whole(task: Task) -> bool:
    """Whether an answer is all of a program, and no continuation of a prompt."""
    tests = task.tests
    script = isinstance(tests, tuple) and bool(tests) and isinstance(tests[0], ScriptCase)
    return script or isinstance(tests, PytestProgram)


def _body(text: str) -> str:
    first, *rest = text.splitlines(keepends=True) or [""]
    owned = itertools.takewhile(lambda line: not line.strip() or line[0] in " \t)]}#", rest)
    return "".join([first, *owned])
