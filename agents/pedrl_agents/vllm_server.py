"""vLLM as the sampler: a server beside this process, whose weights are the policy's, by a folder.

The server is vLLM's own, started with its routes for developers; nothing of pedrl runs there. The
policy writes weights as safetensors into a folder that both see, the server reads them, and their
version, a name that nobody else has, says afterwards that all was sampled with them and no others.
Left out: several runs on one server, its API key, encryption, LoRA adapters that are not merged.
"""

import json
import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import urllib3
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig
from urllib3.util import Retry, Timeout

from pedrl_agents.adapters import merged
from pedrl_agents.endpoint import innermost, message
from pedrl_agents.vllm_engine import Held, VllmSettings, check_room, row_seeds, stop_of
from pedrl_agents.vllm_heads import Widening, widening
from pedrl_env.records import Role, Turn
from pedrl_sandbox.errors import PedrlError

if TYPE_CHECKING:
    from pedrl_agents.torch_policy import TorchPolicy

LOGPROBS: Final = "processed_logprobs"  # those that it draws by
SERVE: Final = (
    f"VLLM_SERVER_DEV_MODE=1 vllm serve {{}} --enable-scale-out --logprobs-mode {LOGPROBS} "
    "--dtype {}"
)
CONNECT_S: Final = 10.0
SILENT_S: Final = 600.0  # between two tokens of an answer, and while it reads weights
TRIES: Final = 5
PROBED: Final = 8  # tokens
APART: Final = {"float32": 1e-3, "bfloat16": 0.3, "float16": 0.3}
"""Mean |log pi_server - log pi_policy| of a few tokens from which on it is another model."""


