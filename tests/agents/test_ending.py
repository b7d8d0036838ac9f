"""Where the code of an answer ends: fences, indentation, brackets, strings."""

import pytest

from pedrl_agents.ending import body_end, code, fence_end, fenced

BODIES = [
    # what the answer says, what of it is the function
    ("\n    return 1\n", None),
    ("\n    return 1\nprint(f(2))\n", "\n    return 1\n"),
    ("    return 1\n\n\ndef g():\n", "    return 1\n\n\n"),
    ("\n    return 1\n@cache\ndef g():\n", "\n    return 1\n"),
    ("\n    return 1\n```\nThis works.", "\n    return 1\n"),
    ("\n    return 1\nThis works.", "\n    return 1\n"),
    # a comment or a blank line at the margin belongs to the function
    ("\n    a = 1\n# now b\n\n    return a\n", None),
    ("\n# first\n    return 1\nx", "\n# first\n    return 1\n"),
    # so does a helper or a decorator inside of it
    ("\n    @cache\n    def g(x):\n        return x\n    return g(1)\ng", 1),
    # brackets and long strings may reach the margin
    ("\n    return [\n1,\n2,\n]\n", None),
    ("\n    return [\n1,\n]\nf(2)", "\n    return [\n1,\n]\n"),
    ('\n    s = """a\nb ( \\""" c\n"""\n    return s\nx', 1),
    ("\n    s = '''a\nb", None),
    ('\n    s = \'([\'  # ([\n    t = "{\\""\n    return s\nx', 1),
    ("\n    s = 'never closed (\n    return s\nx", 1),  # a short string ends with its line
    ("\n    return )\nx", 1),
    # an answer that begins at the margin is a program: helpers, decorators and all
    ("def g():\n    return 1\n\n@g\ndef f(x):\n    return x\nprint(1)\n", None),
    ("\n\ndef f(x):\n    return x\n```\nThis", "\n\ndef f(x):\n    return x\n"),
    ("", None),
    ("\n\n", None),
    ("\n# only words\n", None),
]


@pytest.mark.parametrize(("text", "body"), BODIES)
def test_a_body_ends_at_the_first_line_that_is_not_its_own(
    text: str, body: str | int | None
) -> None:
    if body is None:
        assert body_end(text) is None
        assert code("body", text) == text
        return
    kept = body if isinstance(body, str) else text[: text.rindex("\n") + 1]
    assert code("body", text) == kept
    assert body_end(text) == len(kept)


@pytest.mark.parametrize("text", [text for text, _ in BODIES])
def test_an_end_once_found_stays_where_it_is(text: str) -> None:
    """Or else what is verified would not be what was sampled up to the stop."""
    ends = [body_end(text[:n]) for n in range(len(text) + 1)]
    found = [end for end in ends if end is not None]
    assert len(set(found)) <= 1
    assert ends[len(ends) - len(found) :] == found  # from the moment on


BLOCKS = [
    ("```python\ndef f():\n    pass\n```\nDone.", "def f():\n    pass\n", True),
    ("Sure:\n```\nx = 1\n```", "x = 1\n", True),
    ("Sure: ```Python\nx = 1\n```", "x = 1\n", True),
    ("```python\nx = 1\n", "x = 1\n", False),
    ("```python\nx = '```'\n", "x = '```'\n", False),
    ("```text\n3\n```\n```py\nx = 1\n```", "x = 1\n", True),
    ("```text\n3\n```\n", None, False),
    ("```python\na\n```\n```python\nb\n```", "a\n", True),
    ("  ```python\n  x = 1\n  ```", "  x = 1\n", True),
    ("the name `f` and ```f```", None, False),
    ("return 1", None, False),
    ("", None, False),
]


@pytest.mark.parametrize(("text", "block", "closed"), BLOCKS)
def test_the_first_python_block_is_the_code(text: str, block: str | None, closed: bool) -> None:
    assert fenced(text) == block
    assert (fence_end(text) is not None) == closed
    assert code("fence", text) == (text if block is None else block)


def test_hostile_text_is_read_in_time() -> None:
    for unit in ("(", "'", '"""', "\\", "```", "\n(", "\n'''", "# \n", "\n    x\n", '"\\'):
        text = "\n    return " + unit * (30_000 // len(unit))
        body_end(text), fence_end(text)
