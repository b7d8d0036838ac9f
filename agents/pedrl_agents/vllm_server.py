"""vLLM as the sampler: a server beside this process, which gets the policy's weights by a folder.

The server is vLLM's own, started with its routes for developers; nothing of pedrl runs there. The
policy's weights are written as safetensors into a folder that both see, and the server reads them.
They have a version, a name that nobody else gives: if the server has it before and after, then all
was sampled with these weights.
Left out: several runs on one server, its API key, LoRA adapters that stay apart from their base.
"""

import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from functools import cache
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Final

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from pedrl_agents.vllm_engine import Held, VllmSettings, check_room, stop_of
from pedrl_agents.vllm_heads import Widening
from pedrl_agents.vllm_http import TRIES, VllmHttp
from pedrl_env.records import Role, Turn
from pedrl_sandbox.errors import PedrlError

if TYPE_CHECKING:
    from pedrl_agents.torch_policy import TorchPolicy

PROBED: Final = 8  # tokens
APART: Final = {"float32": 1e-3, "bfloat16": 0.3, "float16": 0.3}
"""Mean |log pi_server - log pi_policy| of these tokens from which on it is another model."""


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
        self._http = VllmHttp(checkpoint, settings)
        self._longest, self._widening = self._http.fitting()
        self._held = Held()
        self._name, self._version = uuid.uuid4().hex, ""
        self._right = False  # as far as we have seen
        self.syncs = 0
        share = Path(settings.folder).absolute() if settings.folder else None
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="pedrl-", dir=share))
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
        http = self._http
        if self._held.has(policy, role) and http.version() == self._version:
            return
        self.syncs += 1
        self._version = f"{self._name}-{self.syncs}"
        weights = self._folder / str(self.syncs)
        weights.mkdir()
        _write(weights / "model.safetensors", policy.weights(role), self._widening)
        # The new name first: should the rest fail halfway, then nobody takes them for the old ones.
        http.ask("POST", "/update_weight_version", {"new_version": self._version})
        try:
            http.call("update_config", overrides={"load_config": {"load_format": "safetensors"}})
            http.call("reload_weights", weights_path=str(weights))
        except PedrlError as error:
            raise PedrlError(
                f"{error}; it must serve {self._checkpoint} and see {self._folder} (vllm.folder "
                "says where): its log tells more, and it has to be started anew"
            ) from error
        finally:
            shutil.rmtree(weights)
        # What is cached of prefixes was computed with the weights before.
        for _ in range(TRIES):
            if http.ask("POST", "/reset_prefix_cache")["success"]:
                break
            sleep(0.2)  # answers that we did not hear out are still ending
        else:
            raise PedrlError(
                f"the vLLM server at {http.url} cannot empty its prefix cache while it samples for "
                "somebody else: it can serve one run at a time"
            )
        self._held.take(policy, role)

    def sample(
        self,
        policy: "TorchPolicy",
        role: Role,
        prompts: Sequence[tuple[int, ...]],
        samples: Sequence[int],
        seeds: Sequence[int],
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
        return self._rows(policy, prompts, samples, seeds)

    def _rows(
        self,
        policy: "TorchPolicy",
        prompts: Sequence[tuple[int, ...]],
        samples: Sequence[int],
        seeds: Sequence[int],
    ) -> Iterator[tuple[int, Turn]]:
        owners = [prompt for prompt, n in zip(prompts, samples, strict=True) for _ in range(n)]
        longest, over = policy.sampling.max_new_tokens, threading.Event()
        threads = ThreadPoolExecutor(min(self._settings.max_num_seqs, len(owners)))
        try:
            rows = {
                threads.submit(self._turn, policy, prompt, its, longest, over): row
                for row, (prompt, its) in enumerate(zip(owners, seeds, strict=True))
            }
            for ended in as_completed(rows):
                turn = ended.result()
                # Of a prompt, it does not tell how much it had computed already.
                policy.processed_tokens += len(turn.prompt_ids) + len(turn.action_ids)
                yield rows[ended], turn
        finally:
            over.set()
            threads.shutdown(cancel_futures=True)
        if (found := self._http.version()) != self._version:
            raise PedrlError(
                f"the vLLM server at {self._http.url} has weights {found!r} after it sampled with "
                f"{self._version!r}: it was started anew, or serves another run, and it can serve "
                "one at a time; the same command takes up where the run was"
            )

    def _turn(
        self,
        policy: "TorchPolicy",
        prompt: tuple[int, ...],
        seed: int,
        longest: int,
        over: threading.Event,
    ) -> Turn:
        sampling = {
            "max_tokens": longest,
            "temperature": policy.sampling.temperature,
            "seed": seed,
            "logprobs": 0,
            "detokenize": False,
            "ignore_eos": True,  # its own idea of it
            "stop_token_ids": [policy.eos],
        }
        actions: list[int] = []
        logprobs: list[float] = []
        with closing(self._http.generate(prompt, sampling)) as parts:
            for choice in parts:
                for token in choice["logprobs"]["content"]:  # several, if we are slow
                    actions.append(token["token_id"])
                    logprobs.append(token["logprob"])
                    stop = stop_of(actions, len(actions) == longest, policy)
                    if stop is not None:
                        return Turn(prompt, tuple(actions), tuple(logprobs), stop)
                if over.is_set():
                    break
        raise PedrlError(
            f"the vLLM server at {self._http.url} ended an answer after {len(actions)} of "
            f"{longest} tokens: somebody aborted it; it can serve one run at a time"
        )

    def _probe(self, policy: "TorchPolicy", role: Role, prompt: tuple[int, ...]) -> None:
        """Score a few of its tokens: vLLM also takes up weights that lack half, or fit by chance.

        Raises:
            PedrlError: its log-probabilities are not the policy's.
        """
        longest = min(PROBED, policy.sampling.max_new_tokens)
        turn = self._turn(policy, prompt, 0, longest, threading.Event())
        score = policy.score(role, [(prompt, turn.action_ids)])[0]
        apart = float(np.abs(score.logprobs - np.array(turn.logprobs)).mean())
        if not apart < APART[self._settings.dtype]:
            raise PedrlError(
                f"the vLLM server at {self._http.url} took up the policy's weights, but its "
                f"log-probabilities are {apart:.2g} from the policy's: it serves another model "
                f"than {self._checkpoint}; start it with `{self._http.start}`"
            )
        self._right = True


def _write(path: Path, named: Iterable[tuple[str, Tensor]], wide: Widening | None) -> None:
    """Write weights, tied ones twice: vLLM takes up each by its name."""
    weights: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, given in wide.weights(named) if wide else named:
        weight = given.cpu().contiguous()
        weights[name] = weight.clone() if weight.data_ptr() in places else weight
        places.add(weight.data_ptr())
    partial = path.with_suffix(".partial")
    save_file(weights, partial)
    partial.rename(path)


@cache
def vllm_server(checkpoint: Path, settings: VllmSettings) -> VllmServer:
    """Return this process's client of a server: its runs take turns in it."""
    return VllmServer(checkpoint, settings)
