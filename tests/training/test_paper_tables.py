"""The paper's figures as typed: each column's last row is the harmonic mean of the seven above it."""

import pytest

from models.vocabulary import Domain
from training.dcase2021 import MACHINE_TYPES, DataSet
from training.metrics import harmonic_mean
from training.official import Figures, mean_figures, score_of
from training.paper_tables import ALL, ENSEMBLE, official_scores, part_figures, system_figures
from training.scored import SystemName

PLACES = [(DataSet.DEVELOPMENT, None), *((data_set, domain) for data_set in DataSet for domain in Domain)]
OFFICIAL = {SystemName.EARWITNESS: 64.20, SystemName.AUTOENCODER: 56.38, SystemName.MOBILENETV2: 54.77}


@pytest.mark.parametrize(("data_set", "domain"), PLACES)
def test_tables_2_and_5(data_set: DataSet, domain: Domain | None) -> None:
    """To the rounding of two decimals."""
    for name, (auc, pauc) in system_figures(data_set, ALL, domain).items():
        rows = [system_figures(data_set, machine_type, domain)[name] for machine_type in MACHINE_TYPES]
        assert harmonic_mean(row[0] for row in rows) == pytest.approx(auc, abs=0.01)
        assert harmonic_mean(row[1] for row in rows) == pytest.approx(pauc, abs=0.01)


@pytest.mark.parametrize("domain", list(Domain))
def test_tables_3_and_4(domain: Domain) -> None:
    """But for the one pAUC that the text at hand has lost."""
    lost = 0
    for name, (auc, pauc) in part_figures(ALL, domain).items():
        rows = [part_figures(machine_type, domain)[name] for machine_type in MACHINE_TYPES]
        assert harmonic_mean(row[0] for row in rows) == pytest.approx(auc, abs=0.01)
        if None in {row[1] for row in rows}:
            lost += 1
        else:
            assert harmonic_mean(row[1] for row in rows) == pytest.approx(pauc, abs=0.01)
    assert lost == (domain is Domain.TARGET)


def test_table_2_from_its_machine_types() -> None:
    """77.69 and 62.99, by the official aggregation."""
    rows = [system_figures(DataSet.DEVELOPMENT, name, None)[SystemName.EARWITNESS] for name in MACHINE_TYPES]
    mean = mean_figures((Figures(*row, None, None, None) for row in rows), harmonic_mean)
    assert mean.auc == pytest.approx(77.69, abs=0.005)
    assert mean.pauc == pytest.approx(62.99, abs=0.005)


@pytest.mark.parametrize("name", list(OFFICIAL))
def test_official_scores_of_table_5_from_its_machine_types(name: SystemName) -> None:
    """64.20, 56.38 and 54.77, by the official aggregation of the fourteen AUCs and pAUCs; to the printed rounding."""
    rows = [
        system_figures(DataSet.EVALUATION, machine_type, domain)[name]
        for machine_type in MACHINE_TYPES
        for domain in Domain
    ]
    assert score_of(Figures(*row, None, None, None) for row in rows) == pytest.approx(OFFICIAL[name], abs=0.01)
    assert official_scores(DataSet.EVALUATION)[name] == pytest.approx(OFFICIAL[name], abs=0.01)


def test_ensembles_of_tables_3_and_5_stand_where_they_belong() -> None:
    """A sample of each table, read again in the paper."""
    assert part_figures("slider", Domain.TARGET)[ENSEMBLE] == (71.56, 54.94)
    assert system_figures(DataSet.DEVELOPMENT, "valve", Domain.SOURCE) == {SystemName.EARWITNESS: (89.33, 70.77)}
    assert system_figures(DataSet.EVALUATION, "fan", Domain.TARGET)[SystemName.MOBILENETV2] == (59.96, 58.53)
    assert system_figures(DataSet.EVALUATION, "fan", None) == {}
