"""What an evaluation found, as JSON, as the challenge's CSV files, and as a table to read.

Figures are fractions from 0 to 1, in the table per cent; what the clips do not define is null, in the table a dash.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.decision import decide
from models.vocabulary import Decision, Domain
from training.metrics import Interval, harmonic_mean, official_score
from training.recordings import Recording
from training.scored import PartKind, PartName, Scored, SystemName


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one section and domain, clips of unknown condition left out.

    ``auc_interval``, ``pauc_interval``: 95 %, from resampled recordings. ``false_alarm_interval``, ``hit_interval``:
    95 %, exact for independent clips, too narrow where many are of one recording.
    """

    system: SystemName
    bundle: str
    recipe: str | None
    seed: int | None
    machine_type: str
    section: str
    domain: Domain
    auc: float | None
    auc_interval: Interval | None
    pauc: float | None
    pauc_interval: Interval | None
    normal: int
    anomalous: int
    false_alarm_rate: float | None
    hit_rate: float | None
    false_alarm_interval: Interval | None
    hit_interval: Interval | None


_BINDING = tuple(Row.__dataclass_fields__)[:15]
"""The fields of a row in the JSON: a contract with who reads it. The rates' intervals stand beside, in ``rates``."""
_PLACE = ("machine_type", "section", "domain")


