"""`pedrl evaluate --policy openai:URL#model`: a server answers, and the code is judged."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pedrl_agents.ending import code
from pedrl_agents.endpoint import Answer, Client, Endpoint, Lost, Question
from pedrl_agents.views import question
from pedrl_env.records import Task
from pedrl_env.verifier import Verifier
from pedrl_experiments.evaluate_run import Evaluation
from pedrl_experiments.evaluate_store import Place, Rollout


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
        return {"prompt_format": self.endpoint.protocol}

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
        chat = self.endpoint.protocol == "chat"
        return Question(question(task) if chat else task.prompt, seed)

    def _unjudged(self, place: Place, answer: Answer) -> Rollout:
        program = code("fence" if self.endpoint.protocol == "chat" else "body", answer.text)
        cut, tokens = answer.truncated, answer.tokens
        return Rollout(*place, answer.text, program, cut, tokens, "unjudged", 0, 0, "")
