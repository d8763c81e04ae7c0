"""One bundle in service: loaded, checked, warm, and held by each request from its beginning to its end."""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from models.detector import Detector
from models.vocabulary import SectionKey, check_name
from service.adaptation import Adaptation
from service.batching import BatchObserver
from service.detection import Detection
from service.first_clips import FirstClips
from service.registered import Registered
from service.settings import Settings

LOADING_S = 3600.0
"""How long a bundle may take to come into service, the mixtures of registrations included."""
_log = logging.getLogger("service")


class Holders:
    """Counts who uses something; used from one event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._nobody = asyncio.Event()
        self._nobody.set()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be one of them."""
        self._count += 1
        self._nobody.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._nobody.set()

    async def gone(self) -> None:
        """Wait until nobody uses it."""
        await self._nobody.wait()


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Loaded:
    """One bundle in service; ``folder`` is where it lay when it was loaded, without symbolic links."""

    detection: Detection
    adaptation: Adaptation
    first_clips: FirstClips
    folder: Path
    loaded_at: datetime
    holders: Holders = field(default_factory=Holders)

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


async def load_bundle(settings: Settings, folder: Path, registered: Registered, observer: BatchObserver) -> Loaded:
    """Load and verify a bundle, reproduce its canary, and make the mixtures of what is registered for it.

    Nothing is left running of one that is refused. Where ``folder`` is a link, all files are read from the folder that
    it names at first, whatever it names by the end.

    Raises
    ------
    BundleError, DeviceUnavailable : for a bundle that cannot serve.
    StoreError : where registrations cannot be read.
    """
    folder = Path(await asyncio.to_thread(os.path.realpath, folder))
    detector = await asyncio.to_thread(
        Detector.load,
        folder,
        device=settings.device,
        threads=settings.threads,
        false_alarm_rate=settings.false_alarm_rate_of,
        public_key=settings.public_key,
    )
    _log.info("loaded bundle %s from %s, running on %s", detector.bundle.id, folder, detector.device.running)
    if unheard := settings.unheard_rates(detector.sections):
        _log.warning("EARWITNESS_FALSE_ALARM_RATES: the bundle knows no %s", ", ".join(unheard))
    if detector.device.fallback:
        _log.warning("no GPU, running on the CPU: %s", detector.device.reason)
    detection = Detection(
        detector,
        threads=settings.threads,
        capacity=settings.queue_capacity,
        max_batch=settings.max_batch_windows,
        max_clip_s=settings.max_clip_s,
        observer=observer,
    )
    try:
        detection.batcher.start()
        await detection.check_canary()
        adaptation = Adaptation(detection, registered)
        await adaptation.warm(asyncio.get_running_loop().time() + LOADING_S)
    except BaseException:
        await detection.close(0.0)
        raise
    return Loaded(detection, adaptation, FirstClips(), folder, datetime.now(UTC))
