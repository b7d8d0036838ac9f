"""Answers from a server that speaks the OpenAI protocol: vLLM, llama.cpp, a paid service.

What a server cannot give after some tries is lost, which says nothing of the model; what it refuses
for good (a key, a model that it does not have) ends everything. Left out: streaming, several
answers to one request (each has a seed of its own), log-probabilities, tools.
"""

import json
import os
import queue
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

import urllib3
from urllib3.util import Retry, Timeout

from pedrl_sandbox.errors import PedrlError, unknown_name

Protocol = Literal["chat", "completion"]
KEY: Final = "OPENAI_API_KEY"
TRANSIENT: Final = (408, 409, 425, 429, 500, 502, 503, 504)
WAIT_AT_MOST_S: Final = 60
MALFORMED_TRIES: Final = 3
MESSAGE: Final = 300  # characters of a server's own words


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind a server, and how it is asked.

    Attributes:
        url: of the API, without the path of a route: ``http://localhost:8000/v1``.
        model: as the server calls it.
        protocol: ``chat`` sends one user message to ``/chat/completions``; ``completion`` sends the
            text itself to ``/completions``.
        max_new_tokens, temperature: of sampling; ``top_p`` is always 1.
        timeout_s: for one answer, per read.
        retries: after a refused connection, a broken one, 429 or 5xx, with growing pauses or the
            one that the server asks for: seven bridge about a minute.
        concurrency: requests in flight.
    """

    url: str
    model: str
    protocol: Protocol = "chat"
    max_new_tokens: int = 512
    temperature: float = 1.0
    timeout_s: float = 300.0
    retries: int = 7
    concurrency: int = 8

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise unknown_name("format of an endpoint", self.protocol, get_args(Protocol))
        if self.concurrency < 1 or self.retries < 0 or self.timeout_s <= 0:
            raise PedrlError(
                f"concurrency must be at least 1 ({self.concurrency}), retries at least 0 "
                f"({self.retries}) and the timeout above 0 ({self.timeout_s:g})"
            )

    @staticmethod
    def address(policy: str) -> tuple[str, str]:
        """Split ``openai:URL#model`` into URL and model.

        Raises:
            PedrlError: it is not of that form, or the URL holds secrets or a query.
        """
        url, _, model = policy.removeprefix("openai:").partition("#")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not model:
            raise PedrlError(
                f"policy {policy!r}: write openai:URL#MODEL, for example "
                "openai:http://localhost:8000/v1#Qwen/Qwen2.5-Coder-0.5B-Instruct"
            )
        if parts.username or parts.password or parts.query:
            raise PedrlError(
                f"the URL of {parts.hostname} must hold no key, password or query, since it is "
                f"written down with the results: put the key into the environment as {KEY}"
            )
        return url.rstrip("/"), model


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said.

    Attributes:
        text: of the answer, as it came.
        truncated: whether it ended at the longest length that was allowed.
        tokens: how many it had, where the server counts them.
    """

    text: str
    truncated: bool
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, and the seed that the server is asked to sample with (31 bits)."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Lost:
    """An answer that could not be had, and why; nobody's failure but the infrastructure's."""

    reason: str


