"""The Lua scripts of the read models: files of the folder ``lua``, in which ``KEY_<name>`` is that constant of `keys`."""

import re
from importlib.resources import files

from worker.read_model import keys
from worker.redis.scripts import Script

_KEY = re.compile(r"\bKEY_([A-Z_]+)")


def load(*names: str) -> Script:
    """The script that these files are, one behind the other."""
    return Script.of(text_of(*names))


def text_of(*names: str) -> str:
    """The text of these files, one behind the other."""
    text = "".join(files(__package__).joinpath("lua", f"{name}.lua").read_text() for name in names)
    return _KEY.sub(lambda match: f"'{getattr(keys, match[1])}'", text)


#: The first files of scripts that read indexes, and of those that read them in the order of scores.
_ENTRIES = ("live", "documents", "entries")
_SORTED = (*_ENTRIES, "less", "ranks", "by_score")

APPLY = load("announce", "documents", "window", "apply")
ARRIVALS = load(*_ENTRIES, "less", "ranks", "places", "minute", "arrivals")
BUILD = load("build")
CHANGED = load("announce", "changed")
CLAIM = load("claim")
HEARTBEAT = load("heartbeat")
IDENTITY = load("identity")
MARKS = load("marks")
OPERATION = load("operation")
REGISTRY = load("registry")
REPAIR = load("announce", "repair")
REQUEST_REPAIR = load("request_repair")
RETIRE = load("retire")
RIGHTS = load("rights")
#: By the name of the order.
SCAN_BY = {
    "id": load(*_SORTED, "scan", "matching", "scan_id", "scan_end"),
    "booking": load(*_ENTRIES, "less", "records", "names", "scan", "matching", "scan_roster", "scan_booking", "scan_end"),
    "session": load(*_SORTED, "scan", "matching", "scan_id", "scan_session", "scan_end"),
    "number": load(*_SORTED, "scan", "scan_number", "scan_end"),
}
NUMBERS = load(*_ENTRIES, "numbers")
COUNT = load(*_ENTRIES, "count")
FIND = load("live", "records", "find")
RANKED = load(*_ENTRIES, "less", "ranks", "places", "ranked")
ROSTER = load(*_ENTRIES, "less", "names", "places", "roster")
