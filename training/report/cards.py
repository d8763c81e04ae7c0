"""The clips that are shown: each with its picture, its sound, and why it stands there."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from models.vocabulary import Condition, Decision
from training.report.choice import Chosen, Wrong, choose
from training.report.contents import ReportData, place_of
from training.report.sounds import sound_of, spectrogram_panel
from training.report.theme import Plate
from training.report.words import count, place_name, signed


@dataclass(frozen=True, slots=True)
class Card:
    """A clip on the page; ``plate`` is its picture, ``flac`` its sound in base64."""

    wrong: Wrong
    heading: str
    reason: str
    path: str
    facts: tuple[tuple[str, str], ...]
    plate: Plate
    flac: str
    gain_db: float


def cards(data: ReportData) -> Iterator[Card]:
    """The clips most wrongly scored, see `choose`.

    Raises
    ------
    AudioError, OSError : where a clip cannot be read any more.
    """
    front_end = data.manifest.front_end.spec()
    for number, chosen in enumerate(choose(data.clips, data.p_value), start=1):
        clip, place = chosen.clip, place_of(chosen.clip)
        sound = sound_of(clip, front_end.channel)
        condition = "faulty" if clip.recording.condition is Condition.ANOMALY else "normal"
        panel = spectrogram_panel(
            f"a {condition} clip of {place_name(place)}", sound, front_end, data.calibrations.get(place)
        )
        yield Card(
            wrong=chosen.wrong,
            heading=f"{place_name(place)}: {chosen.wrong}",
            reason=reason(chosen, data.p_value(clip)),
            path=clip.recording.path.as_posix(),
            facts=tuple(_facts(data, chosen, sound.level_dbfs)),
            plate=Plate(
                f"clip-{number:02d}", f"{place_name(place)}: {chosen.wrong}", [panel], width_in=4.5, height_in=1.95
            ),
            flac=base64.b64encode(sound.flac).decode("ascii"),
            gain_db=sound.gain_db,
        )


def reason(chosen: Chosen, p_value: float | None) -> str:
    """Why this clip is shown, in a sentence."""
    others = "faulty" if chosen.wrong is Wrong.ALARMED else "normal"
    if chosen.wrong is Wrong.HIGHEST:
        return (
            "It is normal and scores as few normal clips do."
            if p_value is None
            else f"It is normal, and about {100 * p_value:.2g} % of normal clips are expected to score as high."
        )
    which = f"{chosen.beaten} of {count(chosen.others, others + ' clip')}"
    if chosen.wrong is Wrong.ALARMED:
        return f"It is normal, but {which} of its section and domain score no higher."
    return f"It is faulty, but {which} of its section and domain score at least as high."


def _facts(data: ReportData, chosen: Chosen, level_dbfs: float) -> Iterator[tuple[str, str]]:
    clip = chosen.clip
    rarity = data.p_value(clip)
    threshold = "none" if clip.threshold is None else signed(clip.threshold)
    yield "called", {None: "nothing", Decision.NORMAL: "normal", Decision.ANOMALOUS: "anomalous"}[clip.decision]
    yield "score", f"{signed(clip.decision_score)} (threshold {threshold})"
    yield "p-value", "–" if rarity is None else f"{rarity:.3f}"
    yield "level", f"{signed(level_dbfs)} dBFS"
    if not clip.recording.challenge:
        yield "from", f"{clip.start_s:g} s"
    if clip.recording.attribute:
        yield "attribute", clip.recording.attribute
