"""Which of some places in Redis and in the alerts topic a changed booking concerns."""

from collections.abc import Collection, Iterable

from schemas.alerts import alert_id
from schemas.attendance import attendance_id
from worker.domain.alert_rules import BITS, FREQUENT
from worker.read_model.content import ALERTS, DEVICES, DEVICES_AT, SESSIONS, SESSIONS_START, Place, is_sum, session_of

_SESSION_KINDS = tuple(BITS)


class Watched:
    """Some places; what is added of bookings shows which of them may have changed.

    Args:
        places: to watch; of the alerts topic as (any key that begins with ``alerts``, alertId).
        sessions: of which also the attendances are kept that may have changed.
    """

    def __init__(self, places: Iterable[Place] = (), sessions: Collection[bytes] = ()) -> None:
        self.changed: set[Place] = set()
        """Places that may have changed."""
        self.ids: dict[bytes, set[bytes]] = {session: set() for session in sessions}
        """By session: its attendances that may have changed."""
        self._by_member: dict[bytes, list[Place]] = {}
        self._by_session: dict[bytes, list[Place]] = {}
        self._by_source: dict[bytes, list[Place]] = {}
        self._has_alerts, self._count = False, 0
        for place in places:
            self._count += 1
            key, member = place
            if is_sum(key) or key in (SESSIONS, SESSIONS_START):
                self._by_session.setdefault(session_of(key) if is_sum(key) else member, []).append(place)
            elif key in (DEVICES, DEVICES_AT):
                self._by_source.setdefault(member, []).append(place)
            else:
                # a member of the index by booking begins with the booking
                for name in {member, member.partition(b"\0")[0]}:
                    self._by_member.setdefault(name, []).append(place)
                self._has_alerts |= key.startswith(ALERTS)

    def __len__(self) -> int:
        return self._count

    def add(self, booking: str, sessions: Iterable[str]) -> set[Place]:
        """Takes a booking that may have changed, with the sessions that readers may see of it; returns the places."""
        found: list[Place] = []
        by_member, by_session = self._by_member, self._by_session
        found += by_member.get(booking.encode(), ())
        # the number of unlisted attendances is of no session
        found += by_session.get(b"", ())
        if self._has_alerts:
            found += by_member.get(alert_id(FREQUENT, booking, None).encode(), ())
        for session in sessions:
            name, identity = session.encode(), attendance_id(booking, session)
            found += by_session.get(name, ())
            found += by_member.get(identity, ())
            if name in self.ids:
                self.ids[name].add(identity)
            if self._has_alerts:
                for kind in _SESSION_KINDS:
                    found += by_member.get(alert_id(kind, booking, session).encode(), ())
        self.changed.update(found)
        return set(found)

    def add_sources(self, sources: Iterable[str]) -> set[Place]:
        """Takes sources whose newest event may have changed; returns the places."""
        found = {place for source in sources for place in self._by_source.get(source.encode(), ())}
        self.changed.update(found)
        return found
