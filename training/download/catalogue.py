"""Which records on Zenodo make up a year of the challenge."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from models.errors import DataError

API = "https://zenodo.org/api"


class Part(StrEnum):
    """A part of a year's data: each is one record."""

    DEV = "dev"
    ADDITIONAL = "additional"
    EVAL = "eval"
    LABELS = "labels"

    @property
    def folder(self) -> str:
        """Where it lies in the tree: training and test clips of the evaluation set stand side by side."""
        return {Part.DEV: "dev_data", Part.LABELS: "ground_truth"}.get(self, "eval_data")


_PARTS = (Part.DEV, Part.ADDITIONAL, Part.EVAL, Part.LABELS)
RECORDS: Mapping[int, Mapping[Part, int]] = {
    2020: dict(zip(_PARTS, (3678171, 3727685, 3841772, 3951620), strict=True)),
    2021: dict(zip(_PARTS, (4562016, 4660992, 4884786, 5257674), strict=True)),
    2022: dict(zip(_PARTS[:3], (6355122, 6462969, 6586456), strict=True)),
    2023: dict(zip(_PARTS[:3], (7882613, 7830345, 7860847), strict=True)),
    2024: dict(zip(_PARTS[:3], (10902294, 11259435, 11363076), strict=True)),
    2025: dict(zip(_PARTS[:3], (15097779, 15392814, 15519362), strict=True)),
}
"""Record numbers by year and part. From 2022 on the labels of the evaluation set are in no record."""


def numbers_of(year: int, parts: Sequence[Part]) -> dict[Part, int]:
    """Record numbers of the ``parts`` of a year, in their own order; all that there are where none is named.

    Raises
    ------
    DataError : for labels that no record holds.
    """
    known = RECORDS[year]
    if missing := [part for part in parts if part not in known]:
        raise DataError(
            f"The {missing[0]} of {year} are in no record: the challenge gives them with its evaluator "
            f"(dcase{year}_task2_evaluator). Leave --part {missing[0]} out."
        )
    return {part: number for part, number in known.items() if not parts or part in parts}
