"""The target clips that score a section: the registration in force, else those the bundle was trained with.

The database holds the clips; the mixtures made of them are a cache that belongs to one loaded bundle. The registration
in force is read at each use, so that several instances on one database agree.
"""

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from models.audio import Clip
from models.detector import MAX_TARGET_CLIPS, MIN_TARGET_CLIPS
from models.errors import AudioError, EarwitnessError, NoTargetClips, TargetClipsError
from models.systems import Features, TargetModel
from models.vocabulary import SectionKey
from service.detection import Detection
from service.errors import TargetClipsUnusable
from service.targets import Idempotency, Registration, Sample, TargetStore

_ANY_LENGTH_S = 3600.0
"""Stored clips were accepted once; a lower limit for new ones does not put them out of force."""

_log = logging.getLogger("service.adaptation")


@dataclass(frozen=True, slots=True)
class Target:
    """What scores a section in the target domain: version 0 is the bundle's own; no model where it is dormant.

    Dormant is a registration that cannot score: the bundle lacks its section or cannot use its clips.
    """

    key: SectionKey
    version: int | None
    registration: Registration | None
    model: TargetModel | None


class Adaptation:
    """Registrations against one loaded bundle.

    The database has threads of its own: nothing that is read there waits for clips that are decoded, nor the reverse.
    One writer at a time, since one that waits for another program's lock keeps its thread.
    """

    def __init__(self, detection: Detection, store: TargetStore) -> None:
        self._detection = detection
        self._detector = detection.detector
        self._store = store
        self._known = frozenset(self._detector.sections)
        self._models: dict[SectionKey, tuple[int, TargetModel]] = {}
        self._fitting: defaultdict[SectionKey, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._writing = asyncio.Lock()

    async def registered(self, key: SectionKey) -> Registration | None:
        """The registration in force for this section, if there is one; the bundle need not know it."""
        return await asyncio.to_thread(self._store.in_force, key)

    async def target(self, key: SectionKey, deadline: float) -> Target:
        """What scores this section in the target domain now; a registration that cannot is dormant."""
        return await self._described(key, await self.registered(key), deadline)

    async def scoring_target(self, key: SectionKey, deadline: float) -> tuple[TargetModel, int]:
        """The model and version that score a target-domain clip.

        Raises
        ------
        NoTargetClips : where there are none.
        TargetClipsUnusable : where those registered cannot score.
        """
        target = await self._target(key, await self.registered(key), deadline)
        if target.model is None or target.version is None:
            raise NoTargetClips(key.machine_type, key.section)
        return target.model, target.version

    async def targets(self, deadline: float) -> list[Target]:
        """Every registration in force, dormant ones too."""
        return [await self._described(one.key, one, deadline) for one in await self.registrations()]

    async def sections(self, deadline: float) -> list[Target]:
        """What scores each section of the bundle in the target domain now, from one read of the database."""
        registered = {one.key: one for one in await self.registrations()}
        return [await self._described(key, registered.get(key), deadline) for key in self._detector.sections]

    async def register(
        self, key: SectionKey, clips: Sequence[bytes], *, idempotency_key: str | None, deadline: float
    ) -> Target:
        """Put ``clips`` in force for a section of the bundle, all of them or none.

        Raises
        ------
        TargetClipsError : for too few or too many clips, a duplicate or a clip that cannot be used.
        IdempotencyConflict : where the key belongs to another request.
        """
        idempotency = None
        if idempotency_key is not None:
            request_sha256 = await self._detection.in_thread(_request_sha256, key, clips)
            idempotency = Idempotency(idempotency_key, request_sha256)
            earlier = await asyncio.to_thread(self._store.replayed, idempotency)
            if earlier is not None:
                return await self._target(key, earlier, deadline)
        if not MIN_TARGET_CLIPS <= len(clips) <= MAX_TARGET_CLIPS:
            raise TargetClipsError(
                f"{len(clips)} clips were sent; a registration takes {MIN_TARGET_CLIPS} to {MAX_TARGET_CLIPS}, "
                "in file fields named 'audio'."
            )
        heard, model = await self._fit(key, clips, deadline)
        samples = [Sample(clip.sha256, clip.duration_s, clip.level_dbfs, clip.clipped_share) for clip in heard]
        rows = list(zip(samples, clips, strict=True))
        async with self._writing:
            registration = await asyncio.to_thread(self._store.register, key, rows, idempotency=idempotency)
        self._models[key] = registration.id, model
        _log.info("registered %d target clips of %s %s, version %d", len(rows), *_names(key), registration.version)
        return Target(key, registration.version, registration, model)

    async def registrations(self) -> list[Registration]:
        """Every registration in force, dormant ones too."""
        return await asyncio.to_thread(self._store.all_in_force)

    async def withdraw(self, key: SectionKey, deadline: float) -> Target:
        """Take a registration out of force; what is in force then."""
        async with self._writing:
            withdrawn = await asyncio.to_thread(self._store.withdraw, key)
        if withdrawn:
            _log.info("withdrew the target clips of %s %s", *_names(key))
        self._models.pop(key, None)
        return await self.target(key, deadline)

    async def warm(self, deadline: float) -> None:
        """Make the mixtures of every registration in force; one that cannot be made stays in force and is reported."""
        for registration in await self.registrations():
            if registration.key not in self._known:
                _log.warning("the target clips of %s %s are dormant: the bundle lacks it", *_names(registration.key))
                continue
            try:
                await self._target(registration.key, registration, deadline)
            except EarwitnessError as error:
                _log.error("the target clips of %s %s cannot score: %s", *_names(registration.key), error)

    async def _described(self, key: SectionKey, registration: Registration | None, deadline: float) -> Target:
        """As `_target`, but one that cannot score is dormant: it must not hide the others, nor resist its deletion."""
        try:
            return await self._target(key, registration, deadline)
        except TargetClipsUnusable as error:
            _log.error("%s", error)
            return Target(key, None if registration is None else registration.version, registration, None)

    async def _target(self, key: SectionKey, registration: Registration | None, deadline: float) -> Target:
        if key not in self._known:
            return Target(key, None if registration is None else registration.version, registration, None)
        if registration is None:
            model = self._detector.bundle_target(key)
            return Target(key, None if model is None else 0, None, model)
        async with self._fitting[key]:
            number, model = self._models.get(key, (None, None))
            if number != registration.id:
                audio = await asyncio.to_thread(self._store.audio, registration)
                try:
                    _, model = await self._fit(key, audio, deadline, max_clip_s=_ANY_LENGTH_S)
                except TargetClipsError as error:
                    raise TargetClipsUnusable(
                        f"The target clips registered for {' '.join(_names(key))}, version {registration.version}, "
                        f"cannot be used with this bundle ({error.__cause__ or error}). Register clips again."
                    ) from error
                self._models[key] = registration.id, model
        return Target(key, registration.version, registration, model)

    async def _fit(
        self, key: SectionKey, clips: Sequence[bytes], deadline: float, max_clip_s: float | None = None
    ) -> tuple[list[Clip], TargetModel]:
        results = await asyncio.gather(
            *(self._detection.hear_first(clip, max_clip_s) for clip in clips), return_exceptions=True
        )
        heard: list[Clip] = []
        features: list[Features] = []
        for position, result in enumerate(results, 1):
            if isinstance(result, AudioError):
                message = f"Clip {position} of {len(clips)} cannot be used, and so none was registered: {result}"
                raise TargetClipsError(message, position) from result
            if isinstance(result, BaseException):
                raise result
            heard.append(result[0])
            features.append(result[1])
        _refuse_duplicates(heard)
        together = Features.joined(features)
        embeddings = await self._detection.embed(key, self._detector.inputs(together), deadline)
        levels_dbfs = [clip.level_dbfs for clip in heard]
        return heard, await self._detection.in_thread(self._detector.fit_target, key, together, embeddings, levels_dbfs)


def _refuse_duplicates(heard: Sequence[Clip]) -> None:
    """The same sound twice would stand for two clips of evidence; another container does not make it another sound."""
    first: dict[str, int] = {}
    for position, clip in enumerate(heard, 1):
        earlier = first.setdefault(clip.waveform_sha256, position)
        if earlier != position:
            raise TargetClipsError(
                f"Clip {position} of {len(heard)} is the same sound as clip {earlier}, and so none was registered. "
                "Send each clip once.",
                position,
            )


def _request_sha256(key: SectionKey, clips: Sequence[bytes]) -> str:
    digests = [hashlib.sha256(clip).hexdigest() for clip in clips]
    return hashlib.sha256("\n".join([*_names(key), *digests]).encode()).hexdigest()


def _names(key: SectionKey) -> tuple[str, str]:
    return key.machine_type, key.section
