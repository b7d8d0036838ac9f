"""What each role sees of a task. The one place where privileged text becomes part of a prompt.

A teacher prompt is the student prompt with a privileged block in front of the task, to the letter:
the two views differ in nothing else, so surprise gaps measure privilege and not formatting. In a
chat, both stand in the one message of the user.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from pedrl_agents.ending import Ending, code
from pedrl_env.records import Privileged, Role, Task
from pedrl_env.verifier import assemble
from pedrl_sandbox.errors import PedrlError, unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

Context = Literal["solution", "tests", "notes", "feedback"]
DEFAULT_CONTEXT: tuple[Context, ...] = ("solution", "notes")
PromptFormat = Literal["auto", "plain", "completion", "chat"]
FORMAT_KEY: Final = "prompt_format"  # in a checkpoint's tokenizer_config.json

_HEADINGS: dict[Context, str] = {
    "solution": "# Here is a reference solution:",
    "tests": "# It must satisfy:",
    "notes": "# Notes:",
    "feedback": "# An earlier attempt gave:",
}
_CLOSING = "# Now solve it in your own words, step by step:\n"


def privileged_block(privileged: Privileged, context: tuple[Context, ...]) -> str:
    """Render the chosen privileged fields as source and comments; empty ones are left out."""
    parts = []
    for field in context:
        if field not in get_args(Context):
            raise unknown_name("privileged context", field, get_args(Context))
        text = getattr(privileged, field).rstrip("\n")
        if text:
            body = text if field == "solution" else "\n".join(f"# {s}" for s in text.split("\n"))
            parts.append(f"{_HEADINGS[field]}\n{body}\n")
    return "".join(parts) + _CLOSING if parts else ""


def render(task: Task, role: Role, context: tuple[Context, ...] = DEFAULT_CONTEXT) -> str:
    """Return the prompt of `task` as `role` sees it, in no format."""
    if role == "student":
        return task.prompt
    return privileged_block(told(task, task.privileged), context) + task.prompt


def told(task: Task, privileged: Privileged) -> Privileged:
    """What a teacher is told of a task; a solution that is a body alone gets its head back."""
    solution, name = privileged.solution, re.escape(task.entry_point)
    head = re.search(rf"^(?:async )?def {name}\(.*?:\n(?=[ \t]|\Z)", task.prompt, re.M | re.S)
    if not head or not solution[:1].isspace():
        return privileged
    return replace(privileged, solution=head[0] + solution)


def question(task: Task, block: str = "") -> str:
    """What the user of a chat says: what is wanted, and the prompt of the task.

    Args:
        task: whose.
        block: privileged text, put before everything else.
    """
    fence = "in one ```python block"
    name = re.escape(task.entry_point)
    if task.literal:
        ask = f"Answer with the value alone, as a Python literal, {fence}.\n\n{task.prompt}"
    elif not task.entry_point:
        ask = f"Write this Python program. Answer with all of it {fence}.\n\n{task.prompt}"
    elif re.search(rf"^(async )?def {name}\b", task.prompt, re.MULTILINE):
        ask = (
            f"Complete the Python function `{task.entry_point}`. Answer with the whole function "
            f"{fence}.\n\n```python\n{task.prompt.rstrip()}\n```"
        )
    else:
        ask = (
            f"Write the Python function `{task.entry_point}`. Answer with the whole function "
            f"{fence}.\n\n{task.prompt.rstrip()}"
        )
    return block + ask


class View:
    """Tasks as prompts for one tokenizer, and its answers as code.

    ``plain`` is the prompt to the letter, and an answer ends with the end of sequence: what a model
    of one's own was trained on. ``completion`` ends the prompt where the tokenizer ends a token, so
    that no newline is torn from the indentation after it, and ends an answer with the function.
    ``chat`` is the tokenizer's chat template, and an answer ends with its first fenced block.
    ``auto`` is what the checkpoint says it was trained in; else chat where there is a template, and
    completion where there is none.

    Args:
        tokenizer: of the model.
        format: see above.
        context: the privileged fields that a teacher sees.

    Attributes:
        format: the one that is used, never ``auto``.

    Raises:
        PedrlError: the format is not known, or a chat has no template.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        format: PromptFormat = "auto",
        context: tuple[Context, ...] = DEFAULT_CONTEXT,
    ) -> None:
        if format == "auto":
            format = tokenizer.init_kwargs.get(FORMAT_KEY, "auto")
        if format not in get_args(PromptFormat):
            raise unknown_name("prompt format", format, get_args(PromptFormat))
        if format == "auto":
            format = "chat" if tokenizer.chat_template else "completion"
        if format == "chat" and not tokenizer.chat_template:
            raise PedrlError(
                "prompt format 'chat' needs a chat template, and this checkpoint has none: use "
                "'completion'"
            )
        self.format, self.context, self._tokenizer = format, context, tokenizer
        self._endings: dict[str, str] = {}  # prompt -> what it is cut to
        self._ending: Ending | None = None
        if format != "plain":
            self._ending = Ending("fence" if format == "chat" else "body", tokenizer)
        self.over: Callable[[list[int]], bool] = self._ending.over if self._ending else _never

    def text(self, task: Task, role: Role) -> str:
        """The prompt of a task as a role sees it."""
        secret = privileged_block(told(task, task.privileged), self.context)
        return self._text(task, secret if role == "teacher" else "")

    def ids(self, task: Task, role: Role) -> tuple[int, ...]:
        """The same, encoded."""
        return self._encode(self.text(task, role))

    def told_ids(self, task: Task, privileged: Privileged) -> tuple[int, ...]:
        """The prompt of a teacher that is told this, in place of the task's own secrets."""
        block = privileged_block(told(task, privileged), ("solution", "feedback"))
        return self._encode(self._text(task, block))

    def answer(self, task: Task, text: str) -> str:
        """A given submission as an answer in this format."""
        if self.format == "chat":
            return f"```python\n{assemble(task, text).rstrip()}\n```"
        return task.prompt[len(self._cut(task.prompt)) :] + text

    def code(self, answer: str) -> str:
        """The submission in an answer.

        The newline that a prompt was cut by is the prompt's, whether or not the answer has it.
        """
        if self._ending is None:
            return answer
        found = code(self._ending.kind, answer)
        return found.removeprefix("\n") if self.format == "completion" else found

    def _text(self, task: Task, block: str) -> str:
        if self.format == "chat":
            message = [{"role": "user", "content": question(task, block)}]
            text: Any = self._tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True
            )
            return str(text)
        return block + self._cut(task.prompt)

    def _encode(self, text: str) -> tuple[int, ...]:
        """Encode a prompt; a chat template writes special tokens itself, as does no other text."""
        special = self.format == "completion"
        ids = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return tuple(ids)

    def _cut(self, prompt: str) -> str:
        """A prompt without the whitespace at its end that an answer's first token takes in."""
        if self.format == "plain":
            return prompt
        if prompt not in self._endings:
            self._endings[prompt] = self._natural(prompt)
        return self._endings[prompt]

    def _natural(self, prompt: str) -> str:
        last = prompt.rstrip().rsplit("\n", 1)[-1]
        likely = "    return x\n" if last[:1].isspace() or last.endswith(":") else "\ndef f(x):\n"
        whole = self._encode(prompt + likely)
        for cut in (prompt, prompt.rstrip("\n"), prompt.rstrip()):
            ids = self._encode(cut)
            if whole[: len(ids)] == ids:
                return cut
        return prompt


def _never(action_ids: list[int]) -> bool:
    return False
