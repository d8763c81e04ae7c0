"""The recordings of a data set or a plant: which machine, section, domain and condition each file belongs to.

A tree in any of the yearly layouts of the DCASE challenge is read by its names alone, a CSV manifest by its columns
(`training.manifests`); no sound is opened. Layouts, under a folder a machine type, which may be the tree itself, lie in
it, or lie below ``dev_data`` and ``eval_data`` in it:

- 2020: ``{train,test}/{normal,anomaly}_id_XX_NNNNNNNN.wav``
- 2021: ``{train,source_test,target_test}/section_SS_<domain>_<split>_<condition>_NNNN_<attribute>.wav``
- 2022 and later: the same names in ``{train,test}``; evaluation tests are ``section_SS_NNNN.wav``, without label or
  domain
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.audio import MAX_CLIP_S
from models.commands import shell_line
from models.errors import DataError, InvalidName, NotTrainable
from models.vocabulary import NO_ATTRIBUTE, Condition, Domain, SectionKey, Split, check_name

SUFFIXES = frozenset({".wav", ".flac", ".ogg"})
MAX_RECORDING_S = 3600.0
"""A plant's own recordings are decoded whole to be cut: longer ones belong in several files of one ``recording``."""

Place = tuple[str, str, Domain]
"""Machine type, section and domain: recordings that are calibrated and measured together."""

AttributeClass = tuple[str, ...]
"""(machine type, text of the attribute), or (machine type, ``noAttribute``, section)."""

_SHOWN_REFUSALS = 20
_NAMELESS = frozenset({"", "none", NO_ATTRIBUTE})
_FOLDERS = {
    "train": (Split.TRAIN, None),
    "test": (Split.TEST, None),
    "source_test": (Split.TEST, Domain.SOURCE),
    "target_test": (Split.TEST, Domain.TARGET),
}
_SECTION = re.compile(
    r"section_(?P<section>[^_]+)_(?P<domain>source|target)_(?P<split>train|test)_(?P<condition>normal|anomaly)_\d+"
    r"(?:_(?P<attribute>.*))?"
)
_UNLABELLED = re.compile(r"section_(?P<section>[^_]+)_(?:(?P<domain>source|target)_test_)?\d+")
_YEAR_2020 = re.compile(r"(?:(?P<condition>normal|anomaly)_)?id_(?P<section>[^_]+)_\d+")


@dataclass(frozen=True, slots=True, order=True)
class Recording:
    """One file and what is known of it.

    ``condition``: None where it is not told (evaluation sets). ``attribute``: the raw text that names the operating
    condition, empty for none. ``recording``: what no fold may split. ``challenge``: of a challenge's layout, of which
    the first ten seconds are used; a plant's own recordings are cut into consecutive clips. ``domain_told``: false
    where neither name nor folder tells it (evaluation sets since 2022); ``domain`` means nothing then.
    """

    path: Path
    machine_type: str
    section: str
    domain: Domain
    split: Split
    condition: Condition | None
    attribute: str
    recording: str
    challenge: bool
    domain_told: bool = True

    @property
    def key(self) -> SectionKey:
        """Its section."""
        return SectionKey(self.machine_type, self.section)

    @property
    def place(self) -> Place:
        """Its machine type, section and domain."""
        return self.machine_type, self.section, self.domain

    @property
    def max_duration_s(self) -> float:
        """The longest that its file may be."""
        return MAX_CLIP_S if self.challenge else MAX_RECORDING_S

    @property
    def attribute_name(self) -> str:
        """Its attribute as a section's model calls it."""
        return NO_ATTRIBUTE if self.attribute in _NAMELESS else self.attribute

    @property
    def attribute_class(self) -> AttributeClass:
        """(machine type, text as it stands), merged across sections; without attribute each section is its own."""
        if self.attribute in _NAMELESS:
            return (self.machine_type, NO_ATTRIBUTE, self.section)
        return (self.machine_type, self.attribute)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file, folder or line (``where``) that is no recording, with the value and the remedy (``reason``)."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found: recordings, and what was refused."""

    recordings: tuple[Recording, ...]
    refusals: tuple[Refusal, ...]


def read_recordings(
    data: Sequence[Path], *, machine_type: str | None = None, section: str | None = None
) -> list[Recording]:
    """Read trees and CSV manifests, in the order given, each sorted by path.

    Parameters
    ----------
    data : folders in a challenge's layout, or manifests.
    machine_type, section : for manifest rows that do not say it.

    Raises
    ------
    DataError : for all that cannot be read, naming file, line and value.
    """
    found = survey(data, machine_type=machine_type, section=section)
    if found.refusals:
        more = len(found.refusals) - _SHOWN_REFUSALS
        raise DataError(
            "\n".join(map(str, found.refusals[:_SHOWN_REFUSALS]))
            + (f"\nand {more} more: '{shell_line('training check')}' lists all." if more > 0 else "")
        )
    return list(found.recordings)


