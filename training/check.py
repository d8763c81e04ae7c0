"""What was found among the recordings, what is wrong with them, and whether they can be trained on.

Every file is decoded as training decodes it. An error is what must be mended: training refuses such a file, or learns
something false from it. A note is what a person should know: the file is used as it is.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from models.assessment import CLIPPED_SHARE, FEW_CLIPS
from models.audio import CLIP_S, CLIP_SAMPLES, SAMPLE_RATE_HZ, decode, silent_cuts_s
from models.decision import smallest_false_alarm_rate
from models.errors import AudioError, ClipTooLong, ClipTooShort, SilentClip
from models.vocabulary import Domain, SectionKey, Split
from training.backends import LEAST_TARGET_CLIPS
from training.calibration import FOLDS
from training.check_report import CheckReport, Count, Kind, Problem, SectionSummary, Severity, Verdict, numbered
from training.features import CONTRAST_SPEEDS, clips_in, silence
from training.labels import needs_contrast
from training.parallel import spread
from training.recordings import Recording, Refusal


def check_recordings(
    recordings: Sequence[Recording],
    refusals: Sequence[Refusal] = (),
    *,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> CheckReport:
    """Decode every recording, in several processes, and judge what can be trained on them.

    Parameters
    ----------
    recordings, refusals : of `training.recordings.survey`.
    workers : processes; None is one a core.
    advance : called with 1 after each recording.
    """
    problems = [Problem(Severity.ERROR, Kind.REFUSED, refusal.where, refusal.reason) for refusal in refusals]
    clips: dict[Recording, int] = {}
    first_of: dict[str, Recording] = {}
    for recording, sound in zip(recordings, spread(_listen, recordings, workers), strict=True):
        if recording.condition is None:
            problems.append(Problem(Severity.NOTE, Kind.UNLABELLED, str(recording.path), "the name does not say"))
        problems.extend(Problem(severity, kind, str(recording.path), text) for severity, kind, text in sound.findings)
        if sound.clips:
            clips[recording] = sound.clips
            first = first_of.setdefault(sound.waveform_sha256, recording)
            if first is not recording:
                detail = f"the same sound as {first.path}" + _across(first, recording)
                problems.append(Problem(Severity.ERROR, Kind.DUPLICATE, str(recording.path), detail))
        advance(1)
    training = [recording for recording in recordings if recording.split is Split.TRAIN]
    sections = _summarise(training, clips)
    advice = _contrast_advice(training)
    verdict, reasons = _judge(training, clips, refusals, problems, sections, advice)
    return CheckReport(_counts(recordings), tuple(problems), sections, advice, verdict, reasons)


@dataclass(frozen=True, slots=True)
class _Sound:
    """What decoding says of a recording: the clips it gives (0: none, it cannot be used), and what was noticed."""

    clips: int = 0
    waveform_sha256: str = ""
    findings: tuple[tuple[Severity, Kind, str], ...] = ()


def _listen(recording: Recording) -> _Sound:
    try:
        clip = decode(recording.path, max_clip_s=recording.max_duration_s)
    except (AudioError, OSError) as error:
        kinds: dict[type[Exception], Kind] = {
            ClipTooShort: Kind.TOO_SHORT,
            ClipTooLong: Kind.TOO_LONG,
            SilentClip: Kind.SILENT,
        }
        return _Sound(findings=((Severity.ERROR, kinds.get(type(error), Kind.UNREADABLE), str(error)),))
    if silent := silent_cuts_s(clip.waveform[:CLIP_SAMPLES] if recording.challenge else clip.waveform):
        return _Sound(findings=((Severity.ERROR, Kind.SILENT, silence(silent)),))
    notes: list[tuple[Kind, str]] = []
    if clip.clipped_share > CLIPPED_SHARE:
        notes.append((Kind.CLIPPED, f"{clip.clipped_share:.2%} of its samples are at full scale"))
    if clip.sample_rate_hz != SAMPLE_RATE_HZ:
        kind = Kind.RATE_BELOW if clip.sample_rate_hz < SAMPLE_RATE_HZ else Kind.RATE_ABOVE
        notes.append((kind, f"{clip.sample_rate_hz} Hz"))
    if clip.channels > 1:
        notes.append((Kind.CHANNELS, f"{clip.channels} channels"))
    if clip.duration_s != CLIP_S:
        notes.append((Kind.SHORT if clip.duration_s < CLIP_S else Kind.LONG, f"{clip.duration_s:.1f} s"))
    return _Sound(
        clips=1 if recording.challenge else clips_in(clip.duration_s),
        waveform_sha256=clip.waveform_sha256,
        findings=tuple((Severity.NOTE, kind, text) for kind, text in notes),
    )


def _across(first: Recording, second: Recording) -> str:
    if {first.split, second.split} == set(Split):
        return ", on both sides of training and test: an evaluation would lie"
    if first.key != second.key:
        return f", which is of {first.key.machine_type} section {first.key.section}"
    return ""


def _counts(recordings: Iterable[Recording]) -> dict[Count, int]:
    counts = Counter(
        (
            r.machine_type,
            r.section,
            r.domain if r.domain_told else "unknown",
            r.split,
            r.condition or "unlabelled",
            r.attribute_name,
        )
        for r in recordings
    )
    return dict(sorted(counts.items()))


def _summarise(training: Iterable[Recording], clips: Mapping[Recording, int]) -> tuple[SectionSummary, ...]:
    of_section: dict[SectionKey, list[Recording]] = defaultdict(list)
    for recording in training:
        of_section[recording.key].append(recording)
    return tuple(_summary(key, own, clips) for key, own in sorted(of_section.items()))


def _summary(key: SectionKey, training: Sequence[Recording], clips: Mapping[Recording, int]) -> SectionSummary:
    usable = [recording for recording in training if recording in clips]
    source = sum(clips[recording] for recording in usable if recording.domain is Domain.SOURCE)
    target = sum(clips[recording] for recording in usable if recording.domain is Domain.TARGET)
    names = {recording.recording for recording in usable if recording.domain is Domain.SOURCE}
    rate = smallest_false_alarm_rate(len(names)) if len(names) > 1 else None
    return SectionSummary(key, source, target, len(names), rate, tuple(_advice(source, target, len(names))))


def _advice(source: int, target: int, recordings: int) -> Iterator[str]:
    """A sentence for each limit of a section."""
    if source == 0:
        yield "no usable source clips: the section is left out. Record its usual condition"
        return
    if source == 1:
        yield "one source clip: no threshold for other clips can be given. Record more"
    elif recordings == 1:
        yield (
            f"all {source} source clips are of one recording or visit, so that the threshold knows nothing of other "
            "days. Spread the recordings over days: that matters more than their number"
        )
    elif recordings < FOLDS:
        yield f"the source clips are of {recordings} recordings or visits only. Spread them over more days"
    if 1 < source < FEW_CLIPS:
        yield f"{source} source clips, fewer than {FEW_CLIPS}: the threshold is uncertain. Record more, on several days"
    if 0 < target < LEAST_TARGET_CLIPS:
        yield (
            f"{target} target clip{'s' * (target > 1)}: no target mixture under {LEAST_TARGET_CLIPS}, so that the "
            "section has no target domain before a registration"
        )


def _contrast_advice(training: Sequence[Recording]) -> tuple[str, ...]:
    """What is said where a head would have fewer than two classes, which is the commonest first try of a plant."""
    if not training or not needs_contrast(training, attribute_head=True):
        return ()
    sections = len({recording.key for recording in training})
    attributes = len({recording.attribute_class for recording in training})
    heads = [
        f"the {name} head has a single class" for name, n in (("section", sections), ("attribute", attributes)) if n < 2
    ]
    speeds = ", ".join(f"{speed:.2f}" for speed in CONTRAST_SPEEDS)
    return (
        f"{' and '.join(heads)}: training adds copies of the clips at the speeds {speeds} as contrast classes; the "
        "recipe plant adds none, and goes without networks where all clips have one attribute. "
        "Recordings of a second machine, position or operating condition teach more.",
    )


def _judge(
    training: Sequence[Recording],
    clips: Mapping[Recording, int],
    refusals: Sequence[Refusal],
    problems: Sequence[Problem],
    sections: Sequence[SectionSummary],
    advice: Sequence[str],
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict that `train` would give, and why it is not better."""
    blocking = []
    if refusals:
        blocking.append(f"{numbered(len(refusals), 'name or row', 'names or rows')} cannot be read")
    if not training:
        blocking.append("no recording is for training: put normal ones into 'train' folders or the split 'train'")
    elif unusable := sum(recording not in clips for recording in training):
        blocking.append(f"{numbered(unusable, 'training file')} cannot be used: mend or remove them")
    if training and not any(section.source_clips for section in sections):
        blocking.append("no section has a usable source clip")
    if blocking:
        return Verdict.NOT_TRAINABLE, tuple(blocking)
    reasons = []
    if errors := sum(problem.severity is Severity.ERROR for problem in problems):
        reasons.append(f"{numbered(errors, 'error')} to mend")
    if limited := [section.key for section in sections if section.advice]:
        names = ", ".join(f"{key.machine_type} {key.section}" for key in limited)
        reasons.append(f"more recordings are needed for {names}")
    if advice:
        reasons.append("contrast classes stand in for other machines")
    return (Verdict.PROVISIONAL if reasons else Verdict.READY), tuple(reasons)
