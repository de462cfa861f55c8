"""Live subscribers in a process of their own: `python -m tests.bench.live.subscribers`, until its input ends.

Arguments are one JSON object: ``host``, ``port``, ``token``, ``streams`` (a list of session ids for each), ``result`` (a file).
The result has, for each stream and session, the times (`time.monotonic`) at which each number of attended came first.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlencode

from uvloop import new_event_loop


class _Stream:
    """One subscriber; reads as a client does, line by line."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[int, float]]] = {}
        self.events = 0
        self.bytes = 0
        self.other: list[str] = []

    async def run(self, given: dict[str, Any], sessions: list[str]) -> None:
        reader, writer = await asyncio.open_connection(given["host"], given["port"], limit=1 << 22)
        query = urlencode([("sessions", each) for each in sessions])
        head = f"GET /v1/live?{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {given['token']}\r\n\r\n"
        writer.write(head.encode())
        name = ""
        while line := await reader.readline():
            self.bytes += len(line)
            if line.startswith(b"event: "):
                name = line[7:-1].decode()
            elif line.startswith(b"data: "):
                at = monotonic()
                self.events += 1
                if name not in ("snapshot", "update"):
                    self.other.append(name)
                for session, tally in json.loads(line[6:]).get("sessions", {}).items():
                    self.seen.setdefault(session, []).append((0 if tally is None else tally["attended"], at))


async def main(given: dict[str, Any]) -> dict[str, Any]:
    """What they have seen."""
    streams = [_Stream() for _ in given["streams"]]
    tasks = [asyncio.create_task(each.run(given, sessions)) for each, sessions in zip(streams, given["streams"], strict=True)]
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    ended = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    return {
        "seen": [each.seen for each in streams],
        "events": sum(each.events for each in streams),
        "bytes": sum(each.bytes for each in streams),
        "other": [name for each in streams for name in each.other],
        "ended": len(ended),
    }


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        arguments = json.loads(sys.argv[1])
        Path(arguments["result"]).write_text(json.dumps(runner.run(main(arguments))))
