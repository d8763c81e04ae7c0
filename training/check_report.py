"""What a check of recordings reports: counts, problems, what each section can support, and the verdict; and as text."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

from models.vocabulary import NO_ATTRIBUTE, SectionKey, Split
from training.backends import MOST_TARGET_CLIPS

_LISTED_NOTES = 5
"""Files named for each kind of `_COMMON` note; every other finding names its own."""


class Severity(StrEnum):
    """Whether a problem must be mended."""

    ERROR = "error"
    NOTE = "note"


class Kind(Enum):
    """What can be found; the value says what it means and what to do."""

    REFUSED = "unknown name: mend the name or the row"
    UNREADABLE = "unreadable: record or export it again"
    TOO_SHORT = "too short: record at least 2 s, better 10 s"
    TOO_LONG = "too long: cut it into several files, in a manifest under one name in the column 'recording'"
    SILENT = "silent: check that the microphone was connected"
    DUPLICATE = "duplicate content: keep one of the files"
    CLIPPED = "clipped: lower the microphone's gain"
    UNLABELLED = "label missing: not known to be normal or anomalous, evaluate leaves it out"
    RATE_BELOW = "recorded below 16 kHz: its upper frequencies are empty, do not mix it with other rates"
    RATE_ABOVE = "recorded above 16 kHz: converted, fit to train on"
    CHANNELS = "several channels: averaged"
    SHORT = "shorter than 10 s: repeated"
    LONG = "longer than 10 s: cut, or of a challenge's clip the first 10 s used"


_COMMON = frozenset({Kind.RATE_BELOW, Kind.RATE_ABOVE, Kind.CHANNELS, Kind.SHORT, Kind.LONG})
"""Facts that all recordings of a plant may share."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: ``where`` is a file, or a manifest's line for a row without one."""

    severity: Severity
    kind: Kind
    where: str
    detail: str


@dataclass(frozen=True, slots=True)
class SectionSummary:
    """What a section has to train on, and ``advice``, a sentence each, where that limits what can be promised.

    ``source_clips``, ``target_clips``: usable ten-second training clips. ``smallest_false_alarm_rate``: the least that
    its recordings support, 1/(source_clips + 1); None where no threshold can be given.
    """

    key: SectionKey
    source_clips: int
    target_clips: int
    recordings: int
    smallest_false_alarm_rate: float | None
    advice: tuple[str, ...]


Count = tuple[str, str, str, Split, str, str]
"""Machine type, section, domain or "unknown", split, condition or "unlabelled", attribute name."""


class Verdict(StrEnum):
    """The last line of a check."""

    READY = "ready"
    PROVISIONAL = "usable, provisional"
    NOT_TRAINABLE = "not trainable"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All that `check_recordings` found. ``reasons``: why the verdict is not "ready"."""

    counts: Mapping[Count, int]
    problems: tuple[Problem, ...]
    sections: tuple[SectionSummary, ...]
    advice: tuple[str, ...]
    verdict: Verdict
    reasons: tuple[str, ...]

    @property
    def trainable(self) -> bool:
        """Whether `train` would accept the recordings."""
        return self.verdict is not Verdict.NOT_TRAINABLE

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What must be mended."""
        return tuple(problem for problem in self.problems if problem.severity is Severity.ERROR)

    @property
    def notes(self) -> tuple[Problem, ...]:
        """What is good to know."""
        return tuple(problem for problem in self.problems if problem.severity is Severity.NOTE)

    def as_text(self) -> str:
        """For a person; the last line is the verdict."""
        return "\n".join([*_counts_text(self.counts), *_sections_text(self.sections), *self._findings_text()])

    def _findings_text(self) -> Iterator[str]:
        for name, problems in (("errors", self.errors), ("notes", self.notes)):
            if problems:
                yield f"{name} ({len(problems)})"
                yield from _problems_text(problems)
        yield from self.advice
        if self.verdict is Verdict.READY:
            yield "ready"
        else:
            yield f"{self.verdict}{' because' if not self.trainable else ':'} {'; '.join(self.reasons)}"


def numbered(count: int, one: str, many: str | None = None) -> str:
    """``3 files``, ``1 file``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def _counts_text(counts: Mapping[Count, int]) -> Iterator[str]:
    """A line for each section, domain, split and condition; its attributes below it."""
    groups: dict[tuple[str, str, str, str, str], dict[str, int]] = defaultdict(dict)
    for (machine_type, section, domain, split, condition, attribute), count in counts.items():
        groups[machine_type, section, domain, split, condition][attribute] = count
    for names, attributes in groups.items():
        yield f"{' '.join(f'{name:<8}' for name in names)} {sum(attributes.values()):>6} recordings"
        if len(attributes) > 1 or next(iter(attributes)) != NO_ATTRIBUTE:
            yield "    " + ", ".join(f"{name} {count}" for name, count in attributes.items())


def _sections_text(sections: Iterable[SectionSummary]) -> Iterator[str]:
    for section in sections:
        rate = section.smallest_false_alarm_rate
        yield (
            f"{section.key.machine_type} section {section.key.section}: "
            f"{numbered(section.source_clips, 'source clip')} of {numbered(section.recordings, 'recording')}, "
            f"{numbered(section.target_clips, 'target clip')}, "
            + ("no false-alarm rate can be supported" if rate is None else f"smallest false-alarm rate {rate:.3f}")
        )
        yield from (f"    {sentence}." for sentence in section.advice)
        if section.target_clips > MOST_TARGET_CLIPS:
            yield f"    {MOST_TARGET_CLIPS} of its target clips, evenly spread, are the means of the target mixture."


def _problems_text(problems: Iterable[Problem]) -> Iterator[str]:
    of_kind: dict[Kind, list[Problem]] = defaultdict(list)
    for problem in problems:
        of_kind[problem.kind].append(problem)
    for kind, own in of_kind.items():
        yield f"  {kind.value} ({len(own)})"
        shown = own[:_LISTED_NOTES] if kind in _COMMON else own
        yield from (f"    {problem.where}: {problem.detail}" for problem in shown)
        if more := len(own) - len(shown):
            yield f"    and {more} more"
