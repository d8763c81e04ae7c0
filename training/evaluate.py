"""Test recordings scored by a bundle, as the service would score them: the only maker of tables.

Every score comes from `models.detector.Detector`, its terms and thresholds included. A challenge's recording is scored
whole; a plant's own longer one is cut into consecutive ten-second clips, as training cuts it, and each of them counts.
"""

import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.audio import CLIP_S, CLIP_SAMPLES, SAMPLE_RATE_HZ, Clip, consecutive
from models.detector import Detector
from models.encoder import Device
from models.errors import AudioError, DataError
from models.scoring import score_section
from models.systems import Features
from models.vocabulary import Condition, Decision, Domain, LossChoice, SectionKey, Split
from training.metrics import auc, bootstrap_intervals, partial_auc, rate_interval
from training.recordings import Recording
from training.scored import PartKind, PartName, Scored, SystemName
from training.tables import Evaluation, Part, Row

BATCH_WINDOWS = 32
"""Windows that are encoded together."""

Group = tuple[SectionKey, Domain]

Watch = Callable[[Scored, NDArray[np.float32]], None]
"""Sees a clip and its windows' embeddings, (windows, members of its type, 128), which nobody else keeps."""

_BOOTSTRAP_SEED = 0


def test_recordings(recordings: Iterable[Recording]) -> list[Recording]:
    """The recordings that are for testing.

    Raises
    ------
    DataError : where there are none.
    """
    recordings = list(recordings)
    chosen = [recording for recording in recordings if recording.split is Split.TEST]
    if not chosen:
        raise DataError(
            f"None of the {len(recordings)} recordings is for testing. Keep some normal recordings of other days out "
            "of training: give them the split 'test' in the manifest."
        )
    return chosen


