"""What is wrong with a request: every finding names the place, the operator and what is allowed there."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

#: After so many findings nobody reads on.
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
    """What was violated, for programs."""

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
    """One finding: the path in the request, what is wrong and allowed there, and a `Rule`."""

    field: str
    description: str
    rule: str


class QueryError(ValueError):
    """A query that is refused; as text one line for a terminal.

    Args:
        violations: at least one, in the order of the request.
    """

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{each.field}: {each.description}" for each in self.violations))


class Refusals:
    """Collects what is wrong, so that one answer names all of it."""

    def __init__(self) -> None:
        self.found: list[Violation] = []

    def add(self, field: str, description: str, rule: Rule) -> None:
        """Notes a finding.

        Raises:
            QueryError: these are enough.
        """
        self.found.append(Violation(field, description, rule.value))
        if len(self.found) >= MOST_VIOLATIONS:
            raise QueryError(self.found)

    def settle(self) -> None:
        """Goes on only where nothing was found.

        Raises:
            QueryError: something was.
        """
        if self.found:
            raise QueryError(self.found)


def spelled(text: str) -> str:
    """A request's own word, short and printable: it goes into paths, answers and terminals."""
    if len(text) > _LONGEST_SHOWN:
        text = text[:_LONGEST_SHOWN] + "…"
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def shown(value: object) -> str:
    """What a request holds in place of what is allowed; numbers by their kind only, they may have any length."""
    return f'"{spelled(value)}"' if isinstance(value, str) else _KINDS.get(type(value), "something else")
