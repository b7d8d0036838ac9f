"""The torch backend: one set of weights per role behind `generate` and `score`.

Student and teacher are roles over the same interface; whether they are two copies, one shared
module or two adapters over one base is decided here, in `load_policy`, and nowhere else.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from pedrl_agents.adapters import Lora, adapter_state, add_adapter, ordinary, whole_weights
from pedrl_agents.attention import implementation
from pedrl_agents.decoding import Decoder, Draws, draw, one_stream, sample_batches, split
from pedrl_agents.engine import Engine
from pedrl_agents.forward import (
    LOGITS_PER_CHUNK,
    Pair,
    Precision,
    action_hidden,
    autocast,
    branching,
    in_chunks,
    micro_batches,
    pack,
    pad_left,
)
from pedrl_agents.head import tempered
from pedrl_agents.llama import decoder
from pedrl_agents.losses import token_statistics
from pedrl_agents.views import DEFAULT_CONTEXT, FORMAT_KEY, Context, PromptFormat, View
from pedrl_env.policy import Ended
from pedrl_env.records import GenerationRequest, Privileged, Role, Task, TokenScores, Turn
from pedrl_sandbox.errors import PedrlError

Storage = Literal["separate", "shared", "ema", "lora"]
ROLES: Final[tuple[Role, ...]] = ("student", "teacher")
COMPACT_BELOW = 0.75  # drop finished sequences from the batch once this share is still alive


@dataclass(frozen=True, slots=True)
class Sampling:
    """How rollouts are drawn: the full distribution, so that importance ratios are unbiased.

    Attributes:
        max_new_tokens: longest answer.
        temperature: the policy is softmax(logits / temperature); 0 takes the most likely token.
        rows_per_batch: rollouts sampled side by side. Fewer make more batches: one's answers are
            verified while the next is sampled, but small batches cost more. Draws depend on it.
    """

    max_new_tokens: int = 32
    temperature: float = 1.0
    rows_per_batch: int = 4096

    @property
    def scale(self) -> float:
        """What logits are divided by; where the likeliest token is taken, they stay as they are."""
        return self.temperature or 1.0


class TorchPolicy:
    """Transformers models, one per role, sampled and scored in this process.

    Attributes:
        models: role -> module; the same module twice when weights are shared.
        storage: how the two roles' weights hang together; the learner acts on it.
        view: how tasks become prompts, and answers code.
        engine: samples instead of this class, if there is one.
        precision: in which this class samples and scores.
        processed_tokens: tokens computed by forward passes so far, sampling included.
    """

    def __init__(
        self,
        models: dict[Role, PreTrainedModel],
        tokenizer: Tokenizer,
        sampling: Sampling,
        context: tuple[Context, ...] = DEFAULT_CONTEXT,
        tokens_per_batch: int = 16384,
        storage: Storage = "separate",
        prompt_format: PromptFormat = "auto",
        engine: Engine | None = None,
        logits_per_chunk: int = LOGITS_PER_CHUNK,
        precision: Precision = "fp32",
    ) -> None:
        self.models = models
        self.storage = storage
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.engine = engine
        self.view = View(tokenizer, prompt_format, context)
        self.tokens_per_batch = tokens_per_batch
        self.logits_per_chunk = logits_per_chunk
        self.precision = precision
        self.processed_tokens = 0
        self.eos: int = tokenizer.eos_token_id
        self.pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos

    @staticmethod
    def loads_to(device: torch.device) -> torch.device:
        """Say where weights are loaded that will compute on a device."""
        return device

    @property
    def device(self) -> torch.device:
        """Where the student's weights are."""
        return next(self.models["student"].parameters()).device

    def prompt_ids(self, task: Task, role: Role) -> tuple[int, ...]:
        """Encode the prompt of `task` as `role` sees it."""
        return self.view.ids(task, role)

    def told_ids(self, task: Task, privileged: Privileged) -> tuple[int, ...]:
        """Encode the prompt of a teacher that is told this, in place of the task's own secrets."""
        return self.view.told_ids(task, privileged)

    def encode(self, text: str) -> tuple[int, ...]:
        """Encode plain text, without special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_answer(self, text: str) -> tuple[int, ...]:
        """Encode a demonstration as an action: its tokens and the end of sequence."""
        return (*self.encode(text), self.eos)

    def decode(self, turn: Turn) -> str:
        """Return the code in a turn's action."""
        text = self.tokenizer.decode(list(turn.action_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return self.view.code(text)

    @torch.no_grad()
    def generate(
        self, requests: Sequence[GenerationRequest], seed: int, ended: Ended | None = None
    ) -> list[list[Turn]]:
        """Sample ``request.samples`` turns for each request, prompts prefilled once.

        Args:
            requests: who samples what, how often.
            seed: the same seed gives the same tokens.
            ended: told of each turn at the step that ended it; it changes no draw.

        Returns:
            One list of turns per request, in order.
        """
        turns: dict[tuple[int, int], Turn] = {}
        generator = torch.Generator(device=self.device).manual_seed(seed)
        for role in ROLES:
            chosen = [i for i, r in enumerate(requests) if r.role == role and r.samples > 0]
            if not chosen:
                continue
            prompts = [self.prompt_ids(requests[i].task, role) for i in chosen]
            samples = [requests[i].samples for i in chosen]
            places = [(i, n) for i in chosen for n in range(requests[i].samples)]
            seeds = self._row_seeds(seed, role, places)
            if self.engine is None:
                rows = self._sample_in_batches(role, prompts, samples, generator, seeds)
            else:
                rows = self.engine.sample(self, role, prompts, samples, seeds)
            for row, turn in rows:
                turns[places[row]] = turn
                if ended is not None:
                    ended(*places[row], turn)
        return [[turns[i, n] for n in range(r.samples)] for i, r in enumerate(requests)]

    def _sample_in_batches(
        self,
        role: Role,
        prompts: list[tuple[int, ...]],
        samples: list[int],
        generator: torch.Generator,
        seeds: Sequence[int],
    ) -> Iterator[tuple[int, Turn]]:
        first, sampling = 0, self.sampling
        lengths = [len(p) for p in prompts]
        with autocast(self.device, self.precision):
            model = decoder(self.models[role])
            for batch in sample_batches(
                lengths, samples, sampling.max_new_tokens, sampling.rows_per_batch
            ):
                mine = [samples[j] for j in batch]
                asked = [prompts[j] for j in batch]
                draws = self._draws(generator, seeds[first : first + sum(mine)])
                for row, turn in self._sample(model, asked, mine, draws):
                    yield first + row, turn
                first += sum(mine)

    def _row_seeds(self, seed: int, role: Role, places: Sequence[tuple[int, int]]) -> Sequence[int]:
        """Return a seed for each row: what is sampled beside it changes nothing but rounding."""
        sequence = np.random.SeedSequence((seed, ROLES.index(role)))
        return [int(s) >> 1 for s in sequence.generate_state(len(places), np.uint64)]

    def _draws(self, generator: torch.Generator, seeds: Sequence[int]) -> Draws:
        """Return the draws of a batch: here those of one stream, whose rows take turns in it."""
        return partial(one_stream, generator)

    def _sample(
        self,
        model: Decoder,
        prompts: list[tuple[int, ...]],
        samples: list[int],
        draws: Draws,
    ) -> Iterator[tuple[int, Turn]]:
        """Yield rows of the batch with their turns, in the order in which they end."""
        device, sampling = self.device, self.sampling
        owners = np.repeat(np.arange(len(prompts)), samples)
        actions = np.empty((len(owners), sampling.max_new_tokens), dtype=np.int64)
        logprobs = np.empty(actions.shape)
        batch = np.arange(len(owners))  # the rows that draw
        alive = np.ones(len(batch), dtype=bool)  # of those, which have not ended
        state, states = owners.copy(), len(prompts)  # of those, and how many there are
        watched = self.view.format != "plain"  # answers end before their end of sequence, too

        def turn(row: int, length: int, stop: Literal["eos", "stop", "length"]) -> tuple[int, Turn]:
            ids, chosen = actions[row, :length].tolist(), logprobs[row, :length].tolist()
            return row, Turn(prompts[owners[row]], tuple(ids), tuple(chosen), stop)

        ids, mask = pad_left(prompts, self.pad, device)
        logits = model.start(ids, mask, len(owners), sampling.max_new_tokens)
        self.processed_tokens += ids.numel()
        for length in range(1, sampling.max_new_tokens + 1):
            of = torch.from_numpy(state).to(device)
            drawn, chosen = draw(logits, of, sampling.temperature, draws(batch))
            tokens = drawn.numpy(force=True)
            actions[batch, length - 1] = tokens
            logprobs[batch, length - 1] = chosen.numpy(force=True)
            over = tokens == self.eos
            if watched:
                for i in np.flatnonzero(alive & ~over):
                    over[i] = self.view.over(actions[batch[i], :length].tolist())
            for i in np.flatnonzero(alive & over):
                yield turn(int(batch[i]), length, "eos" if tokens[i] == self.eos else "stop")
            alive &= ~over
            if not alive.any() or length == sampling.max_new_tokens:
                break
            if alive.sum() < COMPACT_BELOW * len(batch):
                batch, state, tokens = batch[alive], state[alive], tokens[alive]
                alive = np.ones(len(batch), dtype=bool)
            parted = split(state[alive], tokens[alive], states)
            state[alive], live = parted.state, parted.live
            state[~alive] = live[0]  # any: what they draw is not looked at
            fed, states = parted.tokens, len(parted.tokens)
            if len(parted.sources):
                model.branch(torch.from_numpy(parted.sources).to(device))
            if len(live) < COMPACT_BELOW * states:
                model.keep(torch.from_numpy(live).to(device))
                state, fed, states = np.searchsorted(live, state), fed[live], len(live)
            logits = model.step(torch.from_numpy(fed).to(device))
            self.processed_tokens += states
        for i in np.flatnonzero(alive):
            yield turn(int(batch[i]), length, "length")

    @torch.no_grad()
    def score(self, role: Role, pairs: Sequence[Pair]) -> list[TokenScores]:
        """Score action tokens under the weights of `role`, given (prompt_ids, action_ids) pairs.

        Probabilities are those of the policy that samples: at its temperature.
        One forward pass per micro-batch; prompts that repeat are computed once.
        """
        scores: list[TokenScores | None] = [None] * len(pairs)
        model = self.models[role]
        head, scale = model.get_output_embeddings(), self.sampling.scale
        for batch in micro_batches(pairs, self.tokens_per_batch):
            chosen = [pairs[i] for i in batch]
            packed = pack(chosen, self.pad, self.device, branching(model))
            with autocast(self.device, self.precision):
                hidden = action_hidden(model, packed)
                values = in_chunks(
                    lambda rows, actions: token_statistics(tempered(head, rows, scale), actions),
                    self.logits_per_chunk // head.weight.shape[0],
                    hidden,
                    packed.tokens,
                )
            self.processed_tokens += packed.processed_tokens
            rows = values.double()[packed.edge].cpu().split([len(a) for _, a in chosen])
            for i, mine in zip(batch, rows, strict=True):
                scores[i] = TokenScores(*np.ascontiguousarray(mine.numpy().T))
        return [s for s in scores if s is not None]

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights of every distinct model, by role; those of adapters alone."""
        shared = self.models["teacher"] is self.models["student"]
        roles: tuple[Role, ...] = ("student",) if shared else ("student", "teacher")
        state = adapter_state if self.storage == "lora" else torch.nn.Module.state_dict
        return {role: state(self.models[role]) for role in roles}

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take up weights that `state` returned."""
        for role, weights in state.items():
            model = self.models[role]  # type: ignore[index]
            model.load_state_dict(model.state_dict() | weights)

    def weights(self, role: Role) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights of a role as an ordinary model names them; an adapter is merged."""
        return whole_weights(self.models[role])

    def stamp(self, role: Role) -> tuple[int, ...]:
        """Return what is another one once weights of a role have moved.

        Every in-place change of a tensor counts up its version, be it by an optimizer, a moving
        average or a checkpoint that is loaded.
        """
        return tuple(weight._version for weight in self.models[role].parameters())

    def save(self, role: Role, folder: Path) -> None:
        """Write one role as an ordinary Hugging Face folder; an adapter is merged into its base."""
        ordinary(self.models[role]).save_pretrained(folder)
        self.tokenizer.init_kwargs[FORMAT_KEY] = self.view.format  # what it was trained in
        self.tokenizer.save_pretrained(folder)


def load_policy(
    checkpoint: Path,
    sampling: Sampling,
    storage: Storage = "separate",
    context: tuple[Context, ...] = DEFAULT_CONTEXT,
    lora: Lora = Lora(),
    prompt_format: PromptFormat = "auto",
    engine: Engine | None = None,
    tokens_per_batch: int = 16384,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
    precision: Precision = "fp32",
    kind: "type[TorchPolicy]" = TorchPolicy,
) -> TorchPolicy:
    """Load a Hugging Face folder as student and teacher.

    Args:
        checkpoint: folder with config, safetensors and tokenizer.
        sampling: how rollouts are drawn.
        storage: ``separate`` gives each role its own copy; ``shared`` one module to both; ``ema``
            makes the teacher a moving average of the student; ``lora`` freezes the model and gives
            each role an adapter over it.
        context: the privileged fields that the teacher sees.
        lora: those adapters' size and place.
        prompt_format: see `views.View`.
        engine: what samples, in place of transformers.
        tokens_per_batch: padded tokens that are scored at once.
        logits_per_chunk: logits over the vocabulary that are held at once.
        precision: ``bf16`` samples and scores under autocast.
        kind: of policy.

    Raises:
        PedrlError: if the folder is missing or cannot be read as a checkpoint, has no layers that
            `lora` names, or no chat template for a chat.
    """
    transformers.utils.logging.disable_progress_bar()  # ours shows the run, not the file
    if not (checkpoint / "config.json").is_file():
        raise PedrlError(f"no checkpoint at {checkpoint}: expected a folder with a config.json")
    try:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
        student = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            dtype=torch.float32,
            attn_implementation=implementation(config, device),
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except Exception as error:  # every loader has its own exceptions; all mean the same to a user
        raise PedrlError(
            f"the checkpoint at {checkpoint} cannot be loaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); fetch it again or rebuild it with `pedrl pretrain`"
        ) from error
    student.eval().to(kind.loads_to(device))
    models = _stored(student, storage, lora)
    return kind(
        models,
        tokenizer,
        sampling,
        context,
        tokens_per_batch,
        storage,
        prompt_format,
        engine,
        logits_per_chunk,
        precision,
    )


def _stored(model: PreTrainedModel, storage: Storage, lora: Lora) -> dict[Role, PreTrainedModel]:
    if storage == "lora":
        return {role: add_adapter(model, role, lora) for role in ("student", "teacher")}
    return {"student": model, "teacher": model if storage == "shared" else copy.deepcopy(model)}
