"""Prompt formats: privilege and nothing else tells roles apart, and prompts end between tokens."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pedrl_agents.ending import Ending
from pedrl_agents.mechanism import rollout_metrics
from pedrl_agents.torch_policy import Sampling, TorchPolicy, load_policy
from pedrl_agents.views import PromptFormat, View, privileged_block, question, told
from pedrl_env.records import GenerationRequest, Group, Privileged, Task, Trajectory, Turn, Verdict
from pedrl_env.registry import make_suite
from pedrl_env.verifier import Verifier, assemble
from pedrl_sandbox.errors import PedrlError
from pedrl_tasks.lexicon import Lexicon
from tests.gguf_model import TEMPLATE, tiny_bpe, tiny_llama
from tests.tiny import make_task, tiny_policy

STARTER = make_suite("starter").tasks("train")[:8]
LEXICON = Lexicon(coined=2).tasks("train")[:4]
BODY = "    return x + 1\n"
SCRIPT = dataclasses.replace(make_task("script", "Print the sum.\n", solution="x"), entry_point="")
PROSE = make_task("prose", '"""\nWrite f.\nassert f(1) == 2\n"""\n', solution="def f(x):\n    x\n")
LITERAL = dataclasses.replace(make_task("literal", "f(1) ==", solution="2"), literal=True)
TASKS = (*STARTER, *LEXICON, SCRIPT, PROSE, LITERAL)


def wrap(bpe: Tokenizer, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", bos_token="<|im_start|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def punctuation_takes_newlines() -> Tokenizer:
    """As in Llama 3 and Qwen: a newline belongs to the punctuation before it; a BOS comes first."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"\w+| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"
            ),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    text = 'def f(x):\n    """Text."""\n    return x\n' * 50
    bpe.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    return bpe


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One that merges a newline with the indentation after it, as SmolLM2's does."""
    return wrap(tiny_bpe())


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> TorchPolicy:
    """A random model with a chat template."""
    folder = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(folder)
    wrap(tiny_bpe()).save_pretrained(folder)
    torch.set_num_threads(1)
    return load_policy(folder, Sampling(96), "shared", prompt_format="completion")


@pytest.mark.parametrize("format", ["plain", "completion", "chat"])
def test_the_views_differ_in_the_privileged_block_alone(
    format: PromptFormat, tokenizer: PreTrainedTokenizerFast
) -> None:
    view = View(tokenizer, format)
    for task in TASKS:
        student, teacher = view.text(task, "student"), view.text(task, "teacher")
        block = privileged_block(told(task, task.privileged), ("solution", "notes"))
        assert block
        assert teacher.count(block) == 1
        assert teacher.replace(block, "") == student
        assert task.privileged.solution.rstrip("\n") in block
        assert view.ids(task, "student") == view.ids(
            dataclasses.replace(task, privileged=Privileged()), "teacher"
        )


@pytest.mark.parametrize("format", ["plain", "completion", "chat"])
def test_feedback_is_told_in_every_format(
    format: PromptFormat, tokenizer: PreTrainedTokenizerFast
) -> None:
    view = View(tokenizer, format)
    ids = view.told_ids(STARTER[0], Privileged(feedback="raised IndexError"))
    text = tokenizer.decode(list(ids))
    assert "# An earlier attempt gave:\n# raised IndexError\n" in text
    assert STARTER[0].prompt.rstrip() in text


