"""uvicorn's server, with a drain during which it can still be asked."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from service.errors import ServiceError
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
        self._beside: tuple[uvicorn.Server, socket.socket] | None = None

    def beside(self, app: FastAPI, port: int) -> None:
        """Serve another app too, on another port of the same address, for as long as this one runs.

        Raises
        ------
        ServiceError : where the port cannot be listened on.
        """
        config = self.config
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        try:
            listening = socket.create_server((config.host, port), family=family)
        except OSError as error:
            raise ServiceError(
                f"cannot listen on {config.host}, port {port} ({error.strerror}). Choose another one with "
                "EARWITNESS_METRICS_PORT."
            ) from error
        other = uvicorn.Config(
            app, http=config.http, log_config=None, access_log=False, server_header=False, lifespan="off"
        )
        self._beside = _Quiet(other), listening

    async def main_loop(self) -> None:
        """Serve until told to stop, then drain; a second Ctrl+C ends the drain."""
        if self._beside is None:
            await self._serve_and_drain()
            return
        other, listening = self._beside
        serving = asyncio.create_task(other.serve([listening]))
        try:
            await self._serve_and_drain()
        finally:
            other.should_exit = True
            await serving

    async def _serve_and_drain(self) -> None:
        await super().main_loop()
        _log.info("draining: what is in hand may take %g s more", self._resources.settings.drain_s)
        draining = asyncio.create_task(self._resources.drain())
        while not (draining.done() or self.force_exit):
            await asyncio.wait({draining}, timeout=0.1)


class _Quiet(uvicorn.Server):
    """A server beside another one, which alone is told of signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the other."""
        yield
