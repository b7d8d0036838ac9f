"""The client of a server: what it sends, what it bears, what it gives up on."""

import socket
import time
from collections.abc import Iterator

import pytest

from pedrl_agents.endpoint import Answer, Client, Endpoint, Lost, Question
from pedrl_sandbox.errors import PedrlError
from tests.openai_server import Fault, Server, serving

KEY = "sk-secret-4711"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda prompt, seed: f"{prompt} {seed}") as running:
        yield running


def client(server: Server, **settings: float) -> Client:
    plain = {"timeout_s": 5.0, "retries": 2, "concurrency": 3, **settings}
    return Client(Endpoint(server.url, "m/x", **plain), KEY)  # type: ignore[arg-type]


def test_what_is_sent(server: Server) -> None:
    endpoint = Endpoint(server.url, "m/x", max_new_tokens=7, temperature=0.5)
    with Client(endpoint, KEY) as chat:
        assert chat.ask(Question("hello", 3)) == Answer("hello 3", False, 2)
    completion = Endpoint(server.url, "m/x", "completion")
    with Client(completion, "") as plain:
        assert plain.ask(Question("hello", 4)) == Answer("hello 4", False, 2)
    first, second = server.seen
    assert first["path"] == "/v1/chat/completions"
    assert first["headers"]["Authorization"] == f"Bearer {KEY}"
    assert first["body"] == {
        "model": "m/x",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": 3,
    }
    assert second["path"] == "/v1/completions"
    assert second["body"]["prompt"] == "hello"
    assert "Authorization" not in second["headers"]


def test_the_key_comes_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-outside")
    with Client(Endpoint(server.url, "m")) as asked:
        asked.ask(Question("x", 0))
    assert server.seen[0]["headers"]["Authorization"] == "Bearer from-outside"


@pytest.mark.parametrize(
    "faults", [["429"], ["500"], ["reset"], ["malformed"], ["429", "reset"], ["malformed", "500"]]
)
def test_faults_that_pass_are_borne(server: Server, faults: list[Fault]) -> None:
    server.faults = list(faults)
    with client(server) as asked:
        assert asked.ask(Question("x", 1)) == Answer("x 1", False, 2)
    assert len(server.seen) == len(faults) + 1


def test_faults_that_stay_lose_the_answer_and_say_why(server: Server) -> None:
    server.down = True
    with client(server, retries=1) as asked:
        lost = asked.ask(Question("x", 1))
    assert lost == Lost("503 told to; Bearer ***")
    assert len(server.seen) == 2
    server.down, server.faults = False, ["reset"] * 3
    with client(server) as asked:
        assert asked.ask(Question("x", 1)) == Lost("Remote end closed connection without response")
    server.seen.clear()
    server.faults = ["malformed"] * 3
    with client(server) as asked:
        assert asked.ask(Question("x", 1)) == Lost("malformed answer '<html>gateway</html>'")
    assert len(server.seen) == 3


def test_nobody_there_and_too_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Client(Endpoint(f"http://127.0.0.1:{port}/v1", "m", retries=1), "") as asked:
        lost = asked.ask(Question("x", 1))
    assert isinstance(lost, Lost)
    assert "refused" in lost.reason
    with serving(lambda prompt, seed: "late") as server:
        server.delay_s = 2.0
        start = time.monotonic()
        with client(server, timeout_s=0.2, retries=1) as asked:
            lost = asked.ask(Question("x", 1))
        assert isinstance(lost, Lost)
        assert "timed out" in lost.reason
        assert time.monotonic() - start < 2.0
        assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [("401", "answers 401: told to; .*set the key as OPENAI_API_KEY"), ("404", "model served the")],
)
def test_what_is_refused_for_good_ends_everything(
    server: Server, fault: Fault, message: str
) -> None:
    server.faults = [fault] * 9
    with client(server) as asked, pytest.raises(PedrlError, match=message) as caught:
        list(asked.ask_all([Question("x", n) for n in range(9)]))
    assert KEY not in str(caught.value)
    assert len(server.seen) <= 6  # those in flight, and no second try


def test_many_at_once_but_no_more_than_allowed(server: Server) -> None:
    server.delay_s = 0.02
    questions = [Question(f"q{n}", n) for n in range(20)]
    with client(server) as asked:
        answers = dict(pair for came in asked.ask_all(questions) for pair in came)
    assert answers == {n: Answer(f"q{n} {n}", False, 2) for n in range(20)}
    assert server.most_in_flight == 3


def test_a_server_that_is_gone_is_not_asked_for_all_the_rest(server: Server) -> None:
    server.down = True
    with client(server, retries=0) as asked:
        came = [
            pair for some in asked.ask_all([Question("x", n) for n in range(50)]) for pair in some
        ]
    assert {type(answer) for _, answer in came} == {Lost}
    assert 3 <= len(server.seen) <= 8


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("openai:localhost:8000#m", "write openai:URL#MODEL"),
        ("openai:http://localhost:8000/v1", "write openai:URL#MODEL"),
        ("openai:http://me:pw@host/v1#m", "URL of host must hold no key"),
        ("openai:http://host/v1?api-key=1#m", "put the key into the environment"),
    ],
)
def test_addresses_that_are_none(policy: str, message: str) -> None:
    with pytest.raises(PedrlError, match=message) as caught:
        Endpoint.address(policy)
    assert "pw@" not in str(caught.value)


def test_an_address() -> None:
    found = Endpoint.address("openai:http://localhost:8000/v1/#Qwen/Qwen2.5-Coder-0.5B")
    assert found == ("http://localhost:8000/v1", "Qwen/Qwen2.5-Coder-0.5B")
