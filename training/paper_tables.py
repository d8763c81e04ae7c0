"""The paper's own figures, Tables 2 to 5: AUC and pAUC, per cent as printed, harmonic means over sections.

The paper's "slide rail" is ``slider``. Its rows of single sections are not here: the text at hand garbles some of them.
Each column's last row is the harmonic mean of the seven above it, to its rounding: that is how the figures were proved.
The paper prints official scores of 56.38 and 54.77 for the baselines, where its own columns give 56.37 and 54.78.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from models.vocabulary import Domain, LossChoice
from training.dcase2021 import DataSet
from training.metrics import official_score
from training.scored import PartKind, PartName, SystemName

Figures: TypeAlias = tuple[float | None, float | None]
"""AUC and pAUC, per cent; None for what the text at hand has lost."""

ALL = "all"
"""The last row: over all machine types."""

ENSEMBLE = "ensemble"
"""The column of Tables 3 and 4 for the whole system."""

_BASELINES_AND_PROPOSED = (SystemName.AUTOENCODER, SystemName.MOBILENETV2, SystemName.EARWITNESS)

_TABLE_2: Mapping[str, tuple[float, ...]] = {
    "ToyCar": (62.49, 52.36, 56.04, 56.37, 78.37, 66.64),
    "ToyTrain": (61.71, 53.81, 57.46, 51.61, 77.17, 60.71),
    "fan": (63.24, 53.38, 61.56, 63.02, 74.66, 67.34),
    "gearbox": (65.97, 52.76, 66.70, 59.16, 76.13, 56.00),
    "pump": (61.92, 54.41, 61.89, 57.37, 76.59, 63.00),
    "slider": (66.74, 55.94, 59.26, 56.00, 80.16, 63.86),
    "valve": (53.41, 50.54, 56.51, 52.64, 81.13, 64.92),
    ALL: (61.93, 53.27, 59.72, 56.37, 77.69, 62.99),
}
"""Development set, both domains: autoencoder, MobileNetV2, proposed."""

_TABLE_5: Mapping[tuple[str, Domain], tuple[float, ...]] = {
    ("ToyCar", Domain.SOURCE): (76.33, 51.26, 34.32, 53.49, 67.07, 63.05),
    ("ToyCar", Domain.TARGET): (58.02, 53.42, 56.62, 58.89, 72.83, 63.77),
    ("ToyTrain", Domain.SOURCE): (69.89, 55.49, 47.30, 52.49, 70.87, 56.19),
    ("ToyTrain", Domain.TARGET): (67.18, 59.78, 39.27, 48.75, 48.38, 52.39),
    ("fan", Domain.SOURCE): (66.58, 51.36, 70.88, 57.76, 89.07, 69.85),
    ("fan", Domain.TARGET): (55.74, 49.68, 59.96, 58.53, 88.89, 70.55),
    ("gearbox", Domain.SOURCE): (67.81, 55.71, 53.16, 53.47, 61.19, 50.97),
    ("gearbox", Domain.TARGET): (63.32, 58.06, 49.27, 49.83, 54.68, 49.40),
    ("pump", Domain.SOURCE): (62.75, 51.18, 67.12, 60.77, 70.89, 65.52),
    ("pump", Domain.TARGET): (54.43, 50.79, 68.85, 59.79, 79.20, 67.81),
    ("slider", Domain.SOURCE): (64.13, 50.91, 73.06, 60.47, 88.06, 64.38),
    ("slider", Domain.TARGET): (51.65, 51.92, 72.78, 60.94, 85.66, 69.69),
    ("valve", Domain.SOURCE): (51.56, 50.89, 54.71, 53.03, 73.19, 55.97),
    ("valve", Domain.TARGET): (52.19, 49.27, 51.64, 50.10, 54.90, 51.47),
    (ALL, Domain.SOURCE): (64.76, 52.32, 53.82, 55.73, 73.13, 60.21),
    (ALL, Domain.TARGET): (57.03, 53.01, 54.80, 54.80, 65.76, 59.47),
}
"""Evaluation set: autoencoder, MobileNetV2, proposed."""

_SECTION, _ATTRIBUTE = (PartKind.TERM, "section"), (PartKind.TERM, "attribute")
_TARGET = (PartKind.TERM, "target")
_SECTIONS_LOSS = (PartKind.LOSS, LossChoice.SECTIONS.value)
_BOTH_LOSSES = (PartKind.LOSS, LossChoice.BOTH_HEADS.value)

_TABLE_3: Mapping[tuple[str, Domain], tuple[Figures, Figures]] = {
    ("ToyCar", Domain.SOURCE): ((82.49, 65.82), (86.22, 69.39)),
    ("ToyCar", Domain.TARGET): ((65.02, 58.45), (76.02, 64.13)),
    ("ToyTrain", Domain.SOURCE): ((90.54, 65.60), (91.55, 66.11)),
    ("ToyTrain", Domain.TARGET): ((54.03, 53.21), (68.13, 57.29)),
    ("fan", Domain.SOURCE): ((81.05, 73.34), (80.55, 72.12)),
    ("fan", Domain.TARGET): ((67.52, 65.71), (69.17, 60.20)),
    ("gearbox", Domain.SOURCE): ((75.20, 58.63), (75.66, 55.65)),
    ("gearbox", Domain.TARGET): ((81.02, 57.93), (75.68, 55.34)),
    ("pump", Domain.SOURCE): ((83.63, 70.60), (83.83, 70.83)),
    ("pump", Domain.TARGET): ((69.90, 60.11), (70.16, 55.51)),
    ("slider", Domain.SOURCE): ((91.10, 76.23), (90.97, 75.59)),
    ("slider", Domain.TARGET): ((65.90, 56.17), (71.63, None)),
    ("valve", Domain.SOURCE): ((83.85, 73.84), (89.34, 68.89)),
    ("valve", Domain.TARGET): ((71.66, 61.64), (73.31, 59.16)),
    (ALL, Domain.SOURCE): ((83.67, 68.66), (85.09, 67.81)),
    (ALL, Domain.TARGET): ((67.00, 58.80), (71.90, 57.93)),
}
"""Development set: the section's distribution, then the attributes' in the source and the target clips' in the target
domain."""

_TABLE_4: Mapping[tuple[str, Domain], tuple[Figures, Figures, Figures]] = {
    ("ToyCar", Domain.SOURCE): ((74.49, 60.67), (88.58, 71.58), (85.04, 69.25)),
    ("ToyCar", Domain.TARGET): ((67.44, 61.55), (75.53, 65.84), (73.21, 64.55)),
    ("ToyTrain", Domain.SOURCE): ((86.88, 62.00), (91.15, 67.03), (91.30, 66.01)),
    ("ToyTrain", Domain.TARGET): ((63.73, 54.18), (68.10, 56.43), (66.81, 56.14)),
    ("fan", Domain.SOURCE): ((81.66, 73.16), (80.22, 72.60), (80.98, 73.20)),
    ("fan", Domain.TARGET): ((69.11, 62.55), (69.00, 61.16), (69.30, 62.20)),
    ("gearbox", Domain.SOURCE): ((74.97, 57.04), (75.34, 56.16), (75.88, 56.46)),
    ("gearbox", Domain.TARGET): ((78.53, 59.53), (72.02, 51.90), (76.64, 55.59)),
    ("pump", Domain.SOURCE): ((83.44, 69.75), (83.75, 71.35), (83.70, 70.66)),
    ("pump", Domain.TARGET): ((68.77, 56.31), (71.30, 56.34), (70.52, 56.81)),
    ("slider", Domain.SOURCE): ((90.44, 74.91), (90.99, 76.43), (91.11, 76.20)),
    ("slider", Domain.TARGET): ((68.84, 54.44), (73.13, 55.41), (71.56, 54.94)),
    ("valve", Domain.SOURCE): ((88.90, 72.11), (89.51, 68.95), (89.33, 70.77)),
    ("valve", Domain.TARGET): ((75.41, 61.12), (72.36, 56.55), (74.26, 60.00)),
    (ALL, Domain.SOURCE): ((82.54, 66.44), (85.26, 68.58), (85.00, 68.38)),
    (ALL, Domain.TARGET): ((69.96, 58.34), (71.56, 57.37), (71.63, 58.41)),
}
"""Development set: networks with the section head, with both heads, and the ensemble, which is Table 3's too."""


