"""Violations of a request: each names the path, the operator and what is allowed there."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

#: Validation stops at this many.
MOST_VIOLATIONS = 20
_LONGEST_SHOWN = 40
_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number with a fraction or exponent",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


class Rule(StrEnum):
    """The rule that was violated, for programs."""

    WRONG_TYPE = "WRONG_TYPE"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    UNKNOWN_OPERATOR = "UNKNOWN_OPERATOR"
    UNKNOWN_VALUE = "UNKNOWN_VALUE"
    REQUIRED = "REQUIRED"
    TOO_MANY = "TOO_MANY"
    TOO_DEEP = "TOO_DEEP"
    TOO_LARGE = "TOO_LARGE"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    REPEATED = "REPEATED"
    MALFORMED = "MALFORMED"
    OTHER_QUERY = "OTHER_QUERY"


class Violation(NamedTuple):
    """The path in the request, what is wrong and allowed there, and a `Rule`."""

    field: str
    description: str
    rule: str


class QueryError(ValueError):
    """A query that is not valid; its text is one line for a terminal.

    Args:
        violations: at least one, in the order of the request.
    """

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{each.field}: {each.description}" for each in self.violations))


class Violations:
    """Collects violations, so that one response names all of them."""

    def __init__(self) -> None:
        self.items: list[Violation] = []

    def add(self, field: str, description: str, rule: Rule) -> None:
        """Adds a violation.

        Raises:
            QueryError: there are `MOST_VIOLATIONS`.
        """
        self.items.append(Violation(field, description, rule.value))
        if len(self.items) >= MOST_VIOLATIONS:
            raise QueryError(self.items)

    def raise_if_any(self) -> None:
        """Raises QueryError if there are violations."""
        if self.items:
            raise QueryError(self.items)


def spelled(text: str) -> str:
    """A text from a request, shortened and printable, for paths, responses and terminals."""
    if len(text) > _LONGEST_SHOWN:
        text = text[:_LONGEST_SHOWN] + "…"
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def shown(value: object) -> str:
    """Describes a wrong value of a request: text by itself, others by type, since a number may have any length."""
    return f'"{spelled(value)}"' if isinstance(value, str) else _KINDS.get(type(value), "something else")
