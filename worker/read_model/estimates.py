"""Rolling estimates of a source: what a partition stores of them, and what they come to over all partitions.

They are kept in a worker's memory, written with the heartbeat, taken over by the next owner, and begun anew by a repair. A
redelivered batch adds nothing, so events may be missing after a crash; nothing but what people look at depends on them.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

from msgspec import DecodeError, Meta, Struct, ValidationError
from msgspec.msgpack import Decoder, Encoder

from schemas.times import format_time

#: The usual rate is that of about so many minutes: each minute weighs this much less than the next one.
USUAL_MINUTES = 60
DECAY = 1 - 1 / USUAL_MINUTES
#: Dead letters are counted by so many minutes, and shown for so many of these.
DEAD_MINUTES, DEAD_SPANS = 10, 6
#: Sessions whose events are counted for a source: the last ones, until it has sent nothing for them for so many minutes.
MOST_SESSIONS, SESSION_MINUTES = 8, 60
#: A source is silent when it has sent nothing for so many times its usual gap, but no less than so many seconds.
SILENT_GAPS, SILENT_SECONDS = 10, 60
#: Gaps without which its rhythm is not known.
LEAST_GAPS = 5
_SECOND, _MINUTE = 1_000_000, 60_000_000


class SessionEvents(Struct, array_like=True):
    """What a source sent for one session."""

    events: int
    received: int
    """When the last of these was received."""


class Estimate(Struct, array_like=True):
    """What one partition stores of a source. Times are microseconds since the epoch; 0: never."""

    received: int = 0
    """When its last event was received."""
    session: str = ""
    """Of its newest event."""
    minute: int = 0
    """The last minute, since the epoch, in which events were received."""
    current: int = 0
    """Events of that minute."""
    previous: int = 0
    """Events of the minute before."""
    decayed: float = 0.0
    """Events of all minutes before ``minute``, each minute weighing `DECAY` times the next one; the last of them weighs 1."""
    since: int = 0
    """The first minute."""
    gap: float = 0.0
    """Median of the last gaps between its events, in seconds."""
    gaps: int = 0
    """Of how many."""
    offset: float = 0.0
    """Median of received - time of its last events, in seconds: positive if its clock is behind, or its events are late."""
    offsets: int = 0
    dead: Annotated[tuple[int, ...], Meta(max_length=DEAD_SPANS)] = ()
    """Dead letters of the last spans of `DEAD_MINUTES`, the last one first."""
    dead_span: int = 0
    """The last of these spans, since the epoch."""
    dead_reason: str = ""
    dead_received: int = 0
    """When its last dead letter was received."""
    sessions: dict[str, SessionEvents] = {}
    """Of its last sessions, the last one last."""

    def rate(self, now: int) -> float:
        """Events of the minute before now (microseconds); those of a minute of the clock count as spread evenly over it."""
        minute, elapsed = divmod(now, _MINUTE)
        if minute <= self.minute:
            return self.current + self.previous * (1 - elapsed / _MINUTE)
        return self.current * (1 - elapsed / _MINUTE) if minute == self.minute + 1 else 0.0

    def usual_rate(self, now: int) -> float | None:
        """Events per minute over about the last hour, without the minute that is not over; None: it is not known yet."""
        minutes = now // _MINUTE - self.since
        if not self.since or minutes < 1:
            return None
        past = min(now // _MINUTE - self.minute, 10 * USUAL_MINUTES)
        total = self.decayed if past <= 0 else (self.decayed * DECAY + self.current) * DECAY ** (past - 1)
        return total * (1 - DECAY) / (1 - DECAY**minutes)

    def dead_letters(self, now: int) -> int:
        """Dead letters of about the last hour."""
        past = now // (DEAD_MINUTES * _MINUTE) - self.dead_span
        return sum(self.dead[: max(0, DEAD_SPANS - max(0, past))])


_encode = Encoder().encode
_decode = Decoder(Estimate).decode


def pack_estimate(estimate: Estimate) -> bytes:
    """The bytes that Redis keeps."""
    return _encode(estimate)


def unpack_estimate(packed: bytes | None) -> Estimate | None:
    """An estimate from its bytes; None if there are none, or another version wrote them."""
    if packed is None:
        return None
    try:
        return _decode(packed)
    except (DecodeError, ValidationError):
        return None


def last_received(received: int | None, estimates: Iterable[Estimate]) -> int | None:
    """When anything usable of a source was last received; its newest event may have been received before an older one."""
    return max((each for each in (received, *(one.received for one in estimates)) if each), default=None)


def usual_gap(estimates: Iterable[Estimate]) -> float | None:
    """The usual gap between events of a source, seconds; None: not known. Its partitions take turns: their rates add up."""
    known = [each for each in estimates if each.gaps]
    if sum(each.gaps for each in known) < LEAST_GAPS:
        return None
    rate = sum(1 / each.gap for each in known if each.gap > 0)
    return 1 / rate if rate else 0.0


def is_silent(silent_seconds: float, gap: float | None) -> bool:
    """Whether a source is silent for much longer than usual; not where its rhythm is unknown."""
    return gap is not None and silent_seconds > max(SILENT_GAPS * gap, SILENT_SECONDS)


def document(estimates: Iterable[Estimate], now: int) -> dict[str, Any]:
    """The estimates of a source over all partitions, as the API shows them; ``now`` in microseconds."""
    each = list(estimates)
    rates = [rate for one in each if (rate := one.usual_rate(now)) is not None]
    offsets = sum(one.offsets for one in each)
    newest, dead = max(each, key=_received, default=None), max(each, key=_dead_received, default=None)
    gap = usual_gap(each)
    return {
        "eventsPerMinute": round(sum(one.rate(now) for one in each), 2),
        "usualEventsPerMinute": round(sum(rates), 2) if rates else None,
        "usualGapSeconds": None if gap is None else round(gap, 3),
        "clockOffsetSeconds": round(sum(one.offset * one.offsets for one in each) / offsets, 3) if offsets else None,
        "deadLetters": sum(one.dead_letters(now) for one in each),
        "lastDeadLetterReason": dead.dead_reason if dead and dead.dead_reason else None,
        "lastDeadLetterAt": format_time(dead.dead_received) if dead and dead.dead_received else None,
        "lastSessionId": newest.session if newest and newest.session else None,
        "sessions": _sessions(each, now),
    }


def _sessions(estimates: Iterable[Estimate], now: int) -> list[dict[str, Any]]:
    """How many events the source sent for each of its last sessions, the last one first."""
    counts, last = Counter[str](), dict[str, int]()
    for one in estimates:
        for name, of_session in one.sessions.items():
            counts[name] += of_session.events
            last[name] = max(last.get(name, 0), of_session.received)
    recent = [name for name, received in last.items() if now - received < SESSION_MINUTES * _MINUTE]
    names = sorted(recent, key=lambda name: (-last[name], name))[:MOST_SESSIONS]
    return [{"sessionId": name, "events": counts[name]} for name in names]


def _received(estimate: Estimate) -> int:
    return estimate.received


def _dead_received(estimate: Estimate) -> int:
    return estimate.dead_received