def system_figures(data_set: DataSet, machine_type: str, domain: Domain | None) -> Mapping[SystemName, Figures]:
    """What the paper prints of the baselines and the proposed system; empty for a row that it does not have.

    Parameters
    ----------
    machine_type : or `ALL`.
    domain : None for both. By domain the development set has the proposed system alone (Table 3), the evaluation set
        all three, and for both domains none.
    """
    if data_set is DataSet.DEVELOPMENT and domain is not None:
        return {SystemName.EARWITNESS: _TABLE_4[machine_type, domain][2]}
    if data_set is DataSet.DEVELOPMENT:
        return _by_system(_TABLE_2[machine_type])
    return {} if domain is None else _by_system(_TABLE_5[machine_type, domain])


def part_figures(machine_type: str, domain: Domain) -> Mapping[PartName | str, Figures]:
    """Tables 3 and 4 of a machine type or `ALL`, development set: by term, by loss, and under `ENSEMBLE`."""
    section, other = _TABLE_3[machine_type, domain]
    sections, both, ensemble = _TABLE_4[machine_type, domain]
    return {
        _SECTION: section,
        (_ATTRIBUTE if domain is Domain.SOURCE else _TARGET): other,
        _SECTIONS_LOSS: sections,
        _BOTH_LOSSES: both,
        ENSEMBLE: ensemble,
    }


def official_scores(data_set: DataSet) -> Mapping[SystemName, float]:
    """The official scores that the paper's last rows give, per cent."""
    domains = [None] if data_set is DataSet.DEVELOPMENT else list(Domain)
    rows = [system_figures(data_set, ALL, domain) for domain in domains]
    scores = {
        name: official_score([row[name][0] for row in rows], [row[name][1] for row in rows])
        for name in _BASELINES_AND_PROPOSED
    }
    return MappingProxyType({name: score for name, score in scores.items() if score is not None})


def _by_system(row: tuple[float, ...]) -> Mapping[SystemName, Figures]:
    pairs = zip(row[::2], row[1::2], strict=True)
    return dict(zip(_BASELINES_AND_PROPOSED, pairs, strict=True))
