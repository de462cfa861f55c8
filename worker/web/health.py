"""Whether the process lives, whether it can answer, and its figures; none of them needs a token."""

import asyncio
from contextlib import suppress

from fastapi import APIRouter, Request, Response
from redis.exceptions import RedisError

from worker.read_model.reader import Partition, ReaderError
from worker.web.calls import problems
from worker.web.meters import CONTENT_TYPE
from worker.web.ops_reads import serving
from worker.web.parts import parts_of
from worker.web.problems import answer
from worker.web.shapes import Health

_SECONDS = 2.0


def health_calls() -> APIRouter:
    """The router of all three."""
    router = APIRouter()
    for path, endpoint in (("/healthz", get_health), ("/readyz", get_readiness)):
        told = {200: {"model": Health}, **problems(403, 503)}
        router.add_api_route(path, endpoint, response_model=None, responses=told, operation_id=endpoint.__name__)
    text = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(403)}
    router.add_api_route("/metrics", get_metrics, response_class=Response, responses=text, operation_id="get_metrics")
    return router


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