def test_a_reference_that_is_a_body_is_shown_under_its_head() -> None:
    task = make_task("body", 'import re\n\ndef f(x):\n    """Text."""\n', solution=BODY)
    assert told(task, task.privileged).solution == "def f(x):\n" + BODY
    whole = Privileged(solution="def f(x):\n" + BODY)
    assert told(task, whole) is whole
    for task in STARTER:
        compile(told(task, task.privileged).solution, task.id, "exec")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_a_completion_prompt_ends_between_tokens(
    task: Task, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The ids of prompt and answer are the ids of their text: nothing is torn."""
    for one in (tokenizer, wrap(punctuation_takes_newlines())):
        view = View(one, "completion")
        prompt = view.ids(task, "student")
        body = task.prompt.rstrip().endswith(('"""', ":")) and task is not PROSE
        answer = view.answer(task, BODY if body else "def f(x):\n" + BODY)
        whole = one(view.text(task, "student") + answer)["input_ids"]
        assert tuple(whole[: len(prompt)]) == prompt
        assert view.text(task, "student") + answer == task.prompt + (
            BODY if body else "def f(x):\n" + BODY
        )
        assert view.code(answer) == (BODY if body else "def f(x):\n" + BODY)


def test_the_newline_goes_to_the_token_that_takes_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = make_task("one", 'def f(x):\n    """Text."""\n')
    after = View(tokenizer, "completion")
    assert after.text(task, "student") == 'def f(x):\n    """Text."""'
    assert tokenizer.tokenize(after.answer(task, BODY))[0].startswith("ĊĠĠĠ")
    before = View(wrap(punctuation_takes_newlines()), "completion")
    assert before.text(task, "student") == task.prompt
    assert before.ids(task, "student")[0] == 1  # what its tokenizer puts first
    torn = tokenizer(task.prompt)["input_ids"]
    assert tokenizer(task.prompt + BODY)["input_ids"][: len(torn)] != torn  # what plain does


def test_a_chat_says_what_is_wanted(tokenizer: PreTrainedTokenizerFast) -> None:
    view = View(tokenizer, "chat")
    text = view.text(STARTER[0], "student")
    name = STARTER[0].entry_point
    assert text.startswith(f"<|im_start|>user\nComplete the Python function `{name}`.")
    assert text.endswith("```<|im_end|>\n<|im_start|>assistant\n")
    assert view.ids(STARTER[0], "student").count(1) == 2  # turns begin with one token each
    assert "Write this Python program" in question(SCRIPT)
    assert "Write the Python function `f`" in question(PROSE)
    assert "as a Python literal" in question(LITERAL)
    fenced = view.answer(STARTER[0], BODY)
    assert view.code(fenced) == assemble(STARTER[0], BODY)
    assert view.code("no fence") == "no fence"


def test_auto_takes_what_the_checkpoint_says(
    tokenizer: PreTrainedTokenizerFast, tiny_base: Path, tmp_path: Path
) -> None:
    assert View(tokenizer).format == "chat"
    assert View(wrap(tiny_bpe(), None)).format == "completion"
    assert tiny_policy(tiny_base).view.format == "plain"
    policy = load_policy(tiny_base, Sampling(), "shared", prompt_format="completion")
    policy.save("student", tmp_path / "final")  # evaluated as it was trained
    assert load_policy(tmp_path / "final", Sampling(), "shared").view.format == "completion"
    with pytest.raises(PedrlError, match="needs a chat template, and this checkpoint has none"):
        View(wrap(tiny_bpe(), None), "chat")
    with pytest.raises(PedrlError, match="did you mean 'chat'"):
        View(tokenizer, "chap")  # type: ignore[arg-type]


def test_the_embedded_model_is_asked_as_ever(tiny_base: Path) -> None:
    """Its answers hold lines at the margin; they end with the end of sequence all the same."""
    policy = tiny_policy(tiny_base, max_new_tokens=40)
    for task in LEXICON:
        assert policy.prompt_ids(task, "student") == policy.encode(task.prompt)
    text = "    return 1\nx = 2\n```\n"
    assert policy.decode(Turn((1,), policy.encode_answer(text), (), "eos")) == text
    assert not policy.view.over(list(policy.encode(text)))


@pytest.mark.parametrize("format", ["completion", "chat"])
def test_an_ending_is_told_at_its_token_and_not_before(
    format: PromptFormat, tokenizer: PreTrainedTokenizerFast
) -> None:
    view = View(tokenizer, format)
    text = "\n    return x\n\n\ndef g(x):\n" if format == "completion" else "```\nx = 1\n```\nSo."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = [n for n in range(1, len(ids) + 1) if view.over(ids[:n])]
    assert ends
    before = str(tokenizer.decode(ids[: ends[0] - 1]))
    end = "\n    return x\n\n\nd" if format == "completion" else "```\nx = 1\n```"
    assert end.startswith(before)
    assert before != end
    assert str(tokenizer.decode(ids[: ends[0]])).startswith(end)
    ending = Ending("body" if format == "completion" else "fence", tokenizer)
    assert ending.length(ids) == ends[0] < len(ids)
    assert ending.length(ids[: ends[0] - 1]) is None
    assert view.over([ids[0], 0])  # another special token ends an answer, too


def test_sampling_stops_where_the_code_ends(policy: TorchPolicy) -> None:
    """A random model writes noise; what it sampled is kept, up to the token that ended it."""
    turns = policy.generate([GenerationRequest(STARTER[0], "student", 64)], seed=3)[0]
    stopped = [t for t in turns if t.stop == "stop"]
    assert stopped
    assert {t.stop for t in turns} >= {"stop"}
    for turn in turns:
        ids = list(turn.action_ids)
        ends = [n for n in range(1, len(ids) + 1) if policy.view.over(ids[:n])]
        assert ends == ([] if turn.stop == "length" else [len(ids)])
        assert (ids[-1] == policy.eos) == (turn.stop == "eos")
    (first, *_), scores = (
        stopped,
        policy.score("student", [(t.prompt_ids, t.action_ids) for t in stopped]),
    )
    assert len(first.logprobs) == len(first.action_ids)
    for turn, score in zip(stopped, scores, strict=True):
        assert score.logprobs == pytest.approx(turn.logprobs, abs=1e-4)
    again = policy.generate([GenerationRequest(STARTER[0], "student", 64)], seed=3)[0]
    assert again == turns


def test_format_is_the_share_that_python_can_read() -> None:
    task = make_task("one", "def f(x):\n")
    texts = ["    return x + 1\n", "    return x\n", "    return (\n", "prose", "  ", "    1/0\n"]
    with Verifier("zygote") as verifier:
        verdicts = verifier.verify_batch([(task, text) for text in texts])
    verdicts.append(Verdict("infra_error", 0.0, 0, 1))
    rollouts = tuple(
        Trajectory(task.id, 0, "student", 0, (Turn((1,), (2,), (-1.0,), "eos"),), text, v, 0, False)
        for text, v in zip([*texts, "    lost"], verdicts, strict=True)
    )
    metrics = rollout_metrics([Group(task, "student", rollouts)], lambda text: None)
    assert metrics["student/format"] == pytest.approx(3 / 6)
    assert metrics["student/correct"] == pytest.approx(1 / 6)
