"""The printed tables: marks, the paper's figures beside ours, terms and losses, and what is said in words."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.vocabulary import Condition, Domain
from tests.training.test_dcase2021 import unlabelled, whole
from tests.training.told import Told, ignore, noisy, recordings
from training.dcase2021 import MACHINE_TYPES, DataSet
from training.evaluate import evaluate
from training.layout import Mean, change, columns, figure, marks, mean_cells
from training.metrics import harmonic_mean
from training.printed import as_text
from training.recordings import Recording
from training.scored import Contender, PartKind, SystemName
from training.tables import Evaluation

FAN = recordings(30, 25)
OURS = Told(noisy(2.0, 1), recipe="told", seed=0)
FLOOR = Told(noisy(1.0, 2), name=SystemName.FLOOR)


def of(*contenders: Contender, given: Sequence[Recording] = FAN) -> Evaluation:
    return evaluate(contenders, given, advance=ignore)


def tables(evaluation: Evaluation) -> list[list[str]]:
    """The printed tables, each its lines."""
    return [table.splitlines() for table in as_text(evaluation).split("\n\n")]


def table(evaluation: Evaluation, title: str) -> list[list[str]]:
    """The cells of the lines under the header of the one table whose first line holds ``title``."""
    (found,) = [lines for lines in tables(evaluation) if title in lines[0]]
    ruler = next(place for place, line in enumerate(found) if line.startswith("---"))
    return [re.split(r" {2,}", line) for line in found[ruler - 1 :] if not line.startswith("---")]


def test_figures_are_per_cent() -> None:
    """A dash for what is not defined; differences with their sign."""
    assert figure(0.876, (0.5, 0.912)) == "87.6 (50-91)"
    assert figure(None) == figure(None, None, "*") == change(None, None) == "-"
    assert change(-0.0123, (-0.02, 0.001)) == "-1.2 (-2.0 to +0.1)"


def test_the_best_of_a_row_is_marked() -> None:
    """All that share the first place, and none that has no rival."""
    assert marks([0.5, None, 0.7, 0.7]) == ["", "", "*", "*"]
    assert marks([0.5, None]) == ["", ""]
    assert marks([]) == []


def test_a_mean_over_fewer_groups_competes_for_no_mark() -> None:
    """It may be high because the hard groups are missing."""
    cells = mean_cells([Mean(0.7, 0.6, 3), Mean(0.9, 0.8, 2), Mean(0.6, 0.61, 3), Mean(None, None, 0)], 3)
    assert cells == ["70.0*, 60.0", "90.0~, 80.0~", "60.0, 61.0*", "-"]
    assert mean_cells([Mean(0.7, 0.6, 2), Mean(0.6, 0.5, 2)], 3) == ["70.0~, 60.0~", "60.0~, 50.0~"]


def test_columns_are_aligned() -> None:
    assert columns(("a", "long"), [("longer", "x")]) == ["a       long", "------  ----", "longer  x"]


def test_every_system_has_a_line_a_group() -> None:
    """And the best AUC and pAUC of the group a mark."""
    evaluation = of(OURS, FLOOR)
    first, other = (system.rows[0] for system in evaluation.systems)
    assert first.auc is not None
    assert other.auc is not None
    assert first.auc > other.auc
    header, *lines = table(evaluation, "per cent, with 95 % intervals; * best of its group")
    assert header[3:7] == ["system", "normal", "anom.", "AUC"]
    assert [line[:6] for line in lines[:2]] == [
        ["fan", "00", "source", "earwitness", "30", "25"],
        ["fan", "00", "source", "floor", "30", "25"],
    ]
    assert lines[0][6].startswith(f"{100 * first.auc:.1f}* (")
    assert lines[1][6].startswith(f"{100 * other.auc:.1f} (")


def test_one_system_has_no_rivals_and_no_marks() -> None:
    text = as_text(of(OURS))
    assert "*" not in text
    assert "system" not in text.splitlines()[1]
    assert "minus" not in text


def test_harmonic_means_by_machine_type_and_domain() -> None:
    """Table 2's rows, of a whole data set of one's own; nothing of the paper beside."""
    given = [*FAN, *recordings(30, 25, domain=Domain.TARGET), *recordings(30, 25, section="01")]
    evaluation = of(OURS, FLOOR, given=given)
    rows = evaluation.first.rows
    header, *lines = table(evaluation, "harmonic means: AUC, pAUC")
    assert header == ["machine type", "domain", "earwitness", "floor"]
    assert [line[:2] for line in lines] == [
        [name, domain] for name in ("fan", "all") for domain in ("source", "target", "both")
    ]
    auc, pauc = (harmonic_mean(getattr(row, name) for row in rows) for name in ("auc", "pauc"))
    assert auc is not None
    assert pauc is not None
    assert lines[2][2].replace("*", "") == f"{100 * auc:.1f}, {100 * pauc:.1f}"
    assert "paper" not in as_text(evaluation)


def test_the_papers_figures_stand_beside_its_own_data() -> None:
    """Table 2 for both domains, Table 3's last columns by domain; the last row only where all seven are there."""
    evaluation = of(OURS, given=whole("fan"))
    assert evaluation.data_sets == {DataSet.DEVELOPMENT: ("fan",)}
    header, *lines = table(evaluation, "harmonic means, DCASE 2021 development set: AUC, pAUC")
    assert header[3:] == ["paper: autoencoder", "paper: MobileNetV2", "paper: proposed"]
    by_place = {tuple(line[:2]): line[3:] for line in lines}
    assert by_place["fan", "both"] == ["63.24, 53.38", "61.56, 63.02", "74.66, 67.34"]
    assert by_place["fan", "source"] == ["-", "-", "80.98, 73.20"]
    assert by_place["all", "both"] == ["-", "-", "-"]


