"""uvicorn's server, with a drain during which it can still be asked."""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.ending import AFTER_DRAIN_S, FAILED, INTERRUPTED, Ending
from service.errors import ServiceError
from service.resources import Resources

_log = logging.getLogger("service")


class Server(uvicorn.Server):
    """Told to stop, it listens on until the requests in hand are done: whoever comes meanwhile hears that it drains.

    uvicorn by itself stops listening first: a new request, and whoever asks /livez or /readyz, would be refused a
    connection, which nothing tells from a crash. And it waits for every thread, for ever: `Ending` does not.
    """

    def __init__(self, config: uvicorn.Config, resources: Resources) -> None:
        super().__init__(config)
        self._resources = resources
        self.ending = Ending(resources.flush)
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
            app,
            http=config.http,
            ws=config.ws,
            timeout_keep_alive=config.timeout_keep_alive,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=config.timeout_graceful_shutdown,
        )
        self._beside = _Quiet(other), listening

    def stop(self, status: int = 0) -> None:
        """Drain and end, with the first status that was given; may be called in a signal handler."""
        self.ending.status = self.ending.status or status
        self.should_exit = True
        self.ending.within(self._resources.settings.drain_s + AFTER_DRAIN_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop when told so by a signal."""
        super().handle_exit(sig, frame)
        self.stop(INTERRUPTED if sig == signal.SIGINT else 0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; where that fails, the end is bounded too."""
        try:
            await super().startup(sockets)
        except SystemExit:
            self.ending.status = FAILED
            self.ending.within(AFTER_DRAIN_S)
            raise

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
        self.ending.within(AFTER_DRAIN_S)


class _Quiet(uvicorn.Server):
    """A server beside another one, which alone is told of signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the other."""
        yield
