"""What the keys of a partition should hold, as `Entries` that are kept by key instead of being sent; and what they hold.

A key is named without the prefix of its key generation. Hash values are bytes; scores are packed doubles.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from math import inf, isfinite
from struct import Struct
from typing import Any

import orjson

from schemas.attendance import STATUSES, guid
from worker.read_model import keys
from worker.read_model.booking_records import attendances_of, is_frequent, is_large, number_of, status_of, unpack_summary
from worker.read_model.devices import score_of, unpack_newest
from worker.read_model.documents import Contribution, names_of, unpack, unpack_contribution
from worker.read_model.keys import PartitionKeys, booking_bucket, member_of_record
from worker.read_model.lua_scripts import text_of
from worker.read_model.tally import FIELDS, REPORTED, shown_counts
from worker.read_model.watermark import parse_hash
from worker.read_model.write_batch import AlertChange, Entries, RecordMember
from worker.redis.client import Client, masters
from worker.redis.scripts import raise_first_error

Place = tuple[bytes, bytes]
"""A key and a member or field of it. The tally of a session is one value: its member is empty."""

_DOC, _IDS, _BY_BOOKING, _TALLY = (name.encode() for name in (keys.DOC, keys.IDS, keys.BY_BOOKING, keys.TALLY))
UNLISTED = keys.UNLISTED.encode()
#: The only field of that key, which is a sum over all sessions.
UNLISTED_COUNT = "attendances"
#: Status and number of those that it counts.
_COMMON = (0, 1)
_BY_STATUS, _BOOKING, _NO_SHOWS = keys.BY_STATUS.encode(), keys.BOOKING.encode(), keys.NO_SHOWS.encode()
ALERTS, _ALERTS_AT = keys.ALERTS.encode(), keys.ALERTS_AT.encode()
_ALERTS_OF = tuple(name.encode() for name in (keys.ALERTS_KIND, keys.ALERTS_SESSION, keys.ALERTS_BOOKING))
SESSIONS, SESSIONS_START = keys.SESSIONS.encode(), keys.SESSIONS_START.encode()
_ROSTER = keys.ROSTER.encode()
DEVICES, DEVICES_AT = keys.DEVICES.encode(), keys.DEVICES_AT.encode()
#: What the tables do not determine.
UNDETERMINED = frozenset({keys.ESTIMATES.encode(), keys.DEAD_ONLY.encode()})
#: Not a key of Redis: by session, the contribution of each of its pairs by id.
PAIRS = b"pairs:"
_score = Struct(">d").pack
_NUMBERS = 1 << 32
#: The state in a roster of a pair without an attendance.
_ONLY_LISTED = 3
_WINDOW = "window:"
#: Members that one command takes.
_AT_ONCE = 500
#: Keys that are scanned together, and members that these scans take together. Redis works off the commands of a round trip
#: without a break: this takes it some ms.
_SCANNED_KEYS, _SCANNED_MEMBERS = 8, 1_000
#: Keys that one step of SCAN looks at.
_SCANNED_KEY_NAMES = 300

#: The tally of a session with the contributions of its pairs, all of one moment. KEYS: that hash. ARGV: prefix
#: of the key generation, session, shift of document buckets, most attendances, ids. Returns the hash, then id and contribution
#: of those and of the session's attendances; an empty contribution: there is no such pair.
_SUM_AND_PAIRS = (
    text_of("documents")
    + """
