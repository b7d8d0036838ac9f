"""Where the code of an answer ends: said while it is sampled, and again when it is cut out.

Pure functions of text, and one object that asks them only at tokens that can matter. Nothing here
parses: answers are hostile text, and quotes and brackets are all that has to be followed.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

Kind = Literal["body", "fence"]
_FLUSH: Final = re.compile(r"^(?=[^\s#])", re.MULTILINE)  # a line that begins with code
_OPENING: Final = re.compile(r"```[ \t]*([\w+-]*)[^\n`]*\n")
_CLOSING: Final = re.compile(r"^[ \t]*```", re.MULTILINE)
_LEXEME: Final = re.compile(r"#[^\n]*|\"\"\"|'''|[\"'()\[\]{}]")
_STRINGS: Final = {
    **{q: re.compile(rf"(?:\\.|[^\\])*?{q}", re.DOTALL) for q in ('"""', "'''")},
    **{q: re.compile(rf"(?:\\.|[^\\\n{q}])*{q}?", re.DOTALL) for q in "\"'"},
}  # mark -> the rest of it; a short one ends with its line at the latest
_LABELS: Final = ("", "python", "python3", "py")


def body_end(text: str) -> int | None:
    r"""Where an answer that completes a function leaves it; None while it has not.

    That is at the first line which is not indented. Blank lines and comments belong to the
    function wherever they stand, and so does what is inside brackets or a long string; a decorator,
    a ``def``, a call or prose does not. A helper that the function needs is therefore written
    inside of it. An answer whose own first line of code is not indented completes no function: it
    is a program (often the function once more), which only a closing fence or its last token ends.
    """
    first = re.search(r"^[ \t]*[^\s#]", text, re.MULTILINE)
    if first is None:
        return None
    indented = text[first.start()] in " \t"
    scan = _Scan(text)
    for line in _FLUSH.finditer(text):
        fence = text.startswith("```", line.start())
        if (indented or fence) and scan.outside(line.start()):
            return line.start()
    return None


def fence_end(text: str) -> int | None:
    """Where the first fenced block of Python is closed; None while it is not."""
    found = _block(text)
    return None if found is None or found[1] is None else found[1]


def fenced(text: str) -> str | None:
    """The first block fenced by ``` or ```python; one that is not closed ends with the text.

    None where there is no such block.
    """
    found = _block(text)
    return None if found is None else text[found[0] : found[1]]


def code(kind: Kind, text: str) -> str:
    """What of an answer is verified: up to its end, or its first block, or all of it."""
    if kind == "body":
        return text[: body_end(text)]
    block = fenced(text)
    return text if block is None else block


def _block(text: str) -> tuple[int, int | None] | None:
    at = 0
    while opening := _OPENING.search(text, at):
        closing = _CLOSING.search(text, opening.end())
        if opening[1].lower() in _LABELS:
            return opening.end(), closing.start() if closing else None
        if closing is None:
            return None
        at = closing.end()
    return None


class _Scan:
    """Follows brackets and strings of a text from its beginning, once."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0

    def outside(self, place: int) -> bool:
        """Whether no bracket and no long string is open at a line's beginning; places only grow."""
        while lexeme := _LEXEME.search(self._text, self._at, place):
            mark, self._at = lexeme[0], lexeme.end()
            if mark in _STRINGS:
                inside = _STRINGS[mark].match(self._text, self._at)
                self._at = inside.end() if inside else len(self._text) + 1
            elif mark in "([{":
                self._depth += 1
            elif mark in ")]}":
                self._depth = max(self._depth - 1, 0)
        return self._at <= place and self._depth == 0


class Ending:
    """Tells at which sampled token the code of an answer has ended.

    Args:
        kind: ``body`` for completions of a function, ``fence`` for answers of a chat.
        tokenizer: that the answers are of.
    """

    def __init__(self, kind: Kind, tokenizer: "Tokenizer") -> None:
        self.kind, self._tokenizer = kind, tokenizer
        added = tokenizer.added_tokens_decoder
        self._special = frozenset(i for i, token in added.items() if token.special)
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        self._telling = frozenset(i for i, piece in enumerate(pieces) if re.search(r"[\n`]", piece))

    def over(self, action_ids: Sequence[int]) -> bool:
        """Whether the last of these tokens is the one at which the code ended.

        It is for the caller to ask after each token, and to know the end of sequence itself. Any
        other special token ends an answer as well. Text is read only where a line begins, or at a
        backquote.
        """
        if action_ids[-1] in self._special:
            return True
        if not self._telling.intersection(action_ids[-2:]):
            return False
        text = self._tokenizer.decode(list(action_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return (body_end if self.kind == "body" else fence_end)(text) is not None

    def length(self, action_ids: Sequence[int]) -> int | None:
        """How many of these tokens it takes to its end; None where it has none."""
        cut = range(1, len(action_ids) + 1)
        return next((n for n in cut if self.over(action_ids[:n])), None)
