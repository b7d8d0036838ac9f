"""Servers that are no vLLM, or not the one that is needed: one clear sentence each. No vLLM here.

What a real one does is tested in tests/vllm.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from pedrl_agents import vllm_http
from pedrl_agents.torch_policy import Sampling, load_policy
from pedrl_agents.vllm_engine import VllmSettings
from pedrl_agents.vllm_server import VllmServer
from pedrl_env.records import GenerationRequest
from pedrl_experiments.config import CompareConfig
from pedrl_experiments.runner import check_workers
from pedrl_sandbox.errors import PedrlError
from tests.small_models import small_model
from tests.tiny import make_task

Answers = Mapping[str, tuple[int, bytes]]
"""Of a path: status and body; 404 for any other."""


@contextmanager
def answering(answers: Answers, delay_s: float = 0.0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(delay_s)
            status, body = answers.get(
                self.path.partition("?")[0], (404, b'{"detail":"Not Found"}')
            )
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model("llama", tmp_path_factory.mktemp("model"))


def plain(value: object) -> tuple[int, bytes]:
    return 200, json.dumps(value).encode()


def info(checkpoint: Path, **changes: object) -> tuple[int, bytes]:
    """What vLLM 0.32 says at /server_info, as far as it is looked at."""
    model: dict[str, object] = {
        "model": str(checkpoint),
        "dtype": "torch.float32",
        "logprobs_mode": "processed_logprobs",
        "quantization": None,
        "max_model_len": 512,
        "hf_overrides": {},
    }
    return plain({"vllm_config": {"model_config": model | changes}})


def fine(checkpoint: Path) -> dict[str, tuple[int, bytes]]:
    """A server with nothing wrong that takes up weights, or says so."""
    return {
        "/server_info": info(checkpoint),
        "/inference/v1/abort_requests": (200, b""),
        "/update_weight_version": plain({"success": True}),
        "/collective_rpc": plain({"results": [None]}),
        "/reset_prefix_cache": plain({"success": True}),
    }


def ask(checkpoint: Path, settings: VllmSettings) -> None:
    engine = VllmServer(checkpoint, settings)
    policy = load_policy(checkpoint, Sampling(8), engine=engine)
    policy.generate([GenerationRequest(make_task("one", "def f(x):\n"), "student", 2)], 1)


def refused(checkpoint: Path, answers: Answers, folder: str = "") -> str:
    with answering(answers) as url, pytest.raises(PedrlError) as caught:
        ask(checkpoint, VllmSettings(url=url, folder=folder))
    return str(caught.value)


def test_nobody_is_there(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_http, "TRIES", 1)
    with answering({}) as url:
        pass
    with pytest.raises(PedrlError, match=r"no vLLM server answers at .*Connection refused.*start"):
        VllmServer(checkpoint, VllmSettings(url=url))


def test_a_server_that_thinks_is_waited_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_http, "CONNECT_S", 0.2)
    with answering(fine(checkpoint), delay_s=0.5) as url:
        VllmServer(checkpoint, VllmSettings(url=url))


def test_it_is_no_vllm(checkpoint: Path) -> None:
    said = refused(checkpoint, {"/server_info": (200, b"<html>hello</html>")})
    assert "is no vLLM server: /server_info" in said
    assert "<html>hello</html>" in said
    assert "is no vLLM server that pedrl knows" in refused(
        checkpoint, {"/server_info": plain({"vllm_config": "as text"})}
    )


def test_it_lacks_routes(checkpoint: Path) -> None:
    said = refused(checkpoint, {})
    assert "has no /server_info: it is not vLLM, or was started without" in said
    assert f"VLLM_SERVER_DEV_MODE=1 vllm serve {checkpoint} --enable-scale-out" in said
    assert "has no /inference/v1/abort_requests" in refused(
        checkpoint, {"/server_info": info(checkpoint)}
    )


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"dtype": "torch.bfloat16"}, "--dtype bfloat16, and float32"),
        ({"logprobs_mode": "raw_logprobs"}, "--logprobs-mode raw_logprobs, and processed_logprobs"),
        ({"quantization": "fp8"}, "--quantization fp8, and none"),
    ],
)
def test_its_settings_are_others(checkpoint: Path, changes: dict[str, object], flag: str) -> None:
    assert f"runs with {flag} is needed" in refused(
        checkpoint, fine(checkpoint) | {"/server_info": info(checkpoint, **changes)}
    )


def test_its_model_is_another(checkpoint: Path, tmp_path: Path) -> None:
    other = small_model("llama", tmp_path / "deeper", layers=3)
    for changes in ({"model": str(other)}, {"hf_overrides": {"rope_theta": 5.0}}):
        said = refused(
            checkpoint, {**fine(checkpoint), "/server_info": info(checkpoint, **changes)}
        )
        assert f"which is another model than {checkpoint}: start it with" in said


def test_it_cannot_take_up_the_weights(checkpoint: Path, tmp_path: Path) -> None:
    told = plain({"error": {"message": "Worker failed with error 'Repo id must be'"}})[1]
    said = refused(checkpoint, fine(checkpoint) | {"/collective_rpc": (500, told)}, str(tmp_path))
    assert "by 500: Worker failed with error 'Repo id must be'; it must serve" in said
    assert f"and see {tmp_path}" in said
    assert not list(tmp_path.glob("*/*"))  # no weights stay behind


def test_it_samples_for_others(checkpoint: Path) -> None:
    busy = {"/reset_prefix_cache": plain({"success": False})}
    assert "for somebody else: it can serve one run at a time" in refused(
        checkpoint, fine(checkpoint) | busy
    )


def stream(tokens: list[int], logprob: float, *, last: str | None = None) -> tuple[int, bytes]:
    content = [{"token_id": t, "logprob": logprob} for t in tokens]
    choice = {"index": 0, "finish_reason": last, "logprobs": {"content": content}}
    return 200, b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\ndata: [DONE]\n\n"


def test_what_it_samples_is_not_the_policys(checkpoint: Path) -> None:
    torch.set_num_threads(1)
    route = "/inference/v1/generate"
    said = refused(checkpoint, fine(checkpoint) | {route: stream([5] * 8, -3.0)})
    assert "took up the policy's weights, but its log-probabilities are" in said
    said = refused(checkpoint, fine(checkpoint) | {route: stream([5, 6], -6.0, last="abort")})
    assert "ended an answer after 2 of 8 tokens: somebody aborted it" in said
    broken = b'data: {"error": {"message": "EngineCore encountered an issue"}}\n\n'
    said = refused(checkpoint, fine(checkpoint) | {route: (200, broken)})
    assert "broke off an answer: EngineCore encountered an issue" in said


def test_a_prompt_without_room_for_its_answer_is_refused(checkpoint: Path) -> None:
    small = {"/server_info": info(checkpoint, max_model_len=9)}
    assert "vLLM was started for 9: raise" in refused(checkpoint, fine(checkpoint) | small)


def test_settings() -> None:
    with pytest.raises(PedrlError, match=r"vllm\.url must be like http://localhost:8000, not 'lo"):
        CompareConfig(backend="vllm", vllm={"url": "localhost:8000"})
    config = CompareConfig(backend="vllm", vllm={"url": "http://localhost:8000"})
    check_workers(1, config)
    with pytest.raises(PedrlError, match="serves one run at a time: add --workers 1"):
        check_workers(0, config)


def test_a_folder_that_is_not_there(checkpoint: Path, tmp_path: Path) -> None:
    said = refused(checkpoint, fine(checkpoint), str(tmp_path / "nowhere"))
    assert "No such file or directory" in said
    assert "set vllm.folder" in said