def test_the_papers_last_row_and_official_score_stand_beside_the_whole_set() -> None:
    """Table 5, of the evaluation set."""
    given = [one for name in MACHINE_TYPES for one in unlabelled(whole(name, DataSet.EVALUATION))]
    numbered = replace(OURS, score_of=lambda one, _: float(one.path.stem[-4:]) % 7)
    evaluation = of(numbered, given=given)
    lines = table(evaluation, "harmonic means, DCASE 2021 evaluation set: AUC, pAUC")
    by_place = {tuple(line[:2]): line[3:] for line in lines}
    assert by_place["all", "source"] == ["64.76, 52.32", "53.82, 55.73", "73.13, 60.21"]
    assert by_place["slider", "target"] == ["51.65, 51.92", "72.78, 60.94", "85.66, 69.69"]
    totals = {line[0]: line[1:] for line in table(evaluation, "over all groups")}
    assert totals["official score"][1:] == ["56.37", "54.78", "64.20"]


def test_a_data_set_among_other_recordings_has_a_table_of_its_own() -> None:
    """Both sets of fan: their common mean is nothing that the paper has."""
    given = [*whole("fan"), *unlabelled(whole("fan", DataSet.EVALUATION))]
    evaluation = of(OURS, given=given)
    assert "paper: proposed" not in table(evaluation, "harmonic means: AUC, pAUC")[0]
    development = table(evaluation, "harmonic means, DCASE 2021 development set: AUC, pAUC")
    hidden = table(evaluation, "harmonic means, DCASE 2021 evaluation set: AUC, pAUC")
    rows = [row for row in evaluation.rows if row.section in {"03", "04", "05"} and row.domain is Domain.SOURCE]
    mean = harmonic_mean(row.auc for row in rows)
    assert mean is not None
    assert hidden[1][2].startswith(f"{100 * mean:.1f}, ")
    assert development[1][2] != hidden[1][2]
    assert hidden[1][5] == "89.07, 69.85"


def test_a_machine_type_that_is_scored_in_part_is_not_compared() -> None:
    """Its recordings are the challenge's, but nobody has scored the target domain: the paper's means are over six."""
    evaluation = of(replace(OURS, lacking={("fan", Domain.TARGET): "no target clips"}), given=whole("fan"))
    assert evaluation.data_sets == {}
    assert "paper" not in as_text(evaluation)


SECTION, ATTRIBUTE, MAXIMUM = noisy(1.0, 1), noisy(1.5, 2), noisy(0.5, 3)
WITH_PARTS = replace(
    OURS,
    score_of=lambda one, clip: SECTION(one, clip) + ATTRIBUTE(one, clip) + MAXIMUM(one, clip),
    parts={
        (PartKind.TERM, "section"): SECTION,
        (PartKind.TERM, "attribute"): ATTRIBUTE,
        (PartKind.TERM, "temporal_maximum"): MAXIMUM,
        (PartKind.LOSS, "both heads"): SECTION,
        (PartKind.LOSS, "sections"): ATTRIBUTE,
    },
)


def test_terms_and_their_sums_are_measured() -> None:
    """Each alone, and what the ensemble would be without one of them."""
    given = recordings(30, 25, machine_type="valve")
    evaluation = of(WITH_PARTS, given=given)
    header, line, _ = table(evaluation, "harmonic means, earwitness by term")
    names = ["section", "attribute", "temporal_maximum", "section + attribute", "section + temporal_maximum"]
    assert header[2:] == [*names, "attribute + temporal_maximum", "ensemble"]
    truth = [one.condition is Condition.ANOMALY for one in given]
    for name, score in (
        ("section", SECTION),
        ("section + attribute", lambda one, clip: SECTION(one, clip) + ATTRIBUTE(one, clip)),
        ("ensemble", WITH_PARTS.score_of),
    ):
        expected = 100 * roc_auc_score(truth, [score(one, 0) for one in given])
        assert line[header.index(name)].split(",")[0].rstrip("*") == f"{expected:.1f}"
    best = [cell for cell in line[2:] if "*" in cell.split(",")[0]]
    aucs = [float(cell.split(",")[0].rstrip("*")) for cell in line[2:]]
    assert float(best[0].split(",")[0].rstrip("*")) == max(aucs)