@dataclass(frozen=True, slots=True)
class Part:
    """AUC and pAUC of one term or loss alone, of one section and domain."""

    machine_type: str
    section: str
    domain: Domain
    kind: PartKind
    name: str
    auc: float | None
    pauc: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All that was measured; ``notes`` says what could not be."""

    rows: tuple[Row, ...]
    parts: tuple[Part, ...]
    scored: tuple[Scored, ...]
    notes: tuple[str, ...]

    def official_score(self) -> float | None:
        """Harmonic mean of all AUCs and pAUCs."""
        return official_score([row.auc for row in self.rows], [row.pauc for row in self.rows])

    def mean_auc(self) -> float | None:
        """Arithmetic mean of all AUCs."""
        aucs = [row.auc for row in self.rows if row.auc is not None]
        return float(np.mean(aucs)) if aucs else None

    def harmonic_means(self) -> dict[str, Any]:
        """Of all rows, of each domain, and of each machine type, there of both domains (Table 2) and each (Table 3)."""
        machine_types = sorted({row.machine_type for row in self.rows})
        return {
            "official_score": self.official_score(),
            **_means(self.rows),
            "domains": _by_domain(self.rows),
            "machine_types": {
                name: {**_means(own), **_by_domain(own)}
                for name in machine_types
                for own in [[row for row in self.rows if row.machine_type == name]]
            },
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``rows`` and ``harmonic_mean`` are the contract, what stands beside them adds detail."""
        rows = [asdict(row) for row in self.rows]
        return {
            "rows": [{name: row[name] for name in _BINDING} for row in rows],
            "harmonic_mean": self.harmonic_means(),
            "mean_auc": self.mean_auc(),
            "rates": [{name: row[name] for name in (*_PLACE, "false_alarm_interval", "hit_interval")} for row in rows],
            "parts": [asdict(part) for part in self.parts],
            "notes": list(self.notes),
        }

    def write_json(self, path: Path) -> None:
        """Write `to_json` into a file, which is replaced if it exists."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    def write_csvs(self, folder: Path) -> None:
        """Write the challenge's files: ``anomaly_score_*`` and ``decision_result_*``, a line a recording, no header.

        A recording that was cut has the mean of its clips' scores, and the decision that this mean gives. Without a
        threshold there is no file of decisions.
        """
        folder.mkdir(parents=True, exist_ok=True)
        groups: defaultdict[str, defaultdict[Recording, list[Scored]]] = defaultdict(lambda: defaultdict(list))
        for clip in self.scored:
            recording = clip.recording
            name = f"{recording.machine_type}_section_{recording.section}_{recording.domain}_test.csv"
            groups[name][recording].append(clip)
        for name, recordings in sorted(groups.items()):
            ordered = sorted(recordings.items())
            scores = [(_name(one), float(np.mean([clip.anomaly_score for clip in clips]))) for one, clips in ordered]
            _write_csv(folder / f"anomaly_score_{name}", scores)
            decisions = [(_name(one), _decision(clips)) for one, clips in ordered]
            if None not in {decision for _, decision in decisions}:
                _write_csv(folder / f"decision_result_{name}", decisions)

    def as_text(self) -> str:
        """Tables for a terminal, with what each line's clips can support."""
        lines = columns(
            ("machine type", "section", "domain", "normal", "anom.", "AUC", "pAUC", "false alarms", "hits"),
            [
                (
                    row.machine_type,
                    row.section,
                    row.domain,
                    str(row.normal),
                    str(row.anomalous),
                    _figure(row.auc, row.auc_interval),
                    _figure(row.pauc, row.pauc_interval),
                    _figure(row.false_alarm_rate, row.false_alarm_interval),
                    _figure(row.hit_rate, row.hit_interval),
                )
                for row in self.rows
            ],
        )
        means = self.harmonic_means()
        lines += [
            "",
            f"per cent, 95 % intervals; official score {_figure(means['official_score'])} "
            f"(harmonic means: AUC {_figure(means['auc'])}, pAUC {_figure(means['pauc'])}), "
            f"mean AUC {_figure(self.mean_auc())}",
        ]
        if any(row.auc is not None for row in self.rows):
            lines += ["", *columns(("harmonic means", "domain", "AUC", "pAUC"), _mean_lines(means))]
            labels = [f"{name} {kind}" for kind, name in self._part_names()]
            lines += [
                "",
                *columns(("AUC, pAUC of each part", "section", "domain", *labels), self._part_lines()),
            ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _part_names(self) -> list[PartName]:
        """Terms before losses, each in the order of its first appearance."""
        return sorted(
            dict.fromkeys((part.kind, part.name) for part in self.parts), key=lambda name: name[0], reverse=True
        )

    def _part_lines(self) -> list[tuple[str, ...]]:
        found = {(part.machine_type, part.section, part.domain, part.kind, part.name): part for part in self.parts}
        return [
            (*place, *(_both(found.get((*place, *name))) for name in self._part_names()))
            for place in dict.fromkeys((part.machine_type, part.section, part.domain) for part in self.parts)
        ]


def _means(rows: Iterable[Row]) -> dict[str, float | None]:
    rows = list(rows)
    return {"auc": harmonic_mean(row.auc for row in rows), "pauc": harmonic_mean(row.pauc for row in rows)}


def _by_domain(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    return {
        domain.value: _means(row for row in rows if row.domain is domain)
        for domain in Domain
        if any(row.domain is domain for row in rows)
    }


def _mean_lines(means: Mapping[str, Any]) -> list[tuple[str, ...]]:
    entries = [
        *means["machine_types"].items(),
        ("all", {**means["domains"], "auc": means["auc"], "pauc": means["pauc"]}),
    ]
    return [
        (name, domain, _figure(values["auc"]), _figure(values["pauc"]))
        for name, entry in entries
        for domain, values in [*((d.value, entry[d.value]) for d in Domain if d.value in entry), ("all", entry)]
    ]


def _figure(value: float | None, interval: Interval | None = None) -> str:
    """Per cent."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + ("" if interval is None else f" ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})")


def _both(part: Part | None) -> str:
    return "-" if part is None else f"{_figure(part.auc)}, {_figure(part.pauc)}"


def columns(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table for a terminal, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    table = [header, ["-" * width for width in widths], *lines]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _name(recording: Recording) -> str:
    """A challenge's files have names of their own; a plant's may share them between folders."""
    return recording.path.name if recording.challenge else recording.path.as_posix()


def _decision(clips: Sequence[Scored]) -> int | None:
    decision = decide(float(np.mean([clip.decision_score for clip in clips])), clips[0].threshold)
    return None if decision is None else int(decision is Decision.ANOMALOUS)


def _write_csv(path: Path, lines: Iterable[tuple[str, float | int | None]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