def training_recordings(recordings: Sequence[Recording]) -> tuple[Recording, ...]:
    """The recordings to train on.

    Raises
    ------
    NotTrainable : where there are none, or none of a section's usual condition.
    """
    training = tuple(recording for recording in recordings if recording.split is Split.TRAIN)
    if not training:
        raise NotTrainable(
            f"None of the {len(recordings)} recordings is for training. Put normal recordings into 'train' "
            "folders, or say 'train' in the manifest's column 'split'."
        )
    if all(recording.domain is Domain.TARGET for recording in training):
        raise NotTrainable(
            f"All {len(training)} training recordings are of the domain 'target'. A section is learned from its "
            "'source' recordings, those of its usual condition: say 'source' of them."
        )
    return training


def survey(data: Sequence[Path], *, machine_type: str | None = None, section: str | None = None) -> Survey:
    """Read what `read_recordings` reads, and keep what is refused beside it instead of stopping there.

    Raises
    ------
    DataError : for a place that is neither a tree with recordings nor a manifest.
    """
    from training.manifests import read_manifest  # it makes the recordings of this module

    recordings: dict[Path, Recording] = {}
    refusals: list[Refusal] = []
    for place in data:
        if place.is_dir():
            found = _read_tree(place)
        elif place.is_file():
            found = read_manifest(place, machine_type=machine_type, section=section)
        else:
            raise DataError(f"{place} does not exist. Name a folder of recordings or a CSV manifest.")
        refusals.extend(found.refusals)
        for recording in found.recordings:
            if recording.path in recordings:
                refusals.append(Refusal(str(recording.path), f"{place} names it once more. Name each recording once."))
            recordings.setdefault(recording.path, recording)
    return Survey(tuple(recordings.values()), tuple(refusals))


def _read_tree(root: Path) -> Survey:
    recordings: list[Recording] = []
    refusals: list[Refusal] = []
    for folder in _clip_folders(root.resolve()):
        try:
            machine_type = check_name("machine type", folder.parent.name)
        except InvalidName as error:
            refusals.append(Refusal(str(folder.parent), str(error)))
            continue
        for path in sorted(folder.iterdir()):
            if is_clip_name(path.name):
                try:
                    recordings.append(_parse(path, machine_type))
                except (DataError, InvalidName) as error:
                    refusals.append(Refusal(str(path), str(error)))
    if not recordings and not refusals:
        raise DataError(
            f"{root} holds no recordings in a challenge's layout (<machine type>/train/section_00_source_train_normal_"
            "0000_<attribute>.wav). For recordings of your own draft a manifest: "
            f"{shell_line('training manifest FOLDER OUT.csv')}"
        )
    return Survey(tuple(sorted(recordings)), tuple(refusals))


def is_clip_name(name: str) -> bool:
    """Whether a file of this name is taken for a clip; what archives of some systems leave as ``._x.wav`` is not."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _clip_folders(root: Path) -> Iterator[Path]:
    """Folders named like a split, one to three levels down."""
    for pattern in ("*", "*/*", "*/*/*"):
        yield from sorted(f for f in root.glob(pattern) if f.name in _FOLDERS and f.is_dir())


def _parse(path: Path, machine_type: str) -> Recording:
    folder = path.parent.name
    split, domain = _FOLDERS[folder]
    for pattern in (_SECTION, _UNLABELLED, _YEAR_2020):
        if match := pattern.fullmatch(path.stem):
            found = match.groupdict()
            break
    else:
        raise DataError(
            "The name is none that any year of the challenge gives, for example section_00_source_train_normal_0000_"
            "<attribute>. Rename the file, or describe your recordings in a manifest."
        )
    named = Domain(found["domain"]) if found.get("domain") else None
    if domain and named and domain is not named:
        raise DataError(f"The name says {named.value!r}, the folder {folder!r}. Move or rename the file.")
    if found.get("split") and found["split"] != split:
        raise DataError(f"The name says {found['split']!r}, the folder {folder!r}. Move or rename the file.")
    condition = Condition(found["condition"]) if found.get("condition") else None
    if split is Split.TRAIN and condition is not Condition.NORMAL:
        raise DataError("A file for training must be named normal: only normal recordings are trained on.")
    attribute = found.get("attribute") or ""
    return Recording(
        path=path,
        machine_type=machine_type,
        section=check_name("section", found["section"]),
        domain=named or domain or Domain.SOURCE,
        split=split,
        condition=condition,
        attribute=check_name("attribute", attribute) if attribute else "",
        recording=str(path),
        challenge=True,
        domain_told=bool(named or domain) or pattern is _YEAR_2020,  # that year has one domain
    )
