"""A real HTTP server that answers in the OpenAI format, and fails as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal["429", "500", "401", "404", "malformed", "reset"]
Answer = Callable[[str, int], str]
"""Of a prompt and a seed, what the model says."""


@dataclass
class Server:
    """What it is asked, and what it does next.

    Attributes:
        answer: the model.
        faults: for the next requests, one each; then it answers.
        delay_s: before each answer.
        down: every request is answered by 503.
        most: so many requests are answered, the next ones wait.
        seen: bodies, headers and paths of the requests.
    """

    answer: Answer
    faults: list[Fault] = field(default_factory=list)
    delay_s: float = 0.0
    down: bool = False
    most: int | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.in_flight += 1
                server.most_in_flight = max(server.most_in_flight, server.in_flight)
                server.seen.append({"path": self.path, "headers": dict(self.headers), "body": body})
                number = len(server.seen)
                fault = "503" if server.down else server.faults.pop(0) if server.faults else None
            try:
                self._answer(body, fault, number)
            except BrokenPipeError:
                self.close_connection = True  # whoever asked has given up
            finally:
                with server.lock:
                    server.in_flight -= 1

        def _answer(self, body: dict[str, Any], fault: str | None, number: int) -> None:
            if fault == "reset":
                self.connection.close()
                self.close_connection = True
                return
            if fault == "malformed":
                self._send(200, "<html>gateway</html>")
                return
            if fault is not None:
                message = {"error": {"message": f"told to; {self.headers.get('Authorization')}"}}
                self._send(int(fault), json.dumps(message))
                return
            time.sleep(server.delay_s)
            while server.most is not None and number > server.most:
                time.sleep(0.02)
            chat = self.path.endswith("/chat/completions")
            prompt = body["messages"][0]["content"] if chat else body["prompt"]
            text = server.answer(prompt, body["seed"])
            choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
            choice |= (
                {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            )
            usage = {"completion_tokens": len(text.split())}
            self._send(200, json.dumps({"choices": [choice], "usage": usage}))

        def _send(self, status: int, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """A server on a free port of this machine."""
    server = Server(answer)
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
