"""The generated parts of the guide for device makers: tables made of the schemas, and the programs word for word.

``python -m tests.guide.document`` writes them into the guide; a test fails if they are stale. A part stands between
``<!-- part: NAME -->`` or ``<!-- file: PATH -->`` and ``<!-- end -->``.
"""

import re
import shlex
from pathlib import Path
from typing import Any

from schemas.events import MAX_BOOKING_BYTES, MAX_EVENT_BYTES
from worker.ops import export

ROOT = Path(__file__).parents[2]
GUIDE, CONTRACT = ROOT / "schemas/GUIDE.md", ROOT / "schemas/README.md"
_PART = re.compile(r"<!-- (part|file): (\S+) -->\n.*?<!-- end -->", re.DOTALL)
_LANGUAGES = {".py": "python", ".js": "js", ".java": "java", ".go": "go", ".sh": "sh"}


def rewritten(text: str) -> str:
    """The guide with its generated parts as they are now."""
    return _PART.sub(_rewrite, text)


def _rewrite(part: re.Match[str]) -> str:
    kind, name = part.groups()
    if kind == "file":
        path = ROOT / name
        body = f"```{_LANGUAGES[path.suffix]}\n{path.read_text()}```"
    else:
        body = {"types": _types, "fields": _fields, "reasons": _reasons}[name]()
    return f"<!-- {kind}: {name} -->\n{body}\n<!-- end -->"


def section(heading: str) -> str:
    """The text under a heading of the guide, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", _prose(), re.MULTILINE | re.DOTALL)
    assert found, f"the guide has no heading {heading}"
    return found[1]


def commands(heading: str) -> list[str]:
    """The blocks of shell commands under a heading, without those of programs."""
    return re.findall(r"```sh\n(.*?)```", section(heading), re.DOTALL)


def settings() -> dict[str, str]:
    """The settings of the programs with their defaults."""
    rows = re.findall(r"^\| `(KIOSK_\w+)` \| ?`?([^`|]*?)`? \|", section("Settings"), re.MULTILINE)
    return dict(rows)


def run_command(heading: str, spool: Path) -> list[str]:
    """The command that runs the program of a language, with this spool."""
    (command,) = commands(heading)[-1].splitlines()
    words = shlex.split(command)
    assert words[-1] == "spool", command
    return [*words[:-1], str(spool)]


def _prose() -> str:
    """The guide without the texts of programs, in which a # begins a comment."""
    return re.sub(r"<!-- file: .*?<!-- end -->", "", GUIDE.read_text(), flags=re.DOTALL)


# --- tables --------------------------------------------------------------------------------------


def _types() -> str:
    document = export.documents()["asyncapi.json"]
    messages, schemas = document["components"]["messages"], document["components"]["schemas"]
    lines = ["| what happened | type | topic | data beside `bookingId` |", "|---|---|---|---|"]
    for channel in ("events", "bookings"):
        for name in document["channels"][channel]["messages"]:
            if name not in schemas:
                continue  # binary mode, or a null value
            properties = schemas[name]["properties"]
            data = schemas[properties["data"]["$ref"].rpartition("/")[2]]
            fields = [f"`{field}`{'' if field in data['required'] else '?'}" for field in data["properties"]]
            address = document["channels"][channel]["address"]
            kind, more = properties["type"]["const"], ", ".join(fields[1:])
            lines.append(f"| {messages[name]['summary']} | `{kind}` | `{address}` | {more} |")
    return "\n".join(lines)


def _fields() -> str:
    schemas = export.documents()["asyncapi.json"]["components"]["schemas"]
    limits: dict[str, str] = {}
    for name in ("CheckedIn", "CheckInData", "SetData", "ScannedData", "UpsertedData", "ListedSession"):
        for field, shape in schemas[name]["properties"].items():
            if field in ("type", "data"):
                continue
            limit = _limit(shape, schemas)
            if limits.setdefault(f"`{field}`", limit) != limit:  # `status` means another thing there
                limits[f"`{field}` of `booking.upserted`"] = limit
    lines = ["| field | what it may be |", "|---|---|", *(f"| {name} | {limit} |" for name, limit in limits.items())]
    sizes = f"{MAX_EVENT_BYTES // 1024} KiB; on the bookings topic {MAX_BOOKING_BYTES // 1024} KiB"
    return "\n".join([*lines, f"| the value of a record | at most {sizes} |"])


def _limit(shape: dict[str, Any], schemas: dict[str, Any]) -> str:
    """A JSON Schema in words."""
    if "anyOf" in shape:
        return " or ".join(_limit(each, schemas) for each in shape["anyOf"])
    if "$ref" in shape:
        return _limit(schemas[shape["$ref"].rpartition("/")[2]], schemas)
    if "const" in shape:
        return f"`{shape['const']}`"
    if "enum" in shape:
        return ", ".join(f"`{each}`" for each in shape["enum"])
    if shape.get("format") == "date-time":
        return "RFC 3339 date-time with an offset"
    if shape["type"] == "array":
        item = schemas[shape["items"]["$ref"].rpartition("/")[2]]
        names = [f"`{name}`{'' if name in item['required'] else '?'}" for name in item["properties"]]
        return f"list of objects with {', '.join(names)}"
    if shape["type"] == "integer":
        return f"whole number from {shape['minimum']} to {shape['maximum']}"
    if shape["type"] == "string":
        return f"text of {shape['minLength']} to {shape['maxLength']} characters, none of them a control character"
    return {"boolean": "`true` or `false`", "null": "null"}[shape["type"]]


def _reasons() -> str:
    """The table of the contract."""
    found = re.search(r"^### Reasons\n\n((?:\|.*\n)+)", CONTRACT.read_text(), re.MULTILINE)
    assert found
    return found[1].rstrip()


if __name__ == "__main__":
    GUIDE.write_text(rewritten(GUIDE.read_text()))
