"""Whether the process lives, whether it can answer, and its figures; none of them needs a token."""

import asyncio
from contextlib import suppress

from fastapi import APIRouter, Request, Response
from redis.exceptions import RedisError

from worker.read_model.reader import Partition, ReaderError
from worker.web.calls import add_public, problems
from worker.web.meters import CONTENT_TYPE
from worker.web.ops_reads import serving
from worker.web.parts import parts_of
from worker.web.problems import answer
from worker.web.shapes import Health

_SECONDS = 2.0


def add_health_calls(router: APIRouter) -> None:
    """Declares all three."""
    for path, endpoint in (("/healthz", get_health), ("/readyz", get_readiness)):
        add_public(router, path, endpoint, {200: {"model": Health}, **problems(403, 503)})
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    add_public(router, "/metrics", get_metrics, {200: text, **problems(403)}, response_class=Response)


async def get_health(request: Request) -> Response:  # noqa: ARG001 - as FastAPI calls it
    """The process lives."""
    return answer({"status": "alive"})


async def get_readiness(request: Request) -> Response:
    """Redis answers, and readers are served."""
    async with asyncio.timeout(_SECONDS):
        await serving(parts_of(request))
    return answer({"status": "ready"})


async def get_metrics(request: Request) -> Response:
    """Figures in Prometheus' text format."""
    parts = parts_of(request)
    partitions: list[Partition] = []
    with suppress(ReaderError, RedisError, TimeoutError, OSError):
        async with asyncio.timeout(_SECONDS):
            partitions = await parts.reader.status()
    return Response(parts.meters.text(partitions), headers={"content-type": CONTENT_TYPE})
