"""A section that is added to an ensemble is modelled as training would have modelled it."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.mixtures import Mixture
from models.references import References
from models.scoring import Normality
from models.vocabulary import Condition, Domain, SectionKey, Split
from tests.models.tiny import mixtures_of
from tests.training.ensembles import ensemble_of
from tests.training.report.test_reporter import record
from training.backends import Fitting
from training.extend import extend
from training.recipe import RECIPES, Backend


@pytest.mark.parametrize(("backend", "kind"), [(Backend.MIXTURES, Mixture), (Backend.NEAREST, References)])
def test_the_back_end_is_the_recipe_s(tmp_path: Path, backend: Backend, kind: type[Normality]) -> None:
    """Mixtures beside mixtures, references beside references; the threshold is of clips that these have not seen."""
    recipe = replace(RECIPES["smoke"], backend=backend, regularisation=2e-3, target_smote=2)
    made = ensemble_of([(1, 2)], tmp_path / "bundle", tmp_path / "work", recipe)
    assert Fitting.of_bundle(made.manifest) == Fitting.of(recipe, 0)
    new = [
        replace(record(tmp_path, Condition.NORMAL, i), section="07", split=Split.TRAIN, condition=Condition.NORMAL)
        for i in range(6)
    ]
    added = SectionKey("fan", "07")
    extended = extend(tmp_path / "bundle", new, tmp_path / "out", tmp_path / "new", advance=lambda _: None)
    for key in (added, SectionKey("fan", "00")):
        assert all(isinstance(member.section, kind) for member in mixtures_of(extended, key).members)
    calibration = extended.calibrations[added, Domain.SOURCE].calibration
    assert len(calibration.scores) == 6
    assert calibration.folds is not None
