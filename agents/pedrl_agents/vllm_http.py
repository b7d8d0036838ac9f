"""What is said to a vLLM server, and what it says; its refusals, and ours, in clear words."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import urllib3
from transformers import AutoConfig, PretrainedConfig
from urllib3.util import Retry, Timeout

from pedrl_agents.endpoint import innermost, message
from pedrl_agents.vllm_engine import VllmSettings
from pedrl_agents.vllm_heads import Widening, widening
from pedrl_sandbox.errors import PedrlError

LOGPROBS: Final = "processed_logprobs"  # of the distribution that it draws from
SERVE: Final = (
    f"VLLM_SERVER_DEV_MODE=1 vllm serve {{}} --enable-scale-out --logprobs-mode {LOGPROBS} "
    "--dtype {}"
)
FLAGS: Final = ("--logprobs-mode", "--dtype", "--quantization")
UNTOLD: Final = ("_name_or_path", "dtype", "transformers_version")  # of a config: not the model
CONNECT_S: Final = 10.0
SILENT_S: Final = 600.0  # between two tokens of an answer, and while it reads weights
TRIES: Final = 5  # with growing pauses: about eight seconds


class VllmHttp:
    """Connections to one server, kept and shared by threads.

    Args:
        checkpoint: what it should serve.
        settings: whose ``url``, ``dtype`` and ``max_num_seqs`` are meant.

    Attributes:
        url: of the server.
        start: the command that starts one as it is needed.
    """

    def __init__(self, checkpoint: Path, settings: VllmSettings) -> None:
        self.url, self._dtype = settings.url.rstrip("/"), settings.dtype
        self._checkpoint = checkpoint
        self.start = SERVE.format(checkpoint, settings.dtype)
        # To ask again does no harm: an answer has its seed, and weights are the same ones.
        retry = Retry(total=TRIES, read=1, status=0, allowed_methods=None, backoff_factor=0.25)
        self._pool = urllib3.PoolManager(
            maxsize=settings.max_num_seqs,
            retries=retry,
            timeout=Timeout(connect=CONNECT_S, read=SILENT_S),
        )

    def fitting(self) -> tuple[int, Widening | None]:
        """Look at what is served before weights are sent: they spoil a server that they do not fit.

        Returns:
            Its longest prompt and answer together, and how heads become as wide as its.

        Raises:
            PedrlError: nobody answers there, or a server that cannot do what is needed.
        """
        plain = self.ask("GET", "/server_info?config_format=json")
        try:
            facts = plain["vllm_config"]["model_config"]
            dtype = facts["dtype"].removeprefix("torch.")
            has = facts["logprobs_mode"], dtype, facts["quantization"] or "none"
            served, overrides, longest = (
                facts[name] for name in ("model", "hf_overrides", "max_model_len")
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise PedrlError(
                f"{self.url} is no vLLM server that pedrl knows (0.32 is tested): it answers "
                f"{message(json.dumps(plain))!r}"
            ) from error
        for flag, its, needs in zip(FLAGS, has, (LOGPROBS, self._dtype, "none"), strict=True):
            if its != needs:
                raise PedrlError(
                    f"the vLLM server at {self.url} runs with {flag} {its}, and {needs} is needed: "
                    f"start it with `{self.start}` (its dtype is set by vllm.dtype)"
                )
        self._send("POST", "/inference/v1/abort_requests", {"request_ids": []}).drain_conn()
        config = AutoConfig.from_pretrained(self._checkpoint, local_files_only=True)
        wide = widening(config, [overrides["head_dim"]]) if "head_dim" in overrides else None
        try:
            found = AutoConfig.from_pretrained(served, local_files_only=True)
        except (OSError, ValueError):
            found = config  # not to be read from here: what it samples will tell
        if _shape(found) != _shape(config) or overrides != (wide.overrides(config) if wide else {}):
            how = f" with --hf-overrides {json.dumps(overrides)}" if overrides else ""
            raise PedrlError(
                f"the vLLM server at {self.url} serves {served}{how}, which is another model than "
                f"{self._checkpoint}: start it with `{self.start}`"
            )
        return longest, wide

    def version(self) -> str:
        """Whose weights it says it has."""
        return str(self.ask("GET", "/weight_info")["weight_version"])

    def call(self, method: str, **arguments: Any) -> None:
        """Call a method of its workers."""
        self.ask("POST", "/collective_rpc", {"method": method, "kwargs": arguments})

    def ask(self, method: str, route: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request and read the reply.

        Raises:
            PedrlError: there is none, it is a refusal, or no JSON.
        """
        reply = self._send(method, route, body)
        try:
            return json.loads(reply.data)
        except urllib3.exceptions.HTTPError as error:
            raise self._gone(error) from error
        except ValueError as error:
            raise PedrlError(
                f"{self.url} is no vLLM server: {route} answers {message(reply.data)!r}"
            ) from error

    def generate(self, prompt: tuple[int, ...], sampling: dict[str, Any]) -> Generator[Any]:
        """Yield the parts of one answer; who stops listening ends it at the server, too.

        Raises:
            PedrlError: the server refuses it, breaks it off, or is gone.
        """
        body = {"token_ids": prompt, "sampling_params": sampling, "stream": True}
        reply = self._send("POST", "/inference/v1/generate", body)
        try:
            for line in reply:
                if line.startswith(b"data: {"):
                    part = json.loads(line.removeprefix(b"data: "))
                    if "choices" not in part:
                        raise PedrlError(
                            f"the vLLM server at {self.url} broke off an answer: {message(line)}"
                        )
                    yield from part["choices"]
        except urllib3.exceptions.HTTPError as error:
            raise self._gone(error) from error
        finally:
            reply.close()

    def _send(
        self, method: str, route: str, body: dict[str, Any] | None
    ) -> urllib3.BaseHTTPResponse:
        """Send a request; of the reply, only its status has been read."""
        try:
            reply = self._pool.request(method, self.url + route, json=body, preload_content=False)
            if reply.status == 200:
                return reply
            said = message(reply.data)
        except urllib3.exceptions.HTTPError as error:
            raise self._gone(error) from error
        if reply.status == 404:
            raise PedrlError(
                f"the server at {self.url} has no {route.partition('?')[0]}: it is not vLLM, or "
                f"was started without what pedrl needs; start it with `{self.start}`"
            )
        raise PedrlError(f"the vLLM server at {self.url} answers {route} by {reply.status}: {said}")

    def _gone(self, error: Exception) -> PedrlError:
        return PedrlError(
            f"no vLLM server answers at {self.url} ({innermost(error)}): start it with "
            f"`{self.start}`; the same pedrl command then takes up where its run was"
        )


def _shape(config: PretrainedConfig) -> dict[str, Any]:
    return {k: v for k, v in config.to_dict().items() if k not in UNTOLD}
