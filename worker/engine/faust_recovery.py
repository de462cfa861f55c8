"""Faust's part of a recovery: it positions and resumes the streams, and says so when it cannot."""

from typing import Any

from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery, ServiceStopped


class SafeRecovery(Recovery):
    """Faust's recovery, which here only seeks and resumes the streams: this engine's tables recover by themselves."""

    async def _resume_streams(self, generation_id: int = 0) -> None:
        # records fetched between resume and seek would be handed over, then cleared: keep the flow closed until then
        self.app.consumer.stop_flow()
        self.app.flow_control.suspend()
        await super()._resume_streams(generation_id)

    async def _wait(self, coro: Any, timeout: Any = None) -> None:
        try:
            await super()._wait(coro, timeout)
        except ServiceStopped:
            if self.should_stop or self.crashed:
                raise
            # a step that timed out ends the stock recovery without a word, and the worker idles for ever
            raise TimeoutError("a step of the recovery took too long") from None


class SafeTableManager(TableManager):
    """Starts at once, with the safe recovery."""

    async def on_start(self) -> None:
        # the stock method first sleeps for a second, for tables that are declared late: here there are none
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = SafeRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
