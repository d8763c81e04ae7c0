"""What each member says of the clips that calibrate, kept in the work folder for who asks which members are marginal.

One ``.npz`` a choice of the recipe, named by its digest: a work folder may hold several bundles of the same networks.
Conventions: an array a section and domain and field, as in a bundle's ``calibration.npz``.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from models.bundle import Bundle, CalibrationKey
from models.errors import DataError
from models.vocabulary import ThresholdRule
from training.calibration import CalibrationScores
from training.storage import write_atomically

_FOLDER = "scores"


def keep_scores(
    work: Path, recipe: Mapping[str, JsonValue], scores: Mapping[CalibrationKey, CalibrationScores]
) -> None:
    """Keep the scores that the bundle of ``recipe``, as its manifest has it, is calibrated on."""
    arrays: dict[str, NDArray[Any]] = {}
    for place, one in scores.items():
        prefix = _prefix(place)
        arrays[prefix + "by_member"], arrays[prefix + "rule"] = one.by_member, np.array(one.rule.value)
        if one.folds is not None:
            arrays[prefix + "folds"] = one.folds
    write_atomically(_path(work, recipe), lambda file: np.savez(file, allow_pickle=False, **arrays))


def kept_scores(work: Path, bundle: Bundle) -> dict[CalibrationKey, CalibrationScores]:
    """The scores that ``bundle`` is calibrated on, each section's and domain's by the members of its machine type.

    Raises
    ------
    DataError : where the work folder holds none, or none that come to this bundle's calibration to the last bit.
    """
    path = _path(work, bundle.manifest.recipe)
    if not path.exists():
        raise DataError(
            f"{work} does not hold what each member of bundle {bundle.id} says of its training clips. Name the work "
            f"folder that it was made in. Where an earlier Earwitness made it there: {_made_again(bundle)}"
        )
    with np.load(path, allow_pickle=False) as arrays:
        scores = {
            place: CalibrationScores(
                arrays[_prefix(place) + "by_member"],
                ThresholdRule(str(arrays[_prefix(place) + "rule"])),
                arrays.get(_prefix(place) + "folds"),
            )
            for place in bundle.calibrations
            if _prefix(place) + "by_member" in arrays
        }
    for place, calibrated in bundle.calibrations.items():
        one, members = scores.get(place), len(bundle.manifest.members_of(place[0].machine_type))
        if (
            one is None
            or one.by_member.shape[1] != members
            or not np.array_equal(one.calibration().scores, calibrated.calibration.scores)
        ):
            raise DataError(
                f"What {path} keeps does not come to the calibration of bundle {bundle.id} for {place[0].machine_type} "
                f"section {place[0].section}, {place[1]}: the bundle was made in another work folder, or this one has "
                f"made another since. Name the bundle's own work folder. Where this is it: {_made_again(bundle)}"
            )
    return scores


def _made_again(bundle: Bundle) -> str:
    """How to come by scores that are not kept: of an equal bundle, whose thresholds are those of this Earwitness."""
    recipe = bundle.manifest.recipe
    return (
        f"repeat the command that made it, of recipe {recipe.get('name')} and seed {recipe.get('seed')}, with all its "
        "options, but 'backends' in place of 'train' and another --bundle, and prune that one."
    )


def _path(work: Path, recipe: Mapping[str, JsonValue]) -> Path:
    return work / _FOLDER / f"{hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]}.npz"


def _prefix(place: CalibrationKey) -> str:
    key, domain = place
    return f"{key.machine_type}/{key.section}/{domain.value}/"
