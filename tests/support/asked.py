"""Random requests: filters of up to three fields, sorts, fields to show; in the contract's JSON."""

from __future__ import annotations

import random
import uuid
from typing import Any

from tests.support.attending import STATUSES, World

FIELDS = ("id", "bookingId", "sessionId", "status", "numberOfAttendees")
_SHOWN = (*FIELDS, "eventId", "updatedDate", "source")


class Asking:
    """Draws requests about a world: of values that it has, mostly."""

    def __init__(self, world: World, seed: int) -> None:
        self.rng = random.Random(seed)
        self._world = world
        self._known = list(world.documents.values())

    def query(self) -> dict[str, Any]:
        """A request's query without paging."""
        rng, query = self.rng, dict[str, Any]()
        if rng.random() < 0.85:
            query["filter"] = self.filter()
        if sort := self._sort():
            query["sort"] = sort
        return query

    def fields(self) -> list[str] | None:
        """What to show; None is everything."""
        return self.rng.sample(_SHOWN, self.rng.randint(1, 4)) if self.rng.random() < 0.1 else None

    def filter(self) -> dict[str, Any]:
        """Conditions on none to three fields."""
        rng = self.rng
        names = rng.sample(FIELDS, rng.choice((0, 1, 1, 1, 2, 2, 3)))
        conditions = {self._spelled(name): self._condition(name) for name in names}
        if rng.random() < 0.15:
            conditions = {"$and": [{name: condition} for name, condition in conditions.items()]}
        if rng.random() < 0.1:
            name = rng.choice(FIELDS)
            conditions.setdefault("$and", []).append({name: self._condition(name)})
        return conditions

    def _spelled(self, name: str) -> str:
        return "eventId" if name == "sessionId" and self.rng.random() < 0.3 else name

    def _sort(self) -> list[dict[str, str]]:
        fields = self.rng.sample(FIELDS, self.rng.choice((0, 1, 1, 1, 2, 2, 2)))
        return [self._ordered(self._spelled(field)) for field in fields]

    def _ordered(self, name: str) -> dict[str, str]:
        order = self.rng.choice(("ASC", "DESC", "DESC", ""))
        return {"fieldName": name, **({"order": order} if order else {})}

    def _condition(self, field: str) -> Any:
        rng = self.rng
        if field == "numberOfAttendees" and rng.random() < 0.6:
            some = rng.sample(("$lt", "$lte", "$gt", "$gte", "$ne"), rng.choice((1, 1, 2, 3)))
            return {operator: self._value(field) for operator in some}
        kinds = ("plain", "$eq", "$in", "$in", "$hasSome", "$ne", "$nin", "two")
        match rng.choice(kinds):
            case "plain":
                return self._value(field)
            case "two":
                return {"$in": self._values(field), rng.choice(("$ne", "$eq")): self._value(field)}
            case ("$eq" | "$ne") as operator:
                return {operator: self._value(field)}
            case operator:
                return {operator: self._values(field)}

    def _values(self, field: str) -> list[Any]:
        return [self._value(field) for _ in range(self.rng.choice((0, 1, 2, 3, 8, 20, 100)))]

    def _value(self, field: str) -> Any:
        rng = self.rng
        if field == "status":
            return rng.choice(STATUSES)
        if not self._known or rng.random() < 0.1:
            return self._unknown(field)
        value = rng.choice(self._known)[field]
        if field == "numberOfAttendees":
            return max(0, value + rng.choice((0, 0, 0, 1, -1)))
        if rng.random() < 0.1 and _is_guid(value):
            value = value.upper()
        return f" {value}\u00a0" if field != "id" and rng.random() < 0.05 else value

    def _unknown(self, field: str) -> Any:
        if field == "numberOfAttendees":
            return self.rng.randint(0, 100_000)
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4)) if field == "id" else f"no such {field}"


def _is_guid(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4
