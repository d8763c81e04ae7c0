"""uvicorn's server, with a drain during which it can still be asked."""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
        self._serving_beside: asyncio.Task[None] | None = None

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
            raise _unheard(config.host, port, error, "EARWITNESS_METRICS_PORT") from error
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
        """Listen; where that fails, the end is bounded too.

        Raises
        ------
        ServiceError : where the address cannot be listened on.
        """
        try:
            await super().startup(sockets)
        except SystemExit as end:  # raised by uvicorn while it handles what the system said
            self.ending.status = FAILED
            self.ending.within(AFTER_DRAIN_S)
            if isinstance(end.__context__, OSError):
                options = "--port (make run PORT=...) or another address with --host"
                raise _unheard(self.config.host, self.config.port, end.__context__, options) from end
            raise

    async def main_loop(self) -> None:
        """Serve until told to stop, then drain; a second Ctrl+C ends the drain."""
        if self._beside is not None:
            self._serving_beside = asyncio.create_task(_serve_beside(*self._beside))
        await super().main_loop()
        _log.info("draining: what is in hand may take %g s more", self._resources.settings.drain_s)
        draining = asyncio.create_task(self._resources.drain())
        while not (draining.done() or self.force_exit):
            await asyncio.wait({draining}, timeout=0.1)
        self.ending.within(AFTER_DRAIN_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the last answers out on both ports at once: one after the other would take more than is left."""
        await asyncio.gather(super().shutdown(sockets), self._shut_beside())

    async def _shut_beside(self) -> None:
        if self._beside is not None and self._serving_beside is not None:
            self._beside[0].should_exit = True
            await asyncio.wait({self._serving_beside})


def _unheard(host: str, port: int, error: OSError, options: str) -> ServiceError:
    """Why nothing can be heard on an address, and the ``options`` that choose another."""
    if error.errno == errno.EADDRINUSE:
        return ServiceError(
            f"{host}, port {port} is in use: this service, or another program, listens there already. Stop it, or "
            f"choose another port with {options}."
        )
    return ServiceError(
        f"cannot listen on {host}, port {port} ({error.strerror or error}). Choose another port with {options}."
    )


async def _serve_beside(other: uvicorn.Server, listening: socket.socket) -> None:
    """Serve on the metrics' port; where that fails it is told here, for nobody waits for it before the end."""
    with closing(listening):
        try:
            await other.serve([listening])
        except Exception:  # noqa: BLE001  the service itself goes on
            _log.exception("GET /metrics is served no more: its port has failed. Restart the service.")
            if other.started:
                await other.shutdown([listening])


class _Quiet(uvicorn.Server):
    """A server beside another one, which alone is told of signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the other."""
        yield