class Client:
    """Asks one endpoint; connections are kept and shared by threads.

    Args:
        endpoint: whom to ask.
        key: of the service; from the environment if not given. It is sent as a header and
            appears nowhere else.
    """

    def __init__(self, endpoint: Endpoint, key: str | None = None) -> None:
        self.endpoint = endpoint
        self._key = os.environ.get(KEY, "") if key is None else key
        route = "/chat/completions" if endpoint.protocol == "chat" else "/completions"
        self._url = endpoint.url + route
        retry = Retry(
            total=endpoint.retries,
            status_forcelist=TRANSIENT,
            allowed_methods=None,  # all: to ask again does no harm
            redirect=False,
            backoff_factor=0.5,
            backoff_max=WAIT_AT_MOST_S // 2,
            backoff_jitter=0.25,
            retry_after_max=WAIT_AT_MOST_S,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(
            maxsize=endpoint.concurrency,
            retries=retry,
            timeout=Timeout(connect=min(10.0, endpoint.timeout_s), read=endpoint.timeout_s),
        )

    def ask(self, question: Question) -> Answer | Lost:
        """Have one question answered.

        Raises:
            PedrlError: the server refuses it in a way that asking again does not change.
        """
        reason = ""
        for _ in range(MALFORMED_TRIES):
            try:
                reply = self._pool.request(
                    "POST", self._url, json=self._body(question), headers=self._headers()
                )
            except urllib3.exceptions.HTTPError as error:
                return Lost(self._said(innermost(error)))
            if reply.status in TRANSIENT or reply.status >= 500:
                return Lost(f"{reply.status} {self._said(reply.data)}".strip())
            if reply.status != 200:
                raise self._refusal(reply.status, reply.data)
            try:
                return self._read(json.loads(reply.data))
            except (ValueError, KeyError, IndexError, TypeError):
                reason = f"malformed answer {self._said(reply.data)!r}"
        return Lost(reason)

    def ask_all(self, questions: Sequence[Question]) -> Iterator[list[tuple[int, Answer | Lost]]]:
        """Have questions answered side by side; yields what has come in, with their indices.

        Once as many answers in a row are lost as requests are in flight, the server is taken for
        gone: the rest is not asked for, and not yielded.

        Raises:
            PedrlError: see ``ask``.
        """
        todo = iter(list(enumerate(questions)))
        done: queue.SimpleQueue[tuple[int, Answer | Lost | BaseException]] = queue.SimpleQueue()
        turn, stop = threading.Lock(), threading.Event()

        def work() -> None:
            while not stop.is_set():
                with turn:
                    item = next(todo, None)
                if item is None:
                    return
                index, question = item
                try:
                    done.put((index, self.ask(question)))
                except BaseException as error:  # raised again where somebody waits for it
                    done.put((index, error))

        workers = min(self.endpoint.concurrency, len(questions))
        for _ in range(workers):  # daemons: an interrupted command does not wait for a server
            threading.Thread(target=work, daemon=True).start()
        left, lost = len(questions), 0
        try:
            while left and lost < workers:
                came = [done.get()]
                while not done.empty():
                    came.append(done.get())
                left -= len(came)
                answers: list[tuple[int, Answer | Lost]] = []
                for index, answer in came:
                    if isinstance(answer, BaseException):
                        raise answer
                    lost = lost + 1 if isinstance(answer, Lost) else 0
                    answers.append((index, answer))
                yield answers
        finally:
            stop.set()

    def _body(self, question: Question) -> dict[str, Any]:
        endpoint = self.endpoint
        body: dict[str, Any] = {
            "model": endpoint.model,
            "max_tokens": endpoint.max_new_tokens,
            "temperature": endpoint.temperature,
            "top_p": 1.0,
            "seed": question.seed,
        }
        if endpoint.protocol == "chat":
            return body | {"messages": [{"role": "user", "content": question.prompt}]}
        return body | {"prompt": question.prompt}

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _read(self, plain: Any) -> Answer:
        """Read a reply; what is not of the protocol raises one of four built-in exceptions."""
        choice = plain["choices"][0]
        text = choice["message"]["content"] if self.endpoint.protocol == "chat" else choice["text"]
        if not isinstance(text, str | None):
            raise TypeError(text)
        tokens = (plain.get("usage") or {}).get("completion_tokens")
        return Answer(
            text or "",  # null is what some servers say for nothing
            choice.get("finish_reason") == "length",
            tokens if type(tokens) is int else None,
        )

    def _refusal(self, status: int, data: bytes) -> PedrlError:
        hint = {
            401: f"; set the key as {KEY} in the environment",
            403: f"; set a key that may do this as {KEY} in the environment",
            404: "; is the URL that of the API, usually ending in /v1, and the model served there?",
        }.get(status, "")
        return PedrlError(f"{self._url} answers {status}: {self._said(data) or 'nothing'}{hint}")

    def _said(self, words: object) -> str:
        return message(words, self._key)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def message(words: object, key: str = "") -> str:
    """A server's own words in one short line, should they hold the key without it."""
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
    if found := re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', text):
        text = found[1]
    if key:
        text = text.replace(key, "***")
    return " ".join(text.split())[:MESSAGE]


def innermost(error: BaseException) -> BaseException:
    """What was behind it all: ``Connection refused``, not how often that was met."""
    while True:
        inner = [getattr(error, "reason", None), error.__cause__, *error.args]
        below = next((e for e in inner if isinstance(e, BaseException)), None)
        if below is None:
            return error
        error = below
