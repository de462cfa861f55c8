"""Every key in Redis and its type; `worker/read_model/README.md` lists the same keys.

``NS`` is a namespace: ``<ATTENDANCE_NAMESPACE>:<layout version>.<build>``. ``{p}`` is the partition's number in braces, the
hash tag that puts all keys of a partition into one slot of a Redis Cluster. ``G`` is a key generation: a repair fills a new
one and switches readers to it atomically. Sessions, bookings and kinds are not escaped in key names.
"""

from typing import NamedTuple
from zlib import crc32

#: Incremented with every change of the layout; workers then fill a new namespace.
LAYOUT_VERSION = 8
DOC_SHIFT = 5
"""The bucket of a document is the first 16 bits of its id shifted right by this: 2048 buckets, in the order of the ids."""
BOOKING_BUCKETS = 1024

# what follows the prefix of a key generation; in the Lua scripts KEY_<name> stands for the same text
DOC = "doc:"
BY_BOOKING = "by-booking:"
BY_STATUS = "by-status"
UNLISTED = "unlisted"
IDS = "ids:"
TALLY = "tally:"
SESSIONS = "sessions"
SESSIONS_START = "sessions:start"
ROSTER = "roster:"
BOOKING = "booking:"
NO_SHOWS = "no-shows"
ALERTS = "alerts"
ALERTS_AT = "alerts:at"
ALERTS_KIND = "alerts:kind:"
ALERTS_SESSION = "alerts:session:"
ALERTS_BOOKING = "alerts:booking:"
DEVICES = "devices"
DEVICES_AT = "devices:at"
ESTIMATES = "device-estimates"
DEAD_ONLY = "device-estimates:dead"
WATERMARK = "watermark"
CHANGES = "changes"
#: Entries of a stream of changes: Redis keeps this many at the least, and drops older ones a node at a time.
MAX_CHANGES = 100

LAYOUT = {
    "<ATTENDANCE_NAMESPACE>:live": "hash: `namespace` that readers use, number of `partitions`, `tables` from which it is "
    "filled (absent: 1) and the `settings` that shape them, JSON (absent: not known); the same four with `:<layout "
    "version>` behind the name, where readers of that version use another namespace than older ones; "
    "`build:<namespace>`, JSON, of each other namespace that workers write (read_model/builds.py), and `lastBuild`, "
    "the number of the last one; `cursorKey` with which readers sign cursors (kept over rebuilds); `redisId` (random; "
    "recorded with the tables, until then followed by `<` and the id that it replaces)",
    "<ATTENDANCE_NAMESPACE>:operations": "hash of long commands: `operation:<id>`, its document (JSON); `saved:<id>`, when "
    "that was saved (ms); `lock:<target>`, which of them works on it",
    "<ATTENDANCE_NAMESPACE>:dead-letters": "hash: `<mark>:<partition>:<chunk>`, 512 bits: which dead letters of these 512 "
    "offsets have a mark (`replayed`, `parked`, `unparked`)",
    "NS:{p}:probe": "normally absent: a starting worker tests its Redis permissions on it",
    f"NS:{{p}}:{WATERMARK}": "hash: fence (`generation`, `epoch`, `seq`), `state`, `keys` (the live G), "
    "`building` (only during a repair: the G that it fills), `retired` (Gs to unlink), and for `events` and `bookings` "
    "each `.offset` (next to apply), `.time` (newest effective time applied; of bookings the time received), `.end` (last "
    "stable offset), `.confirmedAt` (when Kafka confirmed that, ms), `.held` (offsets after it, held by open transactions), "
    "`.unreadable` (offset of a batch that cannot be read, or empty); of events `.bad` (dead letters of the last 1,000 "
    "events), `.badReason` and `.badSource` (the commonest, while most are bad, or empty); `writtenAt` (of the heartbeat, "
    "ms); `freshAt` (when these read models were last known to hold everything that Kafka had, ms); all three by Redis' clock; "
    "`changes` (id of the newest entry of the stream of changes); `build`, in a namespace that was made by `attendance "
    "rebuild`, the id of that operation; `handover`, where it has tables of its own, until it is live and has sent what the "
    "consumer group named here may not have sent",
    f"NS:{{p}}:{CHANGES}": "stream of about 100 entries: what each script call or transaction that wrote something changed: "
    "`sessions`, whose tally changed (joined by newlines; a newline alone: any), `alerts`, whether alerts did (0 or 1)",
    f"NS:{{p}}:G:{DOC}<bucket>": "hash: id (16 bytes) to packed pair (read_model/documents.py)",
    f"NS:{{p}}:G:{BY_BOOKING}<status>": "sorted set by bytes, of a status, which is given as its index in `STATUSES`: "
    "bookingId, NUL, id (16 bytes) of every such attendance; but of ATTENDED, where the record of the booking has them, "
    "bookingId, NUL, bucket of that record (2 bytes) in place of all of these",
    f"NS:{{p}}:G:{BY_STATUS}": "sorted set: id (16 bytes) of every attendance by status * 2^32 + number of attendees; not "
    "of those that are ATTENDED with one attendee, the score 1",
    f"NS:{{p}}:G:{UNLISTED}": "hash: `attendances`, the number of these",
    f"NS:{{p}}:G:{IDS}<sessionId>": "sorted set: the same of one session, with all of its attendances",
    f"NS:{{p}}:G:{TALLY}<sessionId>": "hash: `bookings`; `reported`, the number of ATTENDED + 2^32 * the number of "
    "NOT_ATTENDED; `companions`, the attendees without one of each ATTENDED; `expectedParticipants`; and "
    "`window:<startMs>:<endMs>`, the number of bookings that list the session with these times",
    f"NS:{{p}}:G:{SESSIONS}": "sorted set by bytes: every sessionId that has a tally",
    f"NS:{{p}}:G:{SESSIONS_START}": "sorted set: the same by the earliest start (ms) of the windows in its tally; +inf if none "
    "has a start",
    f"NS:{{p}}:G:{ROSTER}<sessionId>": "sorted set: bookingId of every pair of a session by its state (0 ATTENDED, "
    "1 NOT_ATTENDED, 2 NOT_SET, 3 listed without attendance)",
    f"NS:{{p}}:G:{BOOKING}<bucket>": "hash: bookingId to its record (read_model/booking_records.py)",
    f"NS:{{p}}:G:{NO_SHOWS}": "sorted set: bookingId by minus its noShowRate, if it has one",
    f"NS:{{p}}:G:{ALERTS}": "hash: alertId to the open alert, JSON",
    f"NS:{{p}}:G:{ALERTS_AT}": "sorted set: alertId of every open alert by `openedAt` (ms)",
    f"NS:{{p}}:G:{ALERTS_KIND}<kind>": "sorted set: the same of one kind",
    f"NS:{{p}}:G:{ALERTS_SESSION}<sessionId>": "sorted set: the same of one session",
    f"NS:{{p}}:G:{ALERTS_BOOKING}<bookingId>": "sorted set: the same of one booking",
    f"NS:{{p}}:G:{DEVICES}": "hash: source to its packed newest event (read_model/devices.py)",
    f"NS:{{p}}:G:{DEVICES_AT}": "sorted set: source by the effective time (ms) of that event",
    f"NS:{{p}}:G:{ESTIMATES}": "hash: source to its packed rolling estimates (read_model/estimates.py), begun anew by a "
    "repair; `attendance verify` does not look at it",
    f"NS:{{p}}:G:{DEAD_ONLY}": "sorted set: sources of which only dead letters are known, by when the last one was received "
    "(ms); otherwise as the estimates",
}


