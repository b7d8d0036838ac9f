"""What a knob may be set to: declared beside its field, checked, listed by name.

``beta: Annotated[float, Span(0.0, inf, usual="5 to 10")] = 5.0`` is a float from 0 to infinity that
others set to 5 to 10. Knobs without a span are switches and choices, which their types tell.
"""

import dataclasses
import inspect
import re
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True, slots=True)
class Span:
    """The values a number may take, ends included.

    Attributes:
        low, high: the ends.
        usual: what papers and other code set it to, in words; empty where nobody says.
    """

    low: float
    high: float
    usual: str = ""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.low == -inf:
            return "any number"
        return f"at least {self.low:g}" if self.high == inf else f"{self.low:g} to {self.high:g}"


Count = Annotated[int, Span(0, inf)]
Positive = Annotated[int, Span(1, inf)]
Weight = Annotated[float, Span(0.0, inf)]
Share = Annotated[float, Span(0.0, 1.0)]


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting of a method, as `pedrl methods` lists it.

    Attributes:
        name: as written in ``--set METHOD.NAME=VALUE``.
        values: its range, or its choices.
        usual: what others set it to.
        about: what it does: the words of the docstring.
    """

    name: str
    default: bool | int | float | str
    values: str
    usual: str
    about: str


def knobs_of(record: Any, prefix: str = "") -> list[Knob]:
    """Return every settable field of a config with its value there, those of its parts with a dot.

    Raises:
        LookupError: for a field that the class's docstring does not describe.
    """
    about = _attributes(type(record))
    hints = get_type_hints(type(record), include_extras=True)
    found = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            found += knobs_of(value, f"{prefix}{field.name}.")
        elif field.name not in about:
            raise LookupError(f"{type(record).__name__} does not say what {field.name} is")
        elif isinstance(value, bool | int | float | str):
            values, usual = _values(hints[field.name])
            found.append(Knob(prefix + field.name, value, values, usual, about[field.name]))
    return found


def span_of(record: type[Any], name: str) -> Span | None:
    """Return the span of a field, if it has one."""
    kind = get_type_hints(record, include_extras=True)[name]
    return next((a for a in getattr(kind, "__metadata__", ()) if isinstance(a, Span)), None)


def _values(kind: Any) -> tuple[str, str]:
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind))), ""
    if kind is bool:
        return "true | false", ""
    span = next((a for a in getattr(kind, "__metadata__", ()) if isinstance(a, Span)), None)
    return (str(span), span.usual) if span else ("any", "")


def _attributes(record: type[Any]) -> dict[str, str]:
    """Read the ``Attributes:`` of a docstring: name -> words; ``a, b: words`` describes both."""
    text = inspect.getdoc(record) or ""
    _, _, section = text.partition("Attributes:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        head = re.match(r"    (\w[\w, ]*): (.*)", line)
        if head:
            names = head[1].split(", ")
            found |= dict.fromkeys(names, head[2].strip())
        elif line.startswith("        ") and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        elif line.strip():
            break
    return found
