"""The screen's own files and those of htmx, in memory: small, few, and the same for everybody."""

import json
from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response

from worker.web.errors import Refused
from worker.web.screen.paths import STATIC

_FOLDER = files("worker.web.screen") / "static"
_TYPES = {
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "LICENSE": "text/plain; charset=utf-8",
}
_OWN = ("screen.css", "screen.js", "icon.svg")
#: Where a request names the content's hash, the file never changes.
_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"
_HASH_LENGTH = 16


class Asset(NamedTuple):
    """A file that the screen serves."""

    content: bytes
    type: str
    hash: str


def vendored() -> dict[str, Any]:
    """Where the files of htmx come from: package, version, the tarball's integrity, and each file's SHA-256."""
    document: dict[str, Any] = json.loads((_FOLDER / "vendor" / "manifest.json").read_bytes())
    return document


def _read(name: str) -> Asset:
    content = _FOLDER.joinpath(*name.split("/")).read_bytes()
    kind = _TYPES[name.rpartition("/")[2].rpartition(".")[2]]
    return Asset(content, kind, sha256(content).hexdigest()[:_HASH_LENGTH])


ASSETS = {name: _read(name) for name in (*_OWN, *(f"vendor/{name}" for name in vendored()["files"]))}


def _build() -> str:
    """A hash of everything that a page is made of."""
    templates = sorted(_templates(files("worker.web.screen") / "templates"))
    parts = [*(asset.hash.encode() for asset in ASSETS.values()), *templates]
    return sha256(b"\0".join(parts)).hexdigest()[:_HASH_LENGTH]


def _templates(folder: Traversable) -> Iterator[bytes]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _templates(each)
        else:
            yield each.read_bytes()


#: The same in all processes of a version; a page that meets another one loads itself again.
BUILD = _build()


def asset_url(name: str) -> str:
    """The path of a file with the hash of its content, so that browsers may keep it."""
    return f"{STATIC}{name}?v={ASSETS[name].hash}"


def add_assets(router: APIRouter) -> None:
    """Declares the route of the files; it needs no token."""
    router.add_api_route(STATIC + "{name:path}", get_asset, include_in_schema=False, response_model=None)


async def get_asset(request: Request, name: str) -> Response:
    """One of the files."""
    asset = ASSETS.get(name)
    if asset is None:
        raise Refused(404, "NOT_FOUND", "no such file")
    tag = f'"{asset.hash}"'
    is_exact = request.query_params.get("v") == asset.hash
    headers = {"etag": tag, "cache-control": _FOR_EVER if is_exact else _ASK_AGAIN}
    tags = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if tag in tags or "*" in tags:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers={**headers, "content-type": asset.type})