def evaluate(
    bundle: Path,
    recordings: Sequence[Recording],
    *,
    advance: Callable[[int], None],
    device: Device = Device.AUTO,
    watch: Watch | None = None,
) -> Evaluation:
    """Score test recordings, and measure.

    Parameters
    ----------
    bundle : the bundle's folder.
    recordings : for testing, see `test_recordings`; without anomalies there are false-alarm rates and no AUC. Those of
        sections that the bundle does not know, and target recordings of sections without target clips, are left out
        with a note.
    advance : called with the number of recordings done.
    device : where the networks run.
    watch : called with each clip once it is scored.

    Raises
    ------
    DataError : for a recording that cannot be decoded, naming it, and where the bundle can score none of them.
    BundleError, DeviceUnavailable : where the bundle cannot be opened.
    """
    detector = Detector.load(bundle, device=device)
    try:
        usable, notes = _usable(detector, recordings)
        advance(len(recordings) - len(usable))
        scored = tuple(_score(detector, usable, advance, watch))
    finally:
        detector.close()
    groups: dict[Group, list[Scored]] = {
        (recording.key, recording.domain): [] for recording in recordings if recording.key in detector.sections
    }
    for clip in scored:
        groups[clip.recording.key, clip.recording.domain].append(clip)
    return Evaluation(
        rows=tuple(_row(detector, *group, clips) for group, clips in sorted(groups.items())),
        parts=tuple(part for group, clips in sorted(groups.items()) for part in _parts(*group, clips)),
        scored=scored,
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Analysed:
    """A clip on its way to the networks."""

    recording: Recording
    start_s: float
    clip: Clip
    features: Features


def _usable(detector: Detector, recordings: Sequence[Recording]) -> tuple[list[Recording], list[str]]:
    """The recordings that the bundle can score, in the order of their machine types, and a note on the others."""
    known = set(detector.sections)
    adapted = {key for key in known if detector.bundle_target(key) is not None}
    unknown: Counter[SectionKey] = Counter()
    without_target: Counter[SectionKey] = Counter()
    usable = []
    for recording in recordings:
        if recording.key not in known:
            unknown[recording.key] += 1
        elif recording.domain is Domain.TARGET and recording.key not in adapted:
            without_target[recording.key] += 1
        else:
            usable.append(recording)
    if not usable:
        names = sorted(f"{key.machine_type} {key.section}" for key in known)
        raise DataError(
            f"The bundle can score none of the {len(recordings)} test recordings: its sections are {', '.join(names)}. "
            "Give recordings of these, or the bundle that was trained for yours."
        )
    left_out = [(unknown, "the bundle does not know the section"), (without_target, "it has no target clips there")]
    notes = [
        f"{key.machine_type} {key.section}: {count} test recordings left out: {reason}."
        for counts, reason in left_out
        for key, count in sorted(counts.items())
    ]
    return sorted(usable, key=lambda recording: recording.machine_type), notes


def _score(
    detector: Detector, recordings: Sequence[Recording], advance: Callable[[int], None], watch: Watch | None
) -> Iterator[Scored]:
    """Decode and analyse in threads, a few recordings ahead; encode the windows of several clips together."""
    waiting: list[_Analysed] = []
    ready = 0
    for analysed in _ahead(lambda recording: _analyse(detector, recording), recordings):
        if waiting and waiting[0].recording.machine_type != analysed[0].recording.machine_type:
            yield from _assess(detector, waiting, watch)
            waiting = []
        waiting += analysed
        ready += 1
        if sum(len(one.features.log_mels) for one in waiting) >= BATCH_WINDOWS:
            yield from _assess(detector, waiting, watch)
            advance(ready)
            waiting, ready = [], 0
    yield from _assess(detector, waiting, watch)
    advance(ready)


def _ahead(
    analyse: Callable[[Recording], list[_Analysed]], recordings: Iterable[Recording]
) -> Iterator[list[_Analysed]]:
    """``map`` in threads that keeps only a few results ahead: recordings of hours must not fill the memory."""
    threads = min(4, os.cpu_count() or 1)
    pending: deque[Future[list[_Analysed]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="front-end") as pool:
        for recording in recordings:
            pending.append(pool.submit(analyse, recording))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _analyse(detector: Detector, recording: Recording) -> list[_Analysed]:
    try:
        clip = detector.decode(recording.path, max_clip_s=recording.max_duration_s)
    except (AudioError, OSError) as error:
        raise DataError(
            f"{recording.path} cannot be scored: {error} Mend or remove it; "
            "'python -m training check' finds all such files."
        ) from error
    return [
        _Analysed(recording, CLIP_S * place, part, detector.analyse(part))
        for place, part in enumerate(_cut(recording, clip))
    ]


def _cut(recording: Recording, clip: Clip) -> list[Clip]:
    """The clips that a recording counts as."""
    if recording.challenge or len(clip.waveform) <= CLIP_SAMPLES:
        return [clip]
    return [
        replace(clip, waveform=part, duration_s=CLIP_SAMPLES / SAMPLE_RATE_HZ, level_dbfs=_level_dbfs(part))
        for part in consecutive(clip.waveform)
    ]


def _level_dbfs(waveform: NDArray[np.float32]) -> float:
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    return 10.0 * float(np.log10(max(power, np.finfo(np.float64).tiny)))


def _assess(detector: Detector, analysed: Sequence[_Analysed], watch: Watch | None) -> Iterator[Scored]:
    """Encode clips of one machine type together, and assess each."""
    if not analysed:
        return
    log_mels = np.concatenate([one.features.log_mels for one in analysed])
    embeddings = detector.encode(log_mels, analysed[0].recording.machine_type)
    first = 0
    for one in analysed:
        own = embeddings[first : first + len(one.features.log_mels)]
        first += len(own)
        key, domain = one.recording.key, one.recording.domain
        assessment = detector.assess(key, domain, one.clip, one.features, own)
        terms = [system.terms for system in assessment.systems.values()]
        parts = {(PartKind.TERM, name): value for term in terms for name, value in term.items() if value is not None}
        scored = Scored(
            recording=one.recording,
            start_s=one.start_s,
            anomaly_score=assessment.anomaly_score,
            decision_score=assessment.decision_score,
            threshold=assessment.threshold,
            decision=assessment.decision,
            parts={**parts, **_losses(detector, key, domain, one.features, own)},
        )
        if watch is not None:
            watch(scored, own)
        yield scored


def _losses(
    detector: Detector, key: SectionKey, domain: Domain, features: Features, embeddings: NDArray[np.float32]
) -> Mapping[PartName, float]:
    """Anomaly scores of the members trained with each loss apart, of those that score the machine type (Table 4)."""
    model = detector.bundle.sections[key]
    places: defaultdict[LossChoice, list[int]] = defaultdict(list)
    for place, member in enumerate(detector.members_of(key.machine_type)):
        places[detector.bundle.manifest.members[member].heads].append(place)
    scores = {}
    for loss, own in places.items():
        part = replace(model, members=tuple(model.members[place] for place in own))
        terms = score_section(part, embeddings[:, own], features.t_max, domain)
        scores[PartKind.LOSS, loss.value] = float(np.mean(terms.anomaly_score))
    return scores


def _row(detector: Detector, key: SectionKey, domain: Domain, clips: Sequence[Scored]) -> Row:
    normal, anomalous = _of(clips, Condition.NORMAL), _of(clips, Condition.ANOMALY)
    scores = _anomaly_scores(normal), _anomaly_scores(anomalous)
    intervals = bootstrap_intervals(*scores, _groups(normal), _groups(anomalous), seed=_BOOTSTRAP_SEED)
    alarms, hits = _alarms(normal), _alarms(anomalous)
    recipe = detector.bundle.manifest.recipe
    name, seed = recipe.get("name"), recipe.get("seed")
    return Row(
        system=SystemName.EARWITNESS,
        bundle=detector.bundle.id,
        recipe=name if isinstance(name, str) else None,
        seed=seed if isinstance(seed, int) else None,
        machine_type=key.machine_type,
        section=key.section,
        domain=domain,
        auc=auc(*scores),
        auc_interval=intervals and intervals[0],
        pauc=partial_auc(*scores),
        pauc_interval=intervals and intervals[1],
        normal=len(normal),
        anomalous=len(anomalous),
        false_alarm_rate=None if alarms is None else alarms / len(normal),
        hit_rate=None if hits is None else hits / len(anomalous),
        false_alarm_interval=None if alarms is None else rate_interval(alarms, len(normal)),
        hit_interval=None if hits is None else rate_interval(hits, len(anomalous)),
    )


def _parts(key: SectionKey, domain: Domain, clips: Sequence[Scored]) -> Iterator[Part]:
    for kind, name in clips[0].parts if clips else ():
        scores = [
            np.array([clip.parts[kind, name] for clip in _of(clips, condition)])
            for condition in (Condition.NORMAL, Condition.ANOMALY)
        ]
        yield Part(key.machine_type, key.section, domain, kind, name, auc(*scores), partial_auc(*scores))


def _of(clips: Sequence[Scored], condition: Condition) -> list[Scored]:
    return [clip for clip in clips if clip.recording.condition is condition]


def _anomaly_scores(clips: Sequence[Scored]) -> NDArray[np.float64]:
    return np.array([clip.anomaly_score for clip in clips], np.float64)


def _groups(clips: Sequence[Scored]) -> list[str]:
    return [clip.recording.recording for clip in clips]


def _alarms(clips: Sequence[Scored]) -> int | None:
    """How many clips are called anomalous; None where nothing is decided."""
    decisions = [clip.decision for clip in clips]
    return None if not decisions or None in decisions else decisions.count(Decision.ANOMALOUS)
