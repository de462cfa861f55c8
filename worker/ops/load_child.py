"""Starts a process that loads some partitions of new tables (`load_process`), and follows what it reports."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress

from worker.ops.children import die_with_parent
from worker.ops.coverage import LoadError
from worker.ops.load_messages import Failed, Loaded, Reached, Share, decode, encode
from worker.settings import Settings, variables
from worker.tasks import cancel_all

_COMMAND = (sys.executable, "-m", "worker.ops.load_process")


async def follow(settings: Settings, share: Share, stop: asyncio.Event) -> AsyncGenerator[Reached | Loaded]:
    """What a process reports of its share, until it has ended. Closing this kills it.

    Args:
        settings: of the new tables.
        share: what it loads.
        stop: has it end what it has begun.

    Raises:
        LoadError: it failed, or was killed.
    """
    process = await asyncio.create_subprocess_exec(
        *_COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **variables(settings)},
        # Ctrl-C in the terminal reaches only the parent, which ends it
        start_new_session=True,
        # at once, so that it writes nothing beside the processes of a command that is resumed
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    stopping = asyncio.create_task(_terminate(process, stop))
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended: why is said below
            process.stdin.write(encode(share))
            await process.stdin.drain()
        process.stdin.close()
        async for line in process.stdout:
            if not line.endswith(b"\n"):
                break  # it was killed meanwhile
            message = decode(line)
            if isinstance(message, Failed):
                raise LoadError(message.error)
            yield message
        code = await process.wait()
        if code and not stop.is_set():
            raise LoadError(_ended(share, code))
    finally:
        await cancel_all([stopping])
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _terminate(process: asyncio.subprocess.Process, stop: asyncio.Event) -> None:
    await stop.wait()
    with suppress(ProcessLookupError):
        process.terminate()


def _ended(share: Share, code: int) -> str:
    partitions = ", ".join(map(str, share.partitions))
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    cure = "is memory short?" if code == -signal.SIGKILL else "its last lines above say why"
    return f"the process that loads partitions {partitions} {how}: {cure} --resume {share.operation} goes on"
