"""Errors of a reader, and whether a retry helps.

::

    ReaderError
    ├── NotServing         no namespace is live, or a partition is being repaired: retry in a second
    │   └── Switched       the read models were switched during the query: retry at once
    └── OtherLayout        Redis was written by another version of this software: upgrade the reader
    QueryError             the query is invalid: change it
    └── TooMuchWork        the same, since it would need too much work
    redis.RedisError       Redis is unavailable
"""

from schemas.query.violations import QueryError, Rule, Violation


class ReaderError(Exception):
    """The query cannot be answered now."""


class NotServing(ReaderError):
    """The read models are incomplete: no namespace is live, or a partition is being repaired."""


class OtherLayout(ReaderError):
    """The live namespace has a layout that this version does not know."""


class Switched(NotServing):
    """Another namespace, or another key generation of a partition, became live during the query."""

    def __init__(self) -> None:
        super().__init__("the read models are being switched: retry")


class TooMuchWork(QueryError):
    """The query would need too much work; ``description`` says what to change."""

    def __init__(self, description: str, field: str = "filter") -> None:
        super().__init__([Violation(field, description, Rule.TOO_LARGE.value)])
