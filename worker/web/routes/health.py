"""The routes of liveness, readiness and metrics, which need no token."""

import asyncio
from contextlib import suppress

from fastapi import APIRouter, Request, Response
from redis.exceptions import RedisError

from schemas.alerts import AlertKind
from worker.read_model.freshness import find_problems
from worker.read_model.reader import ReaderError
from worker.web.errors import Unavailable, answer
from worker.web.last_seen import Snapshot
from worker.web.metrics import CONTENT_TYPE
from worker.web.models import Health, Readiness
from worker.web.partition_metrics import open_alerts, partition_families
from worker.web.routing import add_public, error_responses
from worker.web.services import services_of

_SECONDS = 2.0


def add_health_routes(router: APIRouter) -> None:
    """Declares the routes of this module."""
    for path, endpoint, shape in (("/healthz", get_health, Health), ("/readyz", get_readiness, Readiness)):
        add_public(router, path, endpoint, {200: {"model": shape}, **error_responses(403, 503)})
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    add_public(router, "/metrics", get_metrics, {200: text, **error_responses(403)}, response_class=Response)


async def get_health(request: Request) -> Response:  # noqa: ARG001 - as FastAPI calls it
    """The process is alive."""
    return answer({"status": "alive"})


async def get_readiness(request: Request) -> Response:
    """200 if Redis answers, a partition is live, every partition has a worker, and Kafka answers all workers; otherwise 503.

    With a 200, `problems` names what stops single partitions: they are being repaired, or stand at an unreadable batch.
    With a 503, the code says what is missing: READ_MODELS_AWAY, OTHER_LAYOUT, NOT_SERVING, NO_WORKER or KAFKA_AWAY.
    """
    snapshot = await _snapshot(request)
    if snapshot.error is not None:
        raise snapshot.error
    if not any(each.state == "live" for each in snapshot.partitions):
        raise Unavailable("NOT_SERVING", "every partition is being repaired: retry")
    problems = find_problems(snapshot.partitions)
    documents = [each._asdict() for each in problems]
    worst = [each for each in problems if each.blocks_all_progress]
    if worst:
        raise Unavailable(worst[0].code, "; ".join(each.description for each in worst), {"problems": documents})
    return answer({"status": "ready", "problems": documents} if problems else {"status": "ready"})


async def get_metrics(request: Request) -> Response:
    """Figures in Prometheus' text format."""
    families = partition_families(await _snapshot(request))
    families.append(open_alerts(await _count_alerts(request)))
    return Response(services_of(request).metrics.text(families), headers={"content-type": CONTENT_TYPE})


async def _count_alerts(request: Request) -> dict[AlertKind, int | None]:
    """Open alerts by kind; None where Redis does not answer, or a partition is being repaired."""
    reader, counts = services_of(request).reader, dict[AlertKind, int | None].fromkeys(AlertKind)
    with suppress(ReaderError, RedisError, TimeoutError, OSError):
        async with asyncio.timeout(_SECONDS):
            for kind in AlertKind:
                counts[kind] = await reader.count_alerts(kind)
    return counts


async def _snapshot(request: Request) -> Snapshot:
    last_seen = services_of(request).last_seen
    try:
        async with asyncio.timeout(_SECONDS):
            return await last_seen.check()
    except TimeoutError as error:
        return last_seen.without(error)