class PartitionKeys(NamedTuple):
    """The keys of one partition in one namespace."""

    namespace: str
    partition: int

    @property
    def tag(self) -> str:
        return f"{self.namespace}:{{{self.partition}}}:"

    @property
    def watermark(self) -> str:
        return self.tag + WATERMARK

    @property
    def changes(self) -> str:
        return self.tag + CHANGES

    @property
    def probe(self) -> str:
        return self.tag + "probe"

    def prefix(self, generation: str) -> str:
        """The prefix of every key of a key generation; the scripts append the rest."""
        return f"{self.tag}{generation}:"


def live_key(base: str) -> str:
    """The key that names the live namespace."""
    return f"{base}:live"


def operations_key(base: str) -> str:
    """The key of the operator's operations."""
    return f"{base}:operations"


def dead_letters_key(base: str) -> str:
    """The key of the marks of dead letters."""
    return f"{base}:dead-letters"


#: Fields of the live key, for readers of this layout and for all others.
LIVE_FIELDS = tuple(
    field
    for name in ("namespace", "partitions", "tables", "settings", "topicPrefix")
    for field in (f"{name}:{LAYOUT_VERSION}", name)
)
#: The field `namespace` for readers of this layout, as the scripts name it.
LIVE_NAMESPACE = f"namespace:{LAYOUT_VERSION}"


def namespace(base: str, build: int = 0) -> str:
    """A namespace with the layout that this code writes."""
    return f"{namespaces(base)}{build}"


def is_ours(base: str, live: str) -> bool:
    """Whether a namespace has the layout that this code reads and writes."""
    return live.startswith(namespaces(base))


def namespaces(base: str) -> str:
    """The prefix of every namespace with that layout."""
    return f"{base}:{LAYOUT_VERSION}."


def booking_bucket(booking_id: bytes) -> int:
    """The bucket of a booking's record, by bookingId in UTF-8."""
    return crc32(booking_id) % BOOKING_BUCKETS


def member_of_record(booking_id: bytes) -> bytes:
    """The member of the index by booking of ATTENDED that stands for those in a booking's record."""
    return booking_id + b"\0" + booking_bucket(booking_id).to_bytes(2)