local prefix, session, divisor = ARGV[1], ARGV[2], 2 ^ tonumber(ARGV[3])
local answer, seen = { redis.call('HGETALL', KEYS[1]) }, {}
local function add(id)
  if seen[id] then return end
  seen[id] = true
  local bucket = math.floor((string.byte(id, 1) * 256 + string.byte(id, 2)) / divisor)
  local document = redis.call('HGET', prefix .. KEY_DOC .. bucket, id) or ''
  answer[#answer + 1] = id
  answer[#answer + 1] = document ~= '' and string.sub(document, 1, behind_contribution(document) - 1) or ''
end
for index = 5, #ARGV do add(ARGV[index]) end
for _, id in ipairs(redis.call('ZRANGE', prefix .. KEY_IDS .. session, 0, tonumber(ARGV[4]) - 1)) do
  if #id == 16 then add(id) end
end
return answer
""".replace("KEY_DOC", f"'{keys.DOC}'").replace("KEY_IDS", f"'{keys.IDS}'")
)


class Content(Entries):
    """Entries of whole bookings, by the place at which Redis holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[Place, bytes] = {}
        self.tallies: dict[bytes, Counter[str]] = {}
        """By session, what these bookings contribute."""
        self.unlisted: Counter[str] = Counter()
        """How many of these attendances the index by status does not list."""
        self._alert_changes: list[AlertChange] = []

    def pair(  # nothing was before
        self,
        identity: bytes,
        document: bytes,
        now: bytes,
        before: bytes,  # noqa: ARG002
        *,
        has_moved: bool = False,  # noqa: ARG002
    ) -> None:
        self.values[b"%b%d" % (_DOC, int.from_bytes(identity[:2], "big") >> keys.DOC_SHIFT), identity] = document
        contributed, (session, booking) = unpack_contribution(now), names_of(document)
        self.values[PAIRS + session, identity] = now
        _contribute(self.tallies.setdefault(session, Counter()), contributed)
        state = contributed.status if contributed.has_attendance else _ONLY_LISTED
        self.values[_ROSTER + session, booking] = _score(state)
        if contributed.has_attendance:
            score = _score(contributed.status * _NUMBERS + contributed.number)
            self.values[_IDS + session, identity] = score
            if (contributed.status, contributed.number) == _COMMON:
                self.unlisted[UNLISTED_COUNT] += 1
            else:
                self.values[_BY_STATUS, identity] = score

    def booking(self, booking_id: str, record: bytes, record_member: RecordMember, rate: float) -> None:
        name = booking_id.encode()
        self.values[b"%b%d" % (_BOOKING, booking_bucket(name)), name] = record
        if record_member is RecordMember.ADD:
            self.values[b"%b%d" % (_BY_BOOKING, 0), member_of_record(name)] = _score(0)
        if rate < 0:
            self.values[_NO_SHOWS, name] = _score(rate)

    def member(self, booking_id: str, identity: bytes, now: int, before: int) -> None:  # noqa: ARG002 - nothing was before
        self.values[b"%b%d" % (_BY_BOOKING, now), booking_id.encode() + b"\0" + identity] = _score(0)

    def device(self, source: str, newest: bytes | None) -> None:
        assert newest is not None, "nothing was before"
        name = source.encode()
        self.values[DEVICES, name], self.values[DEVICES_AT, name] = newest, _score(score_of(newest))

    def alert(self, change: AlertChange) -> None:
        self._alert_changes.append(change)

    def with_alerts(self) -> dict[Place, bytes]:
        """All values, those of the alerts too."""
        for each in self._alert_changes:
            alert, score = each.alert_id.encode(), _score(each.opened_ms)
            self.values[ALERTS, alert] = each.json.encode()
            indexes = [each.kind, each.session_id, each.booking_id]
            for prefix, name in zip(_ALERTS_OF, indexes, strict=True):
                if name:
                    self.values[prefix + name.encode(), alert] = score
            self.values[_ALERTS_AT, alert] = score
        return self.values


def is_hash(key: bytes) -> bool | None:
    """Whether a key is a hash, otherwise a sorted set; None: the layout has no such key. A sum is neither here."""
    if key in (ALERTS, DEVICES) or key.startswith((_DOC, _BOOKING)):
        return True
    if key in (_BY_STATUS, _NO_SHOWS, _ALERTS_AT, SESSIONS, SESSIONS_START, DEVICES_AT):
        return False
    if key.startswith((_BY_BOOKING, _IDS, _ROSTER, *_ALERTS_OF)):
        return False
    return None


def is_tally(key: bytes) -> bool:
    """Whether a key is the tally of a session."""
    return key.startswith(_TALLY)


def is_sum(key: bytes) -> bool:
    """Whether a key is the tally of a session, or the number of unlisted attendances."""
    return key == UNLISTED or is_tally(key)


def roster_key(session: bytes) -> bytes:
    """The key of a session's roster."""
    return _ROSTER + session


def tally_key(session: bytes) -> bytes:
    """The key of a session's tally."""
    return _TALLY + session


def session_of(key: bytes) -> bytes:
    """The session of a tally, or of `PAIRS`; empty for the number of unlisted attendances."""
    return key.partition(b":")[2]


def tally_of(contributions: Iterable[Contribution]) -> bytes | None:
    """The tally of these pairs, as `packed_sum` gives it; None if there are none."""
    counts: Counter[str] = Counter()
    for contributed in contributions:
        _contribute(counts, contributed)
    return _packed(counts)


def _contribute(counts: Counter[str], contributed: Contribution) -> None:
    has_attendance, status, number, expected, window = contributed
    counts["bookings"] += 1
    if has_attendance:
        counts["reported"] += REPORTED[status]
    if has_attendance and status == 0:
        counts["companions"] += number - 1
    counts["expectedParticipants"] += expected
    if window:
        counts[_WINDOW + window.decode()] += 1


def added(tally: bytes | None, change: Mapping[str, int]) -> bytes | None:
    """A `packed_sum` after a change."""
    counts = Counter({} if tally is None else orjson.loads(tally))
    counts.update(change)
    return _packed(counts)


def start_score(tally: bytes) -> bytes:
    """The score of a session in the index by start, given its `packed_tally`."""
    windows = (name.removeprefix(_WINDOW) for name in orjson.loads(tally) if name.startswith(_WINDOW))
    starts = (int(start) for window in windows if (start := window.partition(":")[0]))
    return _score(min(starts, default=inf))


def bookings_of(tally: bytes | None) -> int:
    """The number of bookings in the `packed_sum` of a tally."""
    return 0 if tally is None else int(orjson.loads(tally).get("bookings", 0))


def packed_sum(fields: Mapping[bytes, bytes]) -> bytes | None:
    """A tally as it is compared: JSON without fields that are 0."""
    return _packed({name.decode(errors="replace"): _number(value) for name, value in fields.items()})


def _packed(counts: Mapping[str, Any]) -> bytes | None:
    present = {name: count for name, count in counts.items() if count != 0}
    return orjson.dumps(present, option=orjson.OPT_SORT_KEYS) if present else None


def _number(value: bytes) -> int | str:
    try:
        return int(value)
    except ValueError:
        return value.decode(errors="replace")


def shown(place: Place, value: bytes | None) -> Any:
    """A value as people read it."""
    key, member = place
    if value is None:
        return None
    try:
        if is_hash(key) is False:
            score = Struct(">d").unpack(value)[0]
            return score if isfinite(score) else str(score)
        if key == DEVICES:
            return unpack_newest(value)._asdict()
        if key.startswith(_DOC):
            return unpack(member, value) or {"listed": unpack_contribution(value)._asdict() | {"window": ""}}
        if key.startswith(_BOOKING):
            return _shown_record(value)
        if is_tally(key):
            held = orjson.loads(value)
            return shown_counts(held) | {name: held[name] for name in held if name not in FIELDS}
        return orjson.loads(value)
    except Exception:  # noqa: BLE001 - a value that was damaged may be anything
        return value.decode(errors="replace")


def _shown_record(record: bytes) -> dict[str, Any]:
    flags = {"FREQUENT_NO_SHOWS": is_frequent(record), "isLarge": is_large(record)}
    attendances = {guid(identity): [STATUSES[status_of(mark)], number_of(mark)] for mark, identity in attendances_of(record)}
    return unpack_summary(record) | flags | {"attendances": attendances}


class PartitionContent:
    """Reads what the keys of one key generation hold."""

    def __init__(self, client: Client, partition_keys: PartitionKeys, generation: str) -> None:
        self._client = client
        self._prefix = partition_keys.prefix(generation).encode()

    async def values(self, places: Sequence[Place]) -> list[bytes | None]:
        """What Redis holds at these places; of a tally the `packed_sum`."""
        by_key: dict[bytes, list[int]] = {}
        for number, (key, _) in enumerate(places):
            by_key.setdefault(key, []).append(number)
        commands, numbers = list[tuple[Any, ...]](), list[list[int]]()
        for key, all_numbers in by_key.items():
            for start in range(0, len(all_numbers), _AT_ONCE):
                part = all_numbers[start : start + _AT_ONCE]
                members = [places[number][1] for number in part]
                name = self._prefix + key
                command = ("HGETALL", name) if is_sum(key) else ("HMGET" if is_hash(key) else "ZMSCORE", name, *members)
                commands.append(command)
                numbers.append(part)
        values: list[bytes | None] = [None] * len(places)
        for part, command, answer in zip(numbers, commands, await self._ask(commands), strict=True):
            if command[0] == "HGETALL":
                answer = [packed_sum(parse_hash(answer))] * len(part)  # noqa: PLW2901
            for number, value in zip(part, answer, strict=True):
                values[number] = value if value is None or command[0] != "ZMSCORE" else _score(float(value))
        return values

    async def sum(self, key: bytes, ids: Iterable[bytes], most: int) -> tuple[bytes | None, dict[bytes, bytes]]:
        """A tally, and the contributions of these pairs and of ``most`` of its attendances, of one moment.

        There is no pair where the contribution is empty.
        """
        arguments = (self._prefix, session_of(key), keys.DOC_SHIFT, most, *ids)
        (answer,) = await self._ask([("EVAL_RO", _SUM_AND_PAIRS, 1, self._prefix + key, *arguments)])
        fields, *pairs = answer
        return packed_sum(parse_hash(fields)), dict(zip(pairs[::2], pairs[1::2], strict=True))

    async def all_keys(self) -> AsyncIterator[list[bytes]]:
        """Every key of the key generation, some at a time; a key may come twice."""
        pattern = _escaped(self._prefix) + b"*"
        for master in await masters(self._client):
            found: list[bytes] = []
            async for name in master.scan_iter(match=pattern, count=_SCANNED_KEY_NAMES):
                found.append(name[len(self._prefix) :])
                if len(found) == _AT_ONCE:
                    yield found
                    found = []
            if found:
                yield found

    async def members(self, names: Sequence[bytes]) -> AsyncIterator[list[Place]]:
        """Every member of these keys, some at a time; a member may come twice."""
        waiting = [(name, 0) for name in reversed(names)]
        while waiting:
            cursors, waiting = waiting[-_SCANNED_KEYS:], waiting[:-_SCANNED_KEYS]
            count = _SCANNED_MEMBERS // len(cursors)
            commands = [("HSCAN" if is_hash(key) else "ZSCAN", self._prefix + key, at, "COUNT", count) for key, at in cursors]
            places = list[Place]()
            for (key, _), (cursor, found) in zip(cursors, await self._ask(commands), strict=True):
                places += [(key, member) for member in _members(found)]
                if int(cursor):
                    waiting.append((key, int(cursor)))
            yield places

    async def _ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        return raise_first_error(await self._client.ask(commands)) if commands else []


def _members(found: Any) -> Iterable[bytes]:
    """The members in the answer to HSCAN or ZSCAN, which redis-py may have parsed."""
    if isinstance(found, dict):
        return found
    return [each[0] for each in found] if found and isinstance(found[0], tuple) else found[::2]


def _escaped(text: bytes) -> bytes:
    """Text that a pattern of SCAN matches literally."""
    return b"".join(b"\\" + bytes((each,)) if each in b"\\*?[]^" else bytes((each,)) for each in text)
