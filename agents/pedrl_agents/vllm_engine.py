"""vLLM as the sampler: an engine in this process, which takes up the policy's weights by itself.

It holds one set of weights. Before it samples it compares them with those of the role that is
asked for, and takes these up if they differ: it cannot sample with stale ones, whoever moved them.
Teacher and student take turns in it.
"""

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

import torch
from transformers import AutoConfig, PreTrainedModel

from pedrl_agents.distributed import joined
from pedrl_agents.knobs import Count, Positive
from pedrl_agents.vllm_heads import widening
from pedrl_env.records import Role, Turn
from pedrl_sandbox.errors import PedrlError

if TYPE_CHECKING:
    from pedrl_agents.torch_policy import TorchPolicy

GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """How vLLM runs; none of these but `dtype` changes what is sampled.

    Attributes:
        dtype: of its weights and activations. Of single precision its log-probabilities are the
            learner's to 1e-4; attention kernels of GPUs want ``bfloat16``.
        cache_gib: memory for keys and values.
        max_model_len: longest prompt and answer together; 0 is as long as the model allows.
        max_num_seqs: answers sampled side by side.
        block_size: tokens of a prefix that are cached together.
        eager: do not compile; on a CPU, and for tests, compiling costs more than it gives.
        url: of a server that samples in place of an engine in this process, without a route:
            ``http://localhost:8000``. It has settings of its own for the four above.
        folder: seen by both under this name, for weights on their way to that server; empty is one
            of this machine's for temporary files.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    cache_gib: Positive = 1
    max_model_len: Count = 0
    max_num_seqs: Positive = 256
    block_size: Positive = 32
    eager: bool = True
    url: str = ""
    folder: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if self.url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise PedrlError(f"vllm.url must be like http://localhost:8000, not {self.url!r}")


class Held:
    """Whose weights an engine holds, and how often these had been written to."""

    def __init__(self) -> None:
        self._model: weakref.ref[PreTrainedModel] | None = None
        self._stamp: tuple[int, ...] = ()

    def has(self, policy: "TorchPolicy", role: Role) -> bool:
        """Whether they are those of this role, as they are now."""
        same = self._model is not None and self._model() is policy.models[role]
        return same and self._stamp == policy.stamp(role)

    def take(self, policy: "TorchPolicy", role: Role) -> None:
        """Note that they are."""
        self._model, self._stamp = weakref.ref(policy.models[role]), policy.stamp(role)


class VllmEngine:
    """An `Engine` of `TorchPolicy`; `vllm_engine` makes it.

    Args:
        checkpoint: whose architecture it is; weights come from policies.
        settings: see there.

    Attributes:
        syncs: how often it took up weights.

    Raises:
        PedrlError: vLLM is not installed, or has no kernels for this model.
    """

    def __init__(self, checkpoint: Path, settings: VllmSettings) -> None:
        check_vllm()
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # read when it is imported, and later
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        import vllm
        from vllm.platforms import current_platform
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
        sizes = CPUAttentionBackend.get_supported_head_sizes() if current_platform.is_cpu() else []
        self._widening = widening(config, sizes) if sizes else None
        self._vllm: Any = vllm
        set_num_threads = torch.set_num_threads
        self._llm: Any = vllm.LLM(
            model=str(checkpoint),
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",  # no sampling settings out of the model's folder
            dtype=settings.dtype,
            kv_cache_memory_bytes=settings.cache_gib * GIB,
            max_model_len=settings.max_model_len or None,
            max_num_seqs=settings.max_num_seqs,
            block_size=settings.block_size,
            enforce_eager=settings.eager,
            # Processes that train together have an engine each: it is not shared out.
            distributed_executor_backend="external_launcher" if joined() else None,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",  # of what is drawn from: at its temperature
            hf_overrides=self._widening.overrides(config) if self._widening else None,
            disable_log_stats=True,
        )
        torch.set_num_threads = set_num_threads  # on a CPU, vLLM puts a warning in its place
        self._longest: int = self._llm.llm_engine.model_config.max_model_len
        self._held = Held()
        self._asked = 0
        self.syncs = 0

    def sync(self, policy: "TorchPolicy", role: Role) -> None:
        """Take up the weights of a role as they are now; adapters are merged into their base.

        Nothing is done if they are those that it has.
        """
        if self._held.has(policy, role):
            return
        named = policy.weights(role)
        if self._widening is not None:
            named = self._widening.weights(named)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
        # What is cached of prefixes was computed with the weights before.
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM is sampling: its prefix cache cannot be emptied")
        self._held.take(policy, role)
        self.syncs += 1

    def sample(
        self,
        policy: "TorchPolicy",
        role: Role,
        prompts: Sequence[tuple[int, ...]],
        samples: Sequence[int],
        seeds: Sequence[int],
    ) -> Iterator[tuple[int, Turn]]:
        """Yield rows with their turns, in the order in which they end; see `Engine`.

        Raises:
            PedrlError: a prompt leaves no room for the longest answer.
        """
        check_room(prompts, policy.sampling.max_new_tokens, self._longest)
        self.sync(policy, role)
        return self._rows(policy, prompts, samples, seeds)

    def _rows(
        self,
        policy: "TorchPolicy",
        prompts: Sequence[tuple[int, ...]],
        samples: Sequence[int],
        seeds: Sequence[int],
    ) -> Iterator[tuple[int, Turn]]:
        owners = [prompt for prompt, n in zip(prompts, samples, strict=True) for _ in range(n)]
        plain = policy.view.format == "plain"  # nothing but its last token ends an answer
        kinds = self._vllm.sampling_params.RequestOutputKind
        engine = self._llm.llm_engine
        rows: dict[str, int] = {}
        for row, prompt in enumerate(owners):
            self._asked += 1
            rows[str(self._asked)] = row
            settings = self._vllm.SamplingParams(
                max_tokens=policy.sampling.max_new_tokens,
                temperature=policy.sampling.temperature,
                seed=seeds[row],
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                ignore_eos=True,  # its own idea of it
                stop_token_ids=[policy.eos],
                output_kind=kinds.FINAL_ONLY if plain else kinds.DELTA,
            )
            engine.add_request(str(self._asked), {"prompt_token_ids": list(prompt)}, settings)
        actions: list[list[int]] = [[] for _ in owners]
        logprobs: list[list[float]] = [[] for _ in owners]
        try:
            while rows:
                for output in engine.step():
                    row, (part,) = rows[output.request_id], output.outputs
                    actions[row] += part.token_ids
                    logprobs[row] += part.logprobs.logprobs
                    stop = stop_of(actions[row], output.finished, policy)
                    if stop is None:
                        continue
                    if not output.finished:
                        engine.abort_request([output.request_id])
                    del rows[output.request_id]
                    computed = len(owners[row]) - (output.num_cached_tokens or 0)
                    policy.processed_tokens += computed + len(actions[row])
                    yield row, Turn(owners[row], tuple(actions[row]), tuple(logprobs[row]), stop)
        finally:
            engine.abort_request(list(rows))


def stop_of(
    action_ids: list[int], finished: bool, policy: "TorchPolicy"
) -> Literal["eos", "stop", "length"] | None:
    """Why an answer ends with its last token; None if it does not."""
    if action_ids[-1] == policy.eos:
        return "eos"
    if policy.view.over(action_ids):
        return "stop"
    return "length" if finished else None


def check_room(prompts: Sequence[tuple[int, ...]], new: int, room: int) -> None:
    """Refuse prompts that leave no room for the longest answer.

    Raises:
        PedrlError: saying how much is missing where.
    """
    longest = max(map(len, prompts)) + new
    if longest > room:
        raise PedrlError(
            f"the longest prompt and {new} new tokens are {longest} tokens, but vLLM was started "
            f"for {room}: raise vllm.max_model_len, or lower max_new_tokens"
        )


def check_vllm() -> None:
    """Look for vLLM, without the seconds that importing it takes.

    Raises:
        PedrlError: it is not installed in this environment.
    """
    if find_spec("vllm") is None:
        raise PedrlError(
            "backend 'vllm' needs vLLM, which is not installed in this environment: install it as "
            "docs/backends.md says, or use backend 'torch'"
        )


@cache
def vllm_engine(checkpoint: Path, settings: VllmSettings) -> VllmEngine:
    """Return this process's engine for a model: its runs take turns in it, and it starts once.

    It stays to the end of the process: when one goes, it takes what all of them share with it.
    """
    return VllmEngine(checkpoint, settings)
