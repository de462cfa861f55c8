"""Reads a partition's watermark together with the time of its server."""

from typing import Any

from worker.read_model.freshness import Partition

#: Returns the fields of a watermark, followed by the server's time in ms as the field ``now``.
_WATERMARK = """local watermark, time = redis.call('HGETALL', KEYS[1]), redis.call('TIME')
watermark[#watermark + 1] = 'now'
watermark[#watermark + 1] = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
return watermark"""


def watermark_command(key: str) -> tuple[Any, ...]:
    """The command that reads the watermark at a key; `parse_watermark` takes its answer."""
    return "EVAL_RO", _WATERMARK, 1, key


def parse_watermark(number: int, watermark: Any) -> Partition:
    """A partition from its watermark, as `_WATERMARK` and `ranked.lua` return it."""
    fields = {name.decode(): content.decode() for name, content in parse_hash(watermark).items()}
    return Partition(number, describe_state(fields.get("state", "")), fields, int(fields.pop("now")))


def describe_state(state: str) -> str:
    """The state of a partition, as a sentence takes it: "partition 3 is being repaired"."""
    return "being repaired" if state == "repairing" else state or "not filled yet"


def parse_hash(answer: Any) -> dict[bytes, bytes]:
    """The answer to HGETALL as a dict, in RESP2 or RESP3."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
