"""Test recordings scored by several systems, the same clips by each: the only maker of tables."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from models.errors import DataError
from models.vocabulary import Condition
from training.comparison import Group, difference, spreads, totals
from training.dcase2021 import recognise
from training.listing import listed
from training.measure import measure
from training.metrics import MIN_NORMAL_FOR_PARTIAL
from training.progress import Advance
from training.promises import Promising, promises
from training.recordings import Place, Recording
from training.resampling import Draws
from training.scored import Composed, Contender, Descended, Scored
from training.tables import Evaluation, System

_Groups: TypeAlias = Mapping[Place, list[Recording]]
_Reasons: TypeAlias = Mapping[Place, str]
"""Why a contender lacks a place, for those that it lacks."""
_Position: TypeAlias = tuple[Path, float]


def evaluate(contenders: Sequence[Contender], recordings: Sequence[Recording], *, advance: Advance) -> Evaluation:
    """Score test recordings by each contender, and measure.

    A contender that lacks one recording of a section and domain lacks the whole group, so that in each group all that
    have it scored the same clips. Recordings whose domain is not told are left out, and said: a score is of a domain.

    Parameters
    ----------
    contenders : ready to score, the system in question first; they stay open.
    recordings : for testing, see `training.test_clips.test_recordings`; without anomalies there are false-alarm rates
        and no AUC.
    advance : called with the number of recordings done, in all as many as there are recordings times contenders.

    Raises
    ------
    DataError : for a recording that cannot be decoded, naming it, for a contender that can score none of them, and
        where the domain of none is told.
    ValueError : for a contender that scored other clips than it was given, or than the one before.
    """
    labels = _labels(contenders)
    groups: defaultdict[Place, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if recording.domain_told:
            groups[recording.place].append(recording)
    nowhere = [recording for recording in recordings if not recording.domain_told]
    if not groups:
        raise DataError(" ".join(_without_domain(nowhere)))
    lacking = [_lacking(contender, label, groups) for contender, label in zip(contenders, labels, strict=True)]
    places = sorted(place for place in groups if any(place not in reasons for reasons in lacking))
    draws = {place: _draws(place, groups[place]) for place in places}
    heard: dict[Place, list[_Position]] = {}
    systems: list[System] = []
    measured: list[Group] = []
    for contender, label, reasons in zip(contenders, labels, lacking, strict=True):
        own = {place: groups[place] for place in places if place not in reasons}
        advance(len(recordings) - sum(map(len, own.values())))
        clips = _score(contender, label, own, heard, advance)
        found = {place: measure(contender, place, clips.get(place, []), draws[place]) for place in places}
        measured.append(found)
        systems.append(
            System(
                label=label,
                name=contender.name,
                bundle=contender.bundle,
                recipe=contender.recipe,
                seed=contender.seed,
                lineage=contender.lineage
                if isinstance(contender, Descended)
                else f"{contender.name} {contender.recipe}",
                rows=tuple(one.row for one in found.values()),
                parts=tuple(part for one in found.values() for part in one.parts),
                scored=tuple(clip for place in clips for clip in clips[place]),
                totals=totals(found),
                promises=tuple(promises(contender.calibrations, clips)) if isinstance(contender, Promising) else (),
            )
        )
    return Evaluation(
        systems=tuple(systems),
        differences=tuple(
            difference((labels[0], label), measured[0], other)
            for label, other in zip(labels[1:], measured[1:], strict=True)
        ),
        spread=spreads(systems),
        data_sets=recognise(recording for place in places for recording in groups[place]),
        notes=(*_without_domain(nowhere), *_notes(systems, groups, lacking, draws)),
    )


def _labels(contenders: Sequence[Contender]) -> list[str]:
    """A unique label for each: its name and, among several of one name, what tells it apart.

    That is the recipe, the threshold rule, the seed, the number of members or the bundle.
    """
    labels = []
    for contender in contenders:
        namesakes = [other for other in contenders if other.name is contender.name]
        words = [contender.name.value]
        if len({other.recipe for other in namesakes}) > 1:
            words.append(contender.recipe or "without recipe")
        if len({_rule(other) for other in namesakes if other.recipe == contender.recipe}) > 1:
            words.append(_rule(contender) or "without rule")
        if len({other.seed for other in namesakes}) > 1:
            words.append("without seed" if contender.seed is None else f"seed {contender.seed}")
        sizes = {_members(other) for other in namesakes if _recipe_of(other) == _recipe_of(contender)} - {None}
        if len(sizes) > 1:
            words.append(f"{_members(contender)} members")
        if any(other.bundle != contender.bundle and _alike(other) == _alike(contender) for other in namesakes):
            words.append(contender.bundle[:8] if contender.bundle else "no bundle")
        labels.append(" ".join(words))
    counts: Counter[str] = Counter()
    for place, label in enumerate(labels):
        counts[label] += 1
        if counts[label] > 1:
            labels[place] = f"{label} ({counts[label]})"
    return labels


def _recipe_of(contender: Contender) -> tuple[str | None, str | None]:
    return contender.recipe, _rule(contender)


def _alike(contender: Contender) -> tuple[object, ...]:
    """What a label tells of a contender, but for its bundle."""
    return *_recipe_of(contender), contender.seed, _members(contender)


def _members(contender: Contender) -> int | None:
    return contender.members if isinstance(contender, Composed) else None


def _rule(contender: Contender) -> str | None:
    return contender.rule if isinstance(contender, Promising) else None


def _lacking(contender: Contender, label: str, groups: _Groups) -> dict[Place, str]:
    reasons: dict[Place, str] = {}
    for place, recordings in groups.items():
        found = [reason for recording in recordings if (reason := contender.lacks(recording)) is not None]
        if found:
            reasons[place] = found[0]
    if len(reasons) == len(groups):
        told = " ".join(_left_out(reasons, groups))
        raise DataError(
            f"{label} can score none of the {sum(map(len, groups.values()))} test recordings. {told} Give recordings "
            "of sections that it knows, or the system that was trained for yours."
        )
    return reasons


def _draws(place: Place, recordings: Sequence[Recording]) -> dict[Condition, Draws | None]:
    return {
        condition: Draws.of((one.recording for one in recordings if one.condition is condition), *place, condition)
        for condition in Condition
    }


def _score(
    contender: Contender, label: str, groups: _Groups, heard: dict[Place, list[_Position]], advance: Advance
) -> dict[Place, list[Scored]]:
    """The clips of each place in the order of their files; ``heard`` holds those of the contenders before."""
    clips: dict[Place, list[Scored]] = {place: [] for place in groups}
    for clip in contender.score([recording for own in groups.values() for recording in own], advance):
        clips[clip.recording.place].append(clip)
    for place, own in clips.items():
        own.sort(key=_position)
        positions = [_position(clip) for clip in own]
        given = {recording.path for recording in groups[place]}
        if {path for path, _ in positions} != given or heard.setdefault(place, positions) != positions:
            raise ValueError(f"{label} scored other clips of {_words(place)} than it was given, or than other systems.")
    return clips


def _position(clip: Scored) -> _Position:
    return clip.recording.path, clip.start_s


def _left_out(reasons: _Reasons, groups: _Groups) -> Iterator[str]:
    """A sentence a reason."""
    by_reason: defaultdict[str, list[Place]] = defaultdict(list)
    for place, reason in sorted(reasons.items()):
        by_reason[reason].append(place)
    for reason, places in by_reason.items():
        count = sum(len(groups[place]) for place in places)
        yield f"{count} test recordings of {listed(map(_words, places))} left out: {reason}."


def _without_domain(recordings: Sequence[Recording]) -> Iterator[str]:
    """A sentence where there are any."""
    if recordings:
        sections = listed(dict.fromkeys(f"{one.machine_type} {one.section}" for one in sorted(recordings)))
        yield (
            f"{len(recordings)} test recordings of {sections} do not tell whether they are of the source or the target "
            f"domain ({recordings[0].path.name}), and are left out. --ground-truth reads the challenge's domains; of "
            "recordings of your own say it in a manifest."
        )


def _notes(
    systems: Sequence[System],
    groups: _Groups,
    lacking: Sequence[_Reasons],
    draws: Mapping[Place, Mapping[Condition, Draws | None]],
) -> Iterator[str]:
    """What was left out, and why."""
    by_place = list(zip(*(system.rows for system in systems), strict=True))
    there = sum(any(row.auc is not None for row in rows) for rows in by_place)
    for system, reasons in zip(systems, lacking, strict=True):
        who = f"{system.label}: " if len(systems) > 1 else ""
        yield from (f"{who}{told}" for told in _left_out(reasons, groups))
        measured = sum(row.auc is not None for row in system.rows)
        if measured < there:
            yield f"{who}its means are over {measured} of {there} groups; the differences are over shared groups."
    few = {
        _words(rows[0].place): normal
        for rows in by_place
        if any(row.official_pauc is not None for row in rows)
        and (normal := max(row.normal for row in rows)) < MIN_NORMAL_FOR_PARTIAL
    }
    if few:
        told = listed(f"{words} ({normal})" for words, normal in few.items())
        yield (
            f"pAUC is left out where fewer than {MIN_NORMAL_FOR_PARTIAL} normal clips are: {told}. The official score "
            "alone counts it, as the challenge defines that."
        )
    for condition in Condition:
        single = [
            place
            for place, drawn in draws.items()
            if drawn[condition] is None and any(one.condition is condition for one in groups[place])
        ]
        if single:
            told = listed(map(_words, single))
            yield (
                f"All clips that are {condition} are of one recording at {told}: how much another would differ is not "
                "known, and figures that hang on it have no interval."
            )
    unknown = sum(one.condition is None for own in groups.values() for one in own)
    if unknown:
        yield (
            f"{unknown} test recordings are scored and not counted: whether they are normal is not told. "
            "--ground-truth reads the challenge's labels."
        )


def _words(place: Place) -> str:
    return " ".join(place)
