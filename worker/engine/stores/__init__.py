"""Stores for the rows of tables, in memory or in RocksDB; `open_store` opens the one that a setting names."""

from os import environ
from pathlib import Path
from urllib.parse import urlsplit

from worker.engine.stores.base import Store
from worker.engine.stores.memory import MemoryStore


def open_store(url: str, name: str) -> Store:
    """The store that a URL names.

    Args:
        url: ``memory://``; ``rocksdb:///absolute/folder``; ``rocksdb://`` for the `default_folder` of this name.
        name: of what the rows belong to; rows of another name in the folder are dropped.

    Raises:
        StoreUnusable: the folder cannot be written to.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    from worker.engine.stores.rocksdb import RocksStore  # memory:// does not need rocksdict

    return RocksStore(Path(parts.path) if parts.path else default_folder(name), name)


def default_folder(name: str) -> Path:
    """The folder for the databases of a name, for this user."""
    state = environ.get("XDG_STATE_HOME", "")
    # XDG: a path that is not absolute is ignored
    home = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    return home / "attendance-worker" / name
