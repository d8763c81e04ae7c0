"""What an app holds while it runs: opened in the lifespan, closed with it, loaded in the background.

The port opens at once, so that /livez answers while a large bundle loads; /readyz and scoring wait for the canary.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version

from starlette.types import Scope

from models.errors import EarwitnessError
from service.access import Access, Gate, KeyFile
from service.admission import Admission
from service.errors import NotReady, ServiceError
from service.loading import LOADING_S, Loaded
from service.origins import over_loopback
from service.registered import Registered
from service.retention import Retention
from service.serving import Serving
from service.settings import Settings
from service.targets import TargetStore
from service.telemetry import Metrics
from service.tracing import Tracing

__all__ = ["Loaded", "Resources"]

_LAST_BATCH_S = 1.0
"""How long a batch may still run whose callers have been answered: a part of `service.ending.AFTER_DRAIN_S`."""
_log = logging.getLogger("service")


class Resources:
    """The settings, metrics, requests in hand, database and loaded bundle of one app."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.admission = Admission(settings.queue_capacity, settings.max_bytes_in_hand)
        self.metrics.know_places(settings.queue_capacity, lambda: self.admission.in_hand)
        self.questions = Admission(settings.queue_capacity, 0)
        self.refusal: EarwitnessError | None = None
        self.on_refusal: Callable[[], None] = lambda: None
        keys = KeyFile(settings.keys)
        self.gate = Gate(keys, required=settings.keys_required)
        self._gate_beyond = Gate(keys, required=settings.access is not Access.OPEN)
        endpoint = settings.traces_endpoint
        self.tracing = None if endpoint is None else Tracing(endpoint, version("earwitness"))
        self.serving = Serving(settings, self.metrics)
        self._opened = ExitStack()

    def gate_for(self, scope: Scope) -> Gate:
        """Who is let in: unless it was said that everybody is, only over the loopback does nobody need a key.

        `Settings.host` says where this service listens, but not where another server than ours does that runs its app.
        """
        return self.gate if over_loopback(scope) else self._gate_beyond

    @property
    def loaded(self) -> Loaded:
        """The bundle in service.

        Raises
        ------
        NotReady : while it loads, and where it could not be loaded.
        Draining : once the service shuts down.
        """
        if self.refusal is not None:
            raise NotReady(f"The service cannot score: {self.refusal}")
        self.admission.check_open()
        loaded = self.serving.current
        if loaded is None:
            raise NotReady("The bundle is still loading. Ask /readyz, or send the request again in a moment.")
        if not loaded.detection.batcher.running:
            raise NotReady("The service no longer runs batches. Restart it.")
        return loaded

    def check_ready(self) -> None:
        """Raise as `loaded` does."""
        _ = self.loaded

    @contextmanager
    def hold(self) -> Iterator[Loaded]:
        """The bundle in service, for one request from its beginning to its end; raises as `loaded`."""
        loaded = self.loaded
        with loaded.holders.hold():
            yield loaded

    async def drain(self) -> None:
        """Answer new requests 503, and wait until those in hand are done or their time is up."""
        self.metrics.ready.set(0)
        await self.admission.drain(self.settings.drain_s)

    def flush(self) -> None:
        """Send the traces that have not been sent; blocks, but for a moment only."""
        if self.tracing is not None:
            self.tracing.close()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Load in the background for as long as the app runs; drain at the end."""
        loading = asyncio.create_task(self._load())
        try:
            yield
        finally:
            await self.drain()
            await asyncio.to_thread(self.flush)  # first: what follows may hang
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await self.serving.close(_LAST_BATCH_S)
            self._opened.close()

    async def _load(self) -> None:
        begun = time.perf_counter()
        try:
            await self._loading()
        except EarwitnessError as error:
            _log.critical("%s", error)
            self._refuse(error)
        except Exception as error:  # noqa: BLE001  a process must not stay up, unready, without a word
            _log.critical("loading failed", exc_info=error)
            self._refuse(ServiceError(f"Loading failed unexpectedly ({error!r}). The log tells more."))
        else:
            self.metrics.ready.set(1)
            _log.info("ready after %.1f s", time.perf_counter() - begun)

    async def _warm(self) -> None:
        """Make the mixtures of what another instance has registered before a score asks for them."""
        if self.serving.current is not None:
            await self.serving.current.adaptation.warm(asyncio.get_running_loop().time() + LOADING_S)

    def _refuse(self, error: EarwitnessError) -> None:
        self.refusal = error
        self.on_refusal()

    async def _loading(self) -> None:
        retention = Retention(self.settings.versions_kept, self.settings.idempotency_keys_s)
        store = self._opened.enter_context(
            await asyncio.to_thread(TargetStore, self.settings.database, retention=retention)
        )
        registered = await Registered(store).open()
        self._opened.callback(registered.close)
        self._opened.callback(asyncio.create_task(registered.follow(self._warm)).cancel)
        _log.info("target clips are kept in %s", store.name)
        self.metrics.know_registrations(registered)
        await self.serving.start(registered)
