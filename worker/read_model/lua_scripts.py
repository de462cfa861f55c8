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


APPLY = load("announce", "documents", "apply")
ARRIVALS = load("live", "documents", "entries", "arrivals")
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
    "id": load("live", "documents", "entries", "scan", "scan_id", "scan_end"),
    "booking": load("live", "documents", "entries", "records", "names", "scan", "scan_roster", "scan_booking", "scan_end"),
    "session": load("live", "documents", "entries", "scan", "scan_id", "scan_session", "scan_end"),
    "number": load("live", "documents", "entries", "scan", "scan_number", "scan_end"),
}
NUMBERS = load("live", "documents", "entries", "numbers")
COUNT = load("live", "documents", "entries", "count")
FIND = load("live", "records", "find")
RANKED = load("live", "documents", "entries", "ranked")
ROSTER = load("live", "documents", "entries", "names", "roster")
