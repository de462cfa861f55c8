"""The command `operations`: the long commands that run, ran, or can be resumed."""

import asyncio
from typing import Annotated

import typer

from worker.cli.arguments import decode_argument
from worker.cli.reads import Json
from worker.cli.services import service_settings
from worker.cli.show import print_one, print_rows
from worker.read_model.operations import Operation, Operations
from worker.redis.client import create_redis
from worker.settings import Settings

_COLUMNS = ("id", "state", "target", "startedAt", "savedAt", "counts")


def operations(
    operation_id: Annotated[
        str | None, typer.Argument(help="one operation by its id; without it all, the newest first")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the long commands that run, ran, or can be resumed."""
    name = None if operation_id is None else decode_argument(operation_id)
    found = [each.document() for each in asyncio.run(_read(service_settings(), name))]
    if name is not None:
        print_one(found[0], "", as_json)
        return
    shown = [{**each, "counts": [f"{name}={count}" for name, count in each["counts"].items()]} for each in found]
    print_rows(found if as_json else shown, as_json, _COLUMNS)


async def _read(settings: Settings, name: str | None) -> list[Operation]:
    client = create_redis(settings)
    try:
        kept = Operations(client, settings.redis_namespace)
        return await kept.all() if name is None else [await kept.get(name)]
    finally:
        await client.aclose()
