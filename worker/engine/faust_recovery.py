"""Faust's part of a recovery: positions and resumes the streams, or raises an error."""

from typing import Any

from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery, ServiceStopped


class SafeRecovery(Recovery):
    """Faust's recovery, which here only seeks and resumes the streams: this engine's tables recover by themselves."""

    async def _resume_streams(self, generation_id: int = 0) -> None:
        # records fetched between resume and seek would be delivered and then cleared: the flow stays stopped until the seek
        self.app.consumer.stop_flow()
        self.app.flow_control.suspend()
        await super()._resume_streams(generation_id)

    async def _wait(self, coro: Any, timeout: Any = None) -> None:
        try:
            await super()._wait(coro, timeout)
        except ServiceStopped:
            if self.should_stop or self.crashed:
                raise
            # after a step that timed out the stock recovery ends silently, and the worker stays idle for ever
            raise TimeoutError("a recovery step timed out") from None


class SafeTableManager(TableManager):
    """Starts at once, with `SafeRecovery`."""

    async def on_start(self) -> None:
        # the stock method first sleeps for a second to wait for tables: here there are none
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = SafeRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