def test_tables_3_and_4_stand_beside_the_papers() -> None:
    """In brackets, column by column, for the development set alone."""
    valve = of(WITH_PARTS, given=whole("valve"))
    header, source, target, *_ = table(valve, "development set, earwitness by term: AUC, pAUC [the paper's]")
    assert source[header.index("section")].endswith(" [83.85, 73.84]")
    assert source[header.index("attribute")].endswith(" [89.34, 68.89]")
    assert source[header.index("ensemble")].endswith(" [89.33, 70.77]")
    assert target[header.index("section")].endswith(" [71.66, 61.64]")
    assert "[" not in source[header.index("temporal_maximum")]
    header, source, *_ = table(valve, "development set, earwitness by loss: AUC, pAUC [the paper's]")
    assert source[header.index("both heads")].endswith(" [89.51, 68.95]")
    assert source[header.index("sections")].endswith(" [88.90, 72.11]")
    hidden = as_text(of(WITH_PARTS, given=unlabelled(whole("valve", DataSet.EVALUATION))))
    assert "earwitness by term" in hidden
    assert "[" not in hidden


def test_other_systems_terms_are_not_added_up() -> None:
    """A sum of what is no log-likelihood would be a score of nothing."""
    parts = {(PartKind.TERM, name): noisy(1.0, place) for place, name in enumerate(("A", "L", "F"))}
    header, *_ = table(of(replace(OURS, parts=parts)), "earwitness by term")
    assert header[2:] == ["A", "L", "F", "ensemble"]


def test_differences_have_their_sign_and_interval() -> None:
    evaluation = of(OURS, FLOOR)
    (difference,) = evaluation.differences
    _, line, official, *_ = table(evaluation, "earwitness minus floor, over 1 shared groups")
    group = difference.groups[0].auc
    assert line[3] == change(group.value, group.interval)
    assert line[3].startswith("+")
    assert official[0] == "official score"


def test_the_spread_names_its_seeds() -> None:
    evaluation = of(OURS, replace(OURS, score_of=noisy(2.0, 5), seed=4))
    _, line, *_ = table(evaluation, "earwitness told over seeds 0, 4: mean (least-greatest)")
    aucs = sorted(100 * (row.auc or np.nan) for row in evaluation.rows)
    assert line[3] == f"{np.mean(aucs):.1f} ({aucs[0]:.1f}-{aucs[1]:.1f})"
    assert line[-1] == "2"


def test_a_baseline_that_wins_is_said_in_words() -> None:
    """By how much, and whether the interval leaves that to chance."""
    given = [*FAN, *recordings(30, 25, machine_type="pump")]
    strong, none = noisy(4.0, 7), noisy(0.0, 3)
    floor = replace(FLOOR, score_of=lambda one, clip: (strong if one.machine_type == "pump" else none)(one, clip))
    weak = replace(OURS, score_of=noisy(0.8, 1))
    evaluation = of(weak, floor, given=given)
    (line,) = [line for line in as_text(evaluation).splitlines() if line.startswith("floor has")]
    lead = [
        100 * (other.auc - own.auc) for own, other in zip(*(system.rows for system in evaluation.systems), strict=True)
    ]
    assert lead[0] < 0.0 < lead[1]
    assert f"floor has a higher AUC than earwitness in 1 of 2 groups: pump 00 source by {lead[1]:.1f};" in line


def test_a_win_that_may_be_chance_is_called_so() -> None:
    """Where the interval of the difference holds 0."""
    evaluation = of(replace(OURS, score_of=noisy(0.8, 1)), replace(FLOOR, score_of=noisy(0.8, 5)))
    difference = evaluation.differences[0].groups[0].auc
    assert difference.value is not None
    assert difference.interval is not None
    assert difference.value < 0.0 < difference.interval[1]
    (line,) = [line for line in as_text(evaluation).splitlines() if line.startswith("floor has")]
    lead = f"{-100 * difference.value:.1f} (may be chance)"
    assert line.startswith(f"floor has a higher AUC than earwitness in 1 of 1 groups: fan 00 source by {lead};")


def test_a_baseline_that_never_wins_is_said_too() -> None:
    (line,) = [line for line in as_text(of(OURS, FLOOR)).splitlines() if line.startswith("floor has")]
    assert line == "floor has a higher AUC than earwitness in no group; and no higher official score."


@pytest.mark.parametrize("condition", list(Condition))
def test_without_one_kind_there_are_no_means(condition: Condition) -> None:
    """A plant's usual case: nothing is broken."""
    evaluation = of(OURS, given=[one for one in FAN if one.condition is condition])
    text = as_text(evaluation)
    assert "harmonic means" not in text
    assert len(tables(evaluation)) == 1


def test_few_normal_clips_have_no_pauc_and_a_note() -> None:
    """But in the official score."""
    evaluation = of(OURS, given=recordings(19, 25))
    row = evaluation.rows[0]
    assert (row.pauc, row.pauc_interval) == (None, None)
    assert evaluation.first.totals.official_score.value == pytest.approx(harmonic_mean([row.auc, row.official_pauc]))
    (note,) = evaluation.notes
    assert note.startswith("pAUC is left out where fewer than 20 normal clips are: fan 00 source (19). The official")
    assert f"note: {note}" in as_text(evaluation)
    assert of(OURS, given=recordings(20, 25)).notes == ()
