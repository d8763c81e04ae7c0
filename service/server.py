"""uvicorn's server, with a drain during which it can still be asked."""

import asyncio
import logging

import uvicorn

from service.resources import Resources

_log = logging.getLogger("service")


class Server(uvicorn.Server):
    """Told to stop, it listens on until the requests in hand are done: whoever comes meanwhile hears that it drains.

    uvicorn by itself stops listening first: a new request, and whoever asks /livez or /readyz, would be refused a
    connection, which nothing tells from a crash.
    """

    def __init__(self, config: uvicorn.Config, resources: Resources) -> None:
        super().__init__(config)
        self._resources = resources

    async def main_loop(self) -> None:
        """Serve until told to stop, then drain; a second Ctrl+C ends the drain."""
        await super().main_loop()
        _log.info("draining: what is in hand may take %g s more", self._resources.settings.drain_s)
        draining = asyncio.create_task(self._resources.drain())
        while not (draining.done() or self.force_exit):
            await asyncio.wait({draining}, timeout=0.1)
