"""The target clips that score a section: the registration in force, else those the bundle was trained with.

The database holds the clips; the mixtures made of them are a cache that belongs to one loaded bundle, kept by the
digests of the clips they are made of.
"""

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from models.appraisal import Appraisal
from models.audio import Clip
from models.detector import MAX_TARGET_CLIPS, MIN_TARGET_CLIPS
from models.errors import AudioError, EarwitnessError, NoTargetClips, TargetClipsError
from models.systems import Embeddings, Features, TargetModel
from models.vocabulary import SectionKey
from service.audit import note
from service.detection import Detection
from service.errors import StoreError, TargetClipsUnusable
from service.registered import Registered, TargetState
from service.targets import Idempotency, Registration, Sample

_ANY_LENGTH_S = 3600.0
"""Stored clips were accepted once; a lower limit for new ones does not put them out of force."""

_log = logging.getLogger("service.adaptation")


@dataclass(frozen=True, slots=True)
class Target:
    """What scores a section in the target domain: version 0 is the bundle's own; no model where it is dormant.

    Dormant is a registration that cannot score: the bundle lacks its section or cannot use its clips. ``state``: None
    where there is no version. ``samples``: the clips, where they are known, with an appraisal each where there is a
    model of them. A preview has a model and samples, but no version.
    """

    key: SectionKey
    version: int | None
    registration: Registration | None
    model: TargetModel | None
    state: TargetState | None
    samples: tuple[Sample, ...] = ()
    appraisals: tuple[Appraisal, ...] = ()

    @classmethod
    def registered(cls, registration: Registration, fitted: "Fitted | None", state: TargetState) -> Self:
        """That of a registration; without ``fitted`` it is dormant."""
        return cls(
            registration.key,
            registration.version,
            registration,
            None if fitted is None else fitted.model,
            state,
            registration.samples,
            () if fitted is None else fitted.appraisals,
        )


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a bundle makes of target clips: how they are scored against, and how well each stands for the others."""

    samples: tuple[Sample, ...]
    model: TargetModel
    appraisals: tuple[Appraisal, ...]


@dataclass(frozen=True, slots=True)
class _Made:
    """What a registration's clips have made with this bundle, or the reason why nothing."""

    registration: Registration
    outcome: Fitted | str

    def of(self, registration: Registration) -> bool:
        """Whether it was made of the very clips of ``registration``."""
        return self.registration.samples == registration.samples


