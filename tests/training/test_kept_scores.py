"""What each member says of the clips that calibrate, kept beside a run for who asks which members are marginal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle, CalibrationKey
from models.errors import DataError
from models.vocabulary import Domain, ThresholdRule
from tests.models.tiny import FAN, build_bundle
from training.calibration import CalibrationScores
from training.kept_scores import keep_scores, kept_scores

HOW_TO_COME_BY_THEM = (
    "repeat the command that made it, of recipe tiny and seed 3, with all its options, but 'backends' in place of "
    "'train' and another --bundle, and prune that one."
)
"""Whatever the recipe, rule and precision: a command written out here would make another bundle than theirs."""

Kept = dict[CalibrationKey, CalibrationScores]


@pytest.fixture(scope="module")
def made() -> tuple[Bundle, Kept]:
    """The tiny bundle calibrated on made scores, those of fan 00's source clips held out in folds."""
    random, bundle = np.random.default_rng(0), build_bundle()
    scores = {
        (key, domain): CalibrationScores(
            random.normal(size=(9, len(bundle.manifest.members_of(key.machine_type)))),
            ThresholdRule.HELD_OUT if domain is Domain.SOURCE else ThresholdRule.PAPER,
            np.arange(9) % 3 if (key, domain) == (FAN, Domain.SOURCE) else None,
        )
        for key, domain in bundle.calibrations
    }
    calibrations = {
        place: replace(one, calibration=scores[place].calibration()) for place, one in bundle.calibrations.items()
    }
    manifest = bundle.manifest.model_copy(update={"recipe": {**bundle.manifest.recipe, "seed": 3}})
    return replace(bundle, manifest=manifest, calibrations=calibrations), scores


def test_what_is_kept_is_read_again_to_the_last_bit(made: tuple[Bundle, Kept], tmp_path: Path) -> None:
    """Rules and folds too; and what another choice of the recipe gave stands beside it."""
    bundle, scores = made
    keep_scores(tmp_path, bundle.manifest.recipe, scores)
    keep_scores(tmp_path, {**bundle.manifest.recipe, "backend": "nearest"}, {})
    found = kept_scores(tmp_path, bundle)
    assert found.keys() == scores.keys()
    for place, one in scores.items():
        np.testing.assert_array_equal(found[place].by_member, one.by_member)
        np.testing.assert_array_equal(found[place].folds, one.folds)
        assert found[place].rule is one.rule


def test_scores_of_another_bundle_are_refused(made: tuple[Bundle, Kept], tmp_path: Path) -> None:
    """None at all, a section without any, a member too few, one score moved by its last bit."""
    bundle, scores = made
    with pytest.raises(DataError, match="does not hold what each member of bundle") as refused:
        kept_scores(tmp_path, bundle)
    assert HOW_TO_COME_BY_THEM in str(refused.value)
    place = (FAN, Domain.SOURCE)
    by_member = scores[place].by_member
    moved = by_member.copy()
    moved[0, 0] = np.nextafter(moved[0, 0], np.inf) + np.spacing(by_member.sum(axis=1)[0])
    for other in (None, replace(scores[place], by_member=by_member[:, :1]), replace(scores[place], by_member=moved)):
        changed = {each: one for each, one in scores.items() if each != place}
        keep_scores(tmp_path, bundle.manifest.recipe, changed if other is None else {**changed, place: other})
        with pytest.raises(DataError, match="fan section 00, source: the bundle was made in another") as refused:
            kept_scores(tmp_path, bundle)
        assert HOW_TO_COME_BY_THEM in str(refused.value)