class VllmServer:
    """An `Engine` of `TorchPolicy`; `vllm_server` makes it. The server runs already.

    Args:
        checkpoint: what it should serve; its weights come from policies.
        settings: of these, ``url``, ``folder``, ``dtype`` and ``max_num_seqs`` are meant.

    Attributes:
        syncs: how often it was given weights.

    Raises:
        PedrlError: nobody answers there, or a server that cannot do what is needed.
    """

    def __init__(self, checkpoint: Path, settings: VllmSettings) -> None:
        self._checkpoint, self._settings = checkpoint, settings
        self._url = settings.url.rstrip("/")
        self._start = SERVE.format(checkpoint, settings.dtype)
        # To ask again does no harm: an answer has its seed, and weights are the same ones.
        retry = Retry(total=TRIES, read=1, status=0, allowed_methods=None, backoff_factor=0.25)
        self._pool = urllib3.PoolManager(
            maxsize=settings.max_num_seqs, retries=retry, timeout=Timeout(CONNECT_S, SILENT_S)
        )
        facts = self._facts()
        self._longest: int = facts["max_model_len"]
        self._widening = self._widened(facts.get("hf_overrides") or {})
        self._held = Held()
        self._name, self._version = uuid.uuid4().hex, ""
        self._right = False
        self.syncs = 0
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="pedrl-", dir=settings.folder or None))
        except OSError as error:
            raise PedrlError(
                f"cannot write weights for the vLLM server to {error.filename} "
                f"({error.strerror}): set vllm.folder to one that it and this process see"
            ) from error
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def sync(self, policy: "TorchPolicy", role: Role) -> None:
        """Give the server the weights of a role as they are now, if it has others.

        Raises:
            PedrlError: it does not take them.
        """
        model = policy.models[role]
        if self._held.has(model) and self._served() == self._version:
            return
        self.syncs += 1
        self._version = f"{self._name}-{self.syncs}"
        whole = merged(model) if policy.storage == "lora" else model
        weights = self._folder / str(self.syncs)
        weights.mkdir()
        _write(weights / "model.safetensors", whole.state_dict(), self._widening)
        # The new name first: should the rest fail halfway, then nothing is what it was.
        self._ask("POST", "/update_weight_version", {"new_version": self._version})
        try:
            self._call("update_config", overrides={"load_config": {"load_format": "safetensors"}})
            self._call("reload_weights", weights_path=str(weights))
        except PedrlError as error:
            raise PedrlError(
                f"{error}: it must serve {self._checkpoint}, and see {self._folder} as this "
                "process does (vllm.folder says where that is)"
            ) from error
        finally:
            shutil.rmtree(weights)
        self._forget()
        self._held.take(model)

    def sample(
        self,
        policy: "TorchPolicy",
        role: Role,
        prompts: Sequence[tuple[int, ...]],
        samples: Sequence[int],
        seed: int,
    ) -> Iterator[tuple[int, Turn]]:
        """Yield rows with their turns, in the order in which they end; see `Engine`.

        Seeds are those of `VllmEngine`, and so are the draws, up to rounding.

        Raises:
            PedrlError: a prompt leaves no room for the longest answer, the server is gone, or
                somebody else gave it weights meanwhile.
        """
        check_room(prompts, policy.sampling.max_new_tokens, self._longest)
        self.sync(policy, role)
        if not self._right:
            self._probe(policy, role, prompts[0])
        return self._rows(policy, role, prompts, samples, seed)

    def _rows(
        self,
        policy: "TorchPolicy",
        role: Role,
        prompts: Sequence[tuple[int, ...]],
        samples: Sequence[int],
        seed: int,
    ) -> Iterator[tuple[int, Turn]]:
        owners = [prompt for prompt, n in zip(prompts, samples, strict=True) for _ in range(n)]
        seeds = row_seeds(seed, role, len(owners))
        given_up = threading.Event()
        longest = policy.sampling.max_new_tokens
        pool = ThreadPoolExecutor(min(self._settings.max_num_seqs, len(owners)))
        try:
            rows = {
                pool.submit(self._turn, policy, prompt, its, longest, given_up): row
                for row, (prompt, its) in enumerate(zip(owners, seeds, strict=True))
            }
            for ended in as_completed(rows):
                turn = ended.result()
                policy.processed_tokens += len(turn.prompt_ids) + len(turn.action_ids)
                yield rows[ended], turn
        finally:
            given_up.set()
            pool.shutdown(cancel_futures=True)
        if (found := self._served()) != self._version:
            raise PedrlError(
                f"the vLLM server at {self._url} was given weights {found!r} while it sampled with "
                f"{self._version!r}, or was started anew: it can serve one run at a time; the same "
                "command takes up where the run was"
            )

    def _turn(
        self,
        policy: "TorchPolicy",
        prompt: tuple[int, ...],
        seed: int,
        longest: int,
        given_up: threading.Event,
    ) -> Turn:
        """Sample one answer; hanging up ends it there, too."""
        settings = {
            "max_tokens": longest,
            "temperature": policy.sampling.temperature,
            "seed": seed,
            "logprobs": 0,
            "detokenize": False,
            "ignore_eos": True,  # its own idea of it
            "stop_token_ids": [policy.eos],
        }
        body = {"token_ids": prompt, "sampling_params": settings, "stream": True}
        actions: list[int] = []
        logprobs: list[float] = []
        reply = self._send("POST", "/inference/v1/generate", body)
        try:
            for choice in self._choices(reply):
                # A slow reader gets several tokens at once.
                for token in choice["logprobs"]["content"]:
                    actions.append(token["token_id"])
                    logprobs.append(token["logprob"])
                    stop = stop_of(actions, len(actions) == longest, policy)
                    if stop is not None:
                        return Turn(prompt, tuple(actions), tuple(logprobs), stop)
                if given_up.is_set() or choice["finish_reason"] is not None:
                    break
        except urllib3.exceptions.HTTPError as error:
            raise self._gone(error) from error
        finally:
            reply.close()
        raise PedrlError(
            f"the vLLM server at {self._url} ended an answer after {len(actions)} of {longest} "
            "tokens for no reason of ours: does somebody else use it? See its log"
        )

    def _choices(self, reply: urllib3.BaseHTTPResponse) -> Iterator[dict[str, Any]]:
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            part = json.loads(line.removeprefix(b"data: "))
            if "choices" not in part:
                raise PedrlError(
                    f"the vLLM server at {self._url} broke off an answer: {message(line)}"
                )
            yield from part["choices"]

    def _probe(self, policy: "TorchPolicy", role: Role, prompt: tuple[int, ...]) -> None:
        """Have a few tokens sampled and score them: weights that were taken up prove little."""
        longest = min(PROBED, policy.sampling.max_new_tokens)
        turn = self._turn(policy, prompt, 0, longest, threading.Event())
        scores = policy.score(role, [(prompt, turn.action_ids)])[0].logprobs
        apart = float(np.abs(scores - np.array(turn.logprobs)).mean())
        if not apart <= APART[self._settings.dtype]:
            raise PedrlError(
                f"the vLLM server at {self._url} has the policy's weights, but its "
                f"log-probabilities are {apart:.2g} from the policy's: it serves another model "
                f"than {self._checkpoint}, or one with other settings; start it with `{self._start}`"
            )
        self._right = True

    def _facts(self) -> dict[str, Any]:
        """What the server says of its model, after a look at what is needed."""
        plain = self._ask("GET", "/server_info?config_format=json")
        try:
            facts: dict[str, Any] = plain["vllm_config"]["model_config"]
            found = facts["logprobs_mode"], facts["dtype"].removeprefix("torch.")
            facts["max_model_len"], facts["quantization"]
        except (KeyError, TypeError, AttributeError) as error:
            raise PedrlError(
                f"{self._url} is no vLLM server that pedrl knows (0.32 is tested): it answers "
                f"{message(json.dumps(plain))!r}"
            ) from error
        wanted = LOGPROBS, self._settings.dtype
        if found != wanted or facts["quantization"] is not None:
            raise PedrlError(
                f"the vLLM server at {self._url} runs with --logprobs-mode {found[0]}, --dtype "
                f"{found[1]} and quantization {facts['quantization']}, but {wanted[0]}, "
                f"{wanted[1]} (vllm.dtype) and none are needed: start it with `{self._start}`"
            )
        return facts

    def _widened(self, overrides: dict[str, Any]) -> Widening | None:
        """How heads are widened that the server was started with wider ones for."""
        if not overrides:
            return None
        config = AutoConfig.from_pretrained(self._checkpoint, local_files_only=True)
        wide = widening(config, [overrides.get("head_dim", 0)])
        if wide is None or overrides != wide.overrides(config):
            fit = f"; they would be {json.dumps(wide.overrides(config))}" if wide else ""
            raise PedrlError(
                f"the vLLM server at {self._url} was started with --hf-overrides "
                f"{json.dumps(overrides)}, which make another model of {self._checkpoint}{fit}"
            )
        return wide

    def _forget(self) -> None:
        """Empty its cache of prefixes: they were computed with the weights before."""
        for _ in range(TRIES):
            if self._ask("POST", "/reset_prefix_cache")["success"]:
                return
            sleep(0.2)  # answers that we hung up on are still ending
        raise PedrlError(
            f"the vLLM server at {self._url} cannot empty its prefix cache, for it is sampling: it "
            "can serve one run at a time"
        )

    def _served(self) -> str:
        return str(self._ask("GET", "/weight_info")["weight_version"])

    def _call(self, method: str, **arguments: Any) -> None:
        self._ask("POST", "/collective_rpc", {"method": method, "kwargs": arguments})

    def _ask(self, method: str, route: str, body: dict[str, Any] | None = None) -> Any:
        reply = self._send(method, route, body)
        try:
            return json.loads(reply.data)
        except urllib3.exceptions.HTTPError as error:
            raise self._gone(error) from error
        except ValueError as error:
            raise PedrlError(
                f"{self._url} is no vLLM server: {route} answers {message(reply.data)!r}"
            ) from error

    def _send(
        self, method: str, route: str, body: dict[str, Any] | None
    ) -> urllib3.BaseHTTPResponse:
        """Send a request; of the reply, only the status has been read."""
        try:
            reply = self._pool.request(method, self._url + route, json=body, preload_content=False)
            if reply.status == 200:
                return reply
            said = message(reply.data)
        except urllib3.exceptions.HTTPError as error:
            raise self._gone(error) from error
        if reply.status == 404:
            raise PedrlError(
                f"the server at {self._url} has no {route.partition('?')[0]}: it is no vLLM, or "
                f"lacks what pedrl needs; start it with `{self._start}`"
            )
        raise PedrlError(
            f"the vLLM server at {self._url} answers {route} with {reply.status}, {said}"
        )

    def _gone(self, error: Exception) -> PedrlError:
        return PedrlError(
            f"no vLLM server answers at {self._url} ({innermost(error)}): start it with "
            f"`{self._start}`, see docs/backends.md; the same command then takes up where it was"
        )


def _write(path: Path, state: dict[str, Tensor], wide: Widening | None) -> None:
    """Write weights, tied ones twice: vLLM takes up each by its name."""
    weights: dict[str, Tensor] = {}
    for name, weight in wide.weights(state.items()) if wide else state.items():
        tied = any(weight.data_ptr() == other.data_ptr() for other in weights.values())
        weights[name] = weight.clone() if tied else weight.contiguous()
    partial = path.with_suffix(".partial")
    save_file(weights, partial)
    partial.rename(path)


@cache
def vllm_server(checkpoint: Path, settings: VllmSettings) -> VllmServer:
    """Return this process's client of a server: its runs take turns in it."""
    return VllmServer(checkpoint, settings)
