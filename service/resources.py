"""What an app holds while it runs: opened in the lifespan, closed with it, loaded in the background.

The port opens at once, so that /livez answers while a large bundle loads; /readyz and scoring wait for the canary.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from models.detector import Detector
from models.errors import EarwitnessError
from models.vocabulary import SectionKey, check_name
from service.adaptation import Adaptation
from service.admission import Admission
from service.detection import Detection
from service.errors import NotReady, ServiceError
from service.first_clips import FirstClips
from service.registered import Registered
from service.settings import Settings
from service.targets import TargetStore
from service.telemetry import Metrics

_WARMING_S = 3600.0
"""How long the mixtures of registrations may take at the start."""
_log = logging.getLogger("service")


@dataclass(frozen=True, slots=True)
class Loaded:
    """One bundle in service."""

    detection: Detection
    adaptation: Adaptation
    first_clips: FirstClips
    loaded_at: datetime

    @property
    def bundle_id(self) -> str:
        """The id of the bundle, for answers."""
        return self.detector.bundle.id

    @property
    def detector(self) -> Detector:
        """The detector of the bundle."""
        return self.detection.detector

    def find(self, machine_type: str, section: str) -> SectionKey:
        """The key of a section.

        Raises
        ------
        InvalidName, UnknownMachineType, UnknownSection
        """
        check_name("machine type", machine_type)
        check_name("section", section)
        return self.detector.find(machine_type, section)


class Resources:
    """The settings, metrics, requests in hand, database and loaded bundle of one app."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.admission = Admission(settings.queue_capacity, settings.max_bytes_in_hand)
        self.refusal: EarwitnessError | None = None
        self.on_refusal: Callable[[], None] = lambda: None
        self._loaded: Loaded | None = None
        self._detection: Detection | None = None
        self._opened = ExitStack()

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
        if self._loaded is None:
            raise NotReady("The bundle is still loading. Ask /readyz, or send the request again in a moment.")
        if not self._loaded.detection.batcher.running:
            raise NotReady("The service no longer runs batches. Restart it.")
        return self._loaded

    async def drain(self) -> None:
        """Answer new requests 503, and wait until those in hand are done or their time is up."""
        self.metrics.ready.set(0)
        await self.admission.drain(self.settings.drain_s)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Load in the background for as long as the app runs; drain at the end."""
        loading = asyncio.create_task(self._load())
        try:
            yield
        finally:
            await self.drain()
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            if self._detection is not None:
                await self._detection.close(self.settings.drain_s)
            self._opened.close()

    async def _load(self) -> None:
        begun = time.perf_counter()
        try:
            loaded = await self._loading()
        except EarwitnessError as error:
            _log.critical("%s", error)
            self._refuse(error)
        except Exception as error:  # noqa: BLE001  a process must not stay up, unready, without a word
            _log.critical("loading failed", exc_info=error)
            self._refuse(ServiceError(f"Loading failed unexpectedly ({error!r}). The log tells more."))
        else:
            self._loaded = loaded
            self.metrics.ready.set(1)
            _log.info("ready after %.1f s", time.perf_counter() - begun)

    async def _warm(self) -> None:
        """Make the mixtures of what another instance has registered before a score asks for them."""
        if self._loaded is not None:
            await self._loaded.adaptation.warm(asyncio.get_running_loop().time() + _WARMING_S)

    def _refuse(self, error: EarwitnessError) -> None:
        self.refusal = error
        self.on_refusal()

    async def _loading(self) -> Loaded:
        settings = self.settings
        store = self._opened.enter_context(await asyncio.to_thread(TargetStore, settings.database))
        registered = await Registered(store).open()
        self._opened.callback(registered.close)
        self._opened.callback(asyncio.create_task(registered.follow(self._warm)).cancel)
        _log.info("target clips are kept in %s", store.name)
        detector = await asyncio.to_thread(
            Detector.load,
            settings.bundle,
            device=settings.device,
            threads=settings.threads,
            false_alarm_rate=settings.false_alarm_rate_of,
        )
        _log.info(
            "loaded bundle %s from %s, running on %s", detector.bundle.id, settings.bundle, detector.device.running
        )
        if detector.device.fallback:
            _log.warning("no GPU, running on the CPU: %s", detector.device.reason)
        detection = self._detection = Detection(
            detector,
            threads=settings.threads,
            capacity=settings.queue_capacity,
            max_batch=settings.max_batch_windows,
            max_clip_s=settings.max_clip_s,
            observer=self.metrics,
        )
        detection.batcher.start()
        await asyncio.to_thread(detector.check_canary)
        adaptation = Adaptation(detection, registered)
        await adaptation.warm(asyncio.get_running_loop().time() + _WARMING_S)
        self.metrics.know_bundle(detector)
        self.metrics.know_queue(settings.queue_capacity, lambda: detection.batcher.depth)
        self.metrics.know_registrations(registered)
        return Loaded(detection, adaptation, FirstClips(), datetime.now(UTC))
