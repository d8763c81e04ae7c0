"""What a reader is told first: the figures that decide, each place's verdicts, and what limits them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.vocabulary import Condition, Decision
from training.intervals import rate_interval
from training.report.alarms import calibration_gap, normal_p_values
from training.report.contents import ReportData, of_condition
from training.report.panels import row_place
from training.report.words import (
    FEW_CLIPS,
    Verdict,
    count,
    hearing_verdict,
    interval_words,
    per_cent,
    place_name,
    promise_verdict,
)
from training.scored import Scored


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure with what it is and what it rests on."""

    name: str
    figure: str
    detail: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A place's verdicts, each with the figures behind it."""

    name: str
    promise: Verdict
    alarms: tuple[str, ...]
    hearing: Verdict
    faults: tuple[str, ...]


def tiles(data: ReportData) -> Iterator[Tile]:
    """False alarms, faults found, how well both are told apart, and how many clips say so."""
    clips = data.clips
    normal, faulty = (_decided(of_condition(clips, condition)) for condition in Condition)
    promises = sorted({rate for place in data.places if (rate := data.promised(place)) is not None})
    if normal:
        alarms = _alarms(normal)
        promise = (
            f"{' to '.join(f'{100 * rate:.3g}' for rate in dict.fromkeys((promises[0], promises[-1])))} % promised; "
        )
        yield Tile(
            "False alarms",
            f"{100 * alarms / len(normal):.0f} %",
            f"{promise}{alarms} of {count(len(normal), 'normal clip')}, {_interval(normal)}",
        )
    if faulty:
        hits = _alarms(faulty)
        detail = f"{hits} of {count(len(faulty), 'faulty clip')}, {_interval(faulty)}"
        yield Tile("Faults found", f"{100 * hits / len(faulty):.0f} %", detail)
    if data.mean_auc is not None:
        detail = f"mean AUC, 50 is chance; official score {per_cent(data.official_score)}"
        yield Tile("Told apart", per_cent(data.mean_auc), detail)
    gaps = [calibration_gap(*found) for place in data.places if (found := normal_p_values(data, place))]
    if gaps:
        detail = "sections and domains whose normal clips do not contradict it: their p-values are as chance allows"
        yield Tile("Calibration", f"{sum(gap <= bound for gap, bound in gaps)} of {len(gaps)}", detail)
    recordings = {clip.recording.recording for clip in clips}
    detail = f"of {count(len(recordings), 'recording')}, from {count(len(data.places), 'section and domain')}"
    if len(data.places) > 1:
        detail = f"of {count(len(recordings), 'recording')}, from {len(data.places)} sections and domains"
    yield Tile("Test clips", f"{len(clips):,}", detail)


def _decided(clips: list[Scored]) -> list[Scored]:
    return [clip for clip in clips if clip.decision is not None]


def _alarms(clips: list[Scored]) -> int:
    return sum(clip.decision is Decision.ANOMALOUS for clip in clips)


def _interval(clips: Sequence[Scored]) -> str:
    called = [clip.decision is Decision.ANOMALOUS for clip in clips]
    interval = rate_interval(called, [clip.recording.recording for clip in clips])
    return "of a single recording" if interval is None else interval_words(interval)


def findings(data: ReportData) -> Iterator[Finding]:
    """A line a place."""
    for row in data.own_rows:
        promised = data.promised(row_place(row))
        alarms: tuple[str, ...] = ()
        if row.false_alarm_rate is not None:
            rate = per_cent(row.false_alarm_rate, row.false_alarm_interval)
            alarms = (f"{rate} % of {count(row.normal, 'clip')}",)
        if promised is not None and alarms:
            alarms = (*alarms, f"{100 * promised:.3g} % promised")
        faults: tuple[str, ...] = ()
        if row.auc is not None:
            faults = (f"AUC {per_cent(row.auc, row.auc_interval)}", f"hits {per_cent(row.hit_rate, row.hit_interval)}")
        yield Finding(
            place_name(row_place(row)),
            promise_verdict(promised, row.false_alarm_rate, row.false_alarm_interval, row.normal),
            alarms,
            hearing_verdict(row.auc, row.auc_interval, row.normal),
            faults,
        )


def lead(found: Sequence[Finding]) -> str:
    """The findings in a few short sentences."""
    promise = _tally([finding.promise for finding in found], ("kept", "undecided", "broken", "not measured"))
    order = ("clearly", "partly", "undecided", "not heard", "not measured")
    hearing = _tally([finding.hearing for finding in found], order)
    places = "section and domain was" if len(found) == 1 else "sections and domains were"
    return f"{len(found)} {places} tested. False-alarm promise: {promise}. Faults heard: {hearing}."


def _tally(verdicts: Sequence[Verdict], order: Sequence[str]) -> str:
    found = Counter(verdict.short for verdict in verdicts)
    if len(found) == 1:
        return verdicts[0].short
    return ", ".join(f"{short} in {found[short]}" for short in order if found[short])


def cautions(data: ReportData) -> Iterator[str]:
    """What must be known before the figures are believed."""
    if data.manifest.demonstration:
        yield "This is a demonstration bundle: it knows generated sounds only, and says nothing of a real machine."
    if not data.faults:
        yield (
            "No faulty clip is among the test recordings. Whether faults are heard cannot be told; whether normal "
            "operation stays quiet can."
        )
    few = [row for row in data.own_rows if 0 < row.normal < FEW_CLIPS]
    if few:
        yield (
            f"Fewer than {FEW_CLIPS} normal test clips, so that a false-alarm rate is rough: "
            f"{'; '.join(f'{place_name(row_place(row))} ({row.normal})' for row in few)}."
        )
    behind = {
        place: len(data.calibrations[place].calibration.scores) for place in data.places if place in data.calibrations
    }
    few_behind = [f"{place_name(place)} ({clips})" for place, clips in behind.items() if clips < FEW_CLIPS]
    if few_behind:
        yield (
            f"Fewer than {FEW_CLIPS} training clips stand behind a threshold: {'; '.join(few_behind)}. From n clips no "
            "rate under 1 in n + 1 can be promised."
        )
    for name, what in _TRAINING.items():
        found = data.manifest.training_data.get(name)
        if isinstance(found, dict) and found:
            yield f"{what}: {', '.join(f'{who} {number}' for who, number in found.items())}."
    yield from data.notes


_TRAINING = {
    "scale_limited_epochs": "An AdaCos scale met its limit in training, by network in so many epochs",
    "dropped_components": "Mixture components that no clip belongs to were dropped, by machine type",
}