class Adaptation:
    """Registrations against one loaded bundle."""

    def __init__(self, detection: Detection, registered: Registered) -> None:
        self._detection = detection
        self._detector = detection.detector
        self._registered = registered
        self._sections = frozenset(self._detector.sections)
        self._made: dict[SectionKey, _Made] = {}
        self._making: defaultdict[SectionKey, asyncio.Lock] = defaultdict(asyncio.Lock)

    def knows(self, key: SectionKey) -> bool:
        """Whether a registration is in force for this section, which the bundle need not know."""
        return self._registered.in_force(key) is not None

    async def target(self, key: SectionKey, deadline: float) -> Target:
        """What scores this section in the target domain now; a registration that cannot is dormant."""
        return await self._described(key, self._registered.in_force(key), deadline)

    async def scoring_target(self, key: SectionKey, deadline: float) -> tuple[TargetModel, int, TargetState]:
        """The model that scores a target-domain clip, its version, and whether that is surely the newest.

        Raises
        ------
        NoTargetClips : where there are none.
        TargetClipsUnusable : where those registered cannot score.
        StoreError : where those registered are not in memory yet, nor any before them, and cannot be read.
        """
        try:
            target = await self._target(key, self._registered.in_force(key), deadline)
        except StoreError:
            made = self._made.get(key)
            if made is None or isinstance(made.outcome, str):
                raise
            return made.outcome.model, made.registration.version, TargetState.STALE
        if target.model is None or target.version is None or target.state is None:
            raise NoTargetClips(key.machine_type, key.section)
        return target.model, target.version, target.state

    async def targets(self, deadline: float) -> list[Target]:
        """Every registration in force, dormant ones too."""
        return [await self._described(one.key, one, deadline) for one in self._registered.all]

    async def sections(self, deadline: float) -> list[Target]:
        """What scores each section of the bundle in the target domain now."""
        return [await self.target(key, deadline) for key in self._detector.sections]

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
            earlier = await self._registered.read(self._registered.store.replayed, idempotency)
            if earlier is not None:
                note(version=earlier.version)
                return await self._target(key, earlier, deadline)
        fitted = await self._judge(key, clips, deadline)
        rows = list(zip(fitted.samples, clips, strict=True))
        registration = await self._registered.register(key, rows, idempotency=idempotency)
        self._keep(registration, fitted)
        _log.info("registered %d target clips of %s %s, version %d", len(rows), *_names(key), registration.version)
        return Target.registered(registration, fitted, self._registered.state)

    async def preview(self, key: SectionKey, clips: Sequence[bytes], deadline: float) -> Target:
        """What `register` would put in force, and nothing more.

        Raises
        ------
        TargetClipsError : as `register` would.
        """
        fitted = await self._judge(key, clips, deadline)
        return Target(key, None, None, fitted.model, None, fitted.samples, fitted.appraisals)

    async def versions(self, key: SectionKey, deadline: float) -> list[tuple[Registration, tuple[Appraisal, ...]]]:
        """Every registration of the section that is kept, the newest first; raises `StoreError`.

        Those of the very clips that are in force come with the appraisals of these. Others have none: they would have
        to be heard again.
        """
        kept = await self._registered.read(self._registered.store.versions, key)
        target = await self.target(key, deadline)
        return [(one, target.appraisals if one.samples == target.samples else ()) for one in kept]

    async def restore(self, key: SectionKey, version: int, *, idempotency_key: str | None, deadline: float) -> Target:
        """Put the clips of an earlier version in force again, as a new version.

        Raises
        ------
        UnknownTargetVersion : where the section has no such version.
        TargetClipsUnusable : where its clips cannot score.
        IdempotencyConflict : where the key belongs to another request.
        """
        idempotency = None
        if idempotency_key is not None:
            request = "\n".join(["restore", *_names(key), str(version)])
            idempotency = Idempotency(idempotency_key, hashlib.sha256(request.encode()).hexdigest())
            earlier = await self._registered.read(self._registered.store.replayed, idempotency)
            if earlier is not None:
                note(version=earlier.version)
                return await self._target(key, earlier, deadline)
        old = await self._registered.read(self._registered.store.version, key, version)
        target = await self._target(key, old, deadline)
        registration = await self._registered.restore(key, version, idempotency=idempotency)
        assert target.model is not None, "the bundle knows the section"
        fitted = Fitted(target.samples, target.model, target.appraisals)
        self._keep(registration, fitted)
        _log.info("restored version %d of %s %s as version %d", version, *_names(key), registration.version)
        return Target.registered(registration, fitted, self._registered.state)

    async def withdraw(self, key: SectionKey, deadline: float) -> Target:
        """Take a registration out of force; what is in force then."""
        if await self._registered.withdraw(key):
            _log.info("withdrew the target clips of %s %s", *_names(key))
        return await self.target(key, deadline)

    async def warm(self, deadline: float) -> None:
        """Make the mixtures of every registration in force; one that cannot be made stays in force and is reported."""
        for registration in self._registered.all:
            if registration.key not in self._sections:
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
            assert registration is not None, "the bundle's own clips can be used"
            _log.error("%s", error)
            return Target.registered(registration, None, self._registered.state)

    async def _target(self, key: SectionKey, registration: Registration | None, deadline: float) -> Target:
        state = self._registered.state
        if registration is None:
            model = self._detector.bundle_target(key) if key in self._sections else None
            return Target(key, None, None, None, None) if model is None else Target(key, 0, None, model, state)
        if key not in self._sections:
            return Target.registered(registration, None, state)
        async with self._making[key]:
            made = self._made.get(key)
            if made is None or not made.of(registration):
                made = _Made(registration, await self._make(registration, deadline))
                self._keep(registration, made.outcome)
        if isinstance(made.outcome, str):
            raise TargetClipsUnusable(made.outcome)
        return Target.registered(registration, made.outcome, state)

    def _keep(self, registration: Registration, outcome: Fitted | str) -> None:
        """Keep what is in force, and not what a repeated request has asked to be told again."""
        current = self._registered.in_force(registration.key)
        if current is not None and current.samples == registration.samples:
            self._made[registration.key] = _Made(current, outcome)

    async def _make(self, registration: Registration, deadline: float) -> Fitted | str:
        key = registration.key
        try:
            audio = await self._registered.read(self._registered.store.audio, registration)
            return await self._fit(key, audio, deadline, max_clip_s=_ANY_LENGTH_S)
        except TargetClipsUnusable as error:
            return str(error)
        except TargetClipsError as error:
            return (
                f"The target clips registered for {' '.join(_names(key))}, version {registration.version}, "
                f"cannot be used with this bundle ({error.__cause__ or error}). Register clips again."
            )

    async def _judge(self, key: SectionKey, clips: Sequence[bytes], deadline: float) -> Fitted:
        """What new clips make, if there are as many as there should be."""
        if not MIN_TARGET_CLIPS <= len(clips) <= MAX_TARGET_CLIPS:
            raise TargetClipsError(
                f"{len(clips)} clips were sent; a registration takes {MIN_TARGET_CLIPS} to {MAX_TARGET_CLIPS}, "
                "in file fields named 'audio'."
            )
        return await self._fit(key, clips, deadline)

    async def _fit(
        self, key: SectionKey, clips: Sequence[bytes], deadline: float, max_clip_s: float | None = None
    ) -> Fitted:
        with self._detection.forecast.work(deadline, len(clips)):
            return await self._fit_now(key, clips, deadline, max_clip_s)

    async def _fit_now(
        self, key: SectionKey, clips: Sequence[bytes], deadline: float, max_clip_s: float | None
    ) -> Fitted:
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
        return await self._detection.in_thread(self._fitted, key, heard, together, embeddings)

    def _fitted(self, key: SectionKey, heard: Sequence[Clip], features: Features, embeddings: Embeddings) -> Fitted:
        return Fitted(
            tuple(Sample(clip.sha256, clip.duration_s, clip.level_dbfs, clip.clipped_share) for clip in heard),
            self._detector.fit_target(key, features, embeddings, [clip.level_dbfs for clip in heard]),
            self._detector.appraise(key, heard, features, embeddings),
        )


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
