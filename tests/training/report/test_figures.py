"""Figures: the numbers behind them, and what becomes of a drawing on its way into a page."""

import re
import struct
from collections.abc import Iterator
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.decision import p_value
from models.vocabulary import Condition
from tests.training.report.made import (
    EARWITNESS,
    FLOOR,
    OTHER,
    SOURCE,
    TARGET,
    clips_of,
    report_data,
    scored,
)
from training.report.alarms import calibration_gap, false_alarm_plate, normal_p_values
from training.report.contents import ReportData
from training.report.networks import map_plates, training_plates
from training.report.separation import roc_plates, score_edges, score_plates
from training.report.theme import DARK, LIGHT, Key, Panel, Plate, as_png, as_svg, file_name

MARKS = ("area", "line", "dashes", "tick", "dot", "ring", "triangle", "diamond")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Two systems' clips of three places, of which one has a single normal clip."""
    clips = clips_of(tmp_path_factory.mktemp("sounds"), {SOURCE: (12, 8), TARGET: (1, 0), OTHER: (5, 5)})
    floor = [replace(clip, anomaly_score=-clip.anomaly_score, threshold=None, decision=None) for clip in clips]
    return report_data({EARWITNESS: clips, FLOOR: floor})


@settings(deadline=None)  # a first call is slow
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=30),
    st.lists(st.integers(0, 60).map(lambda score: score + 0.5), min_size=1, max_size=40, unique=True),
)
def test_the_gap_is_the_two_sample_statistic(scores: list[int], calibration: list[float]) -> None:
    """scipy's, but for the step of 1/(n+1) that keeps a p-value from being 0."""
    p_values = np.array([p_value(score, calibration) for score in scores])
    gap, _ = calibration_gap(p_values, len(calibration))
    oracle = scipy.stats.ks_2samp(scores, calibration, method="exact").statistic
    assert abs(gap - oracle) <= 1.0 / (len(calibration) + 1) + 1e-9


def test_a_calibration_that_does_not_hold_is_told_from_chance() -> None:
    """Normal clips that all score above the calibration; and ones that spread as it does."""
    gap, bound = calibration_gap(np.full(30, 1 / 101), 100)
    assert gap > bound
    gap, bound = calibration_gap(np.linspace(0.02, 0.98, 30), 100)
    assert gap < bound


def test_p_values_are_those_of_the_bundles_calibration(data: ReportData) -> None:
    """Of normal clips only; a place whose clips are all faulty has none."""
    found = normal_p_values(data, SOURCE)
    assert found is not None
    normal = [clip for clip in data.places[SOURCE] if clip.recording.condition is Condition.NORMAL]
    scores = data.calibrations[SOURCE].calibration.scores
    assert found[0].tolist() == [p_value(clip.decision_score, scores) for clip in normal]
    assert found[1] == len(scores)
    faulty = report_data({EARWITNESS: [scored(SOURCE, Condition.ANOMALY, 1.0)]})
    assert normal_p_values(faulty, SOURCE) is None


def test_bars_show_normal_scores_apart_however_high_others_are() -> None:
    """One faulty clip a thousand times as far away shares the last bar; near ones have bars of their own."""
    normal = np.linspace(-1280.0, -1250.0, 20)
    edges, limit = score_edges(normal, np.array([-1240.0, 30_000.0]))
    assert edges[0] == -1280.0
    assert edges[-1] == limit == pytest.approx(-1220.0)
    edges, limit = score_edges(normal, np.array([-1290.0, -1230.0]))
    assert (edges[0], edges[-1], limit) == (-1290.0, -1230.0, np.inf)
    edges, _ = score_edges(np.array([5.0]), np.empty(0))
    assert edges[0] < 5.0 < edges[-1], "a single clip has a bar"


def test_alternatives_in_words_state_the_figures(data: ReportData) -> None:
    """Who cannot see a picture reads its numbers."""
    (row,) = [row for row in data.own_rows if row.section == "00" and row.anomalous]
    (curve,) = [panel for plate in roc_plates(data) for panel in plate.panels if "fan" in panel.title]
    assert f"AUC {100 * row.auc:.1f}" in curve.alt  # type: ignore[operator]
    assert "12 normal clips and 8 faulty" in curve.alt
    alarms = false_alarm_plate(data)
    assert alarms is not None
    assert f"00 source {100 * row.false_alarm_rate:.1f}" in alarms.panels[0].alt  # type: ignore[operator]
    scores = score_plates(data)[0].panels[0].alt
    assert re.search(r"normal test clips -\d+ to -\d+, median -\d+; faulty test clips .*; threshold -\d+\.", scores)
    (loss, scale) = training_plates(data)[0].panels
    assert "from 5 to 2.5" in loss.alt
    assert "a scale met its limit at 1 point" in scale.alt


def test_a_curve_is_drawn_for_each_system_and_shaded_for_the_bundle(data: ReportData) -> None:
    """Two lines beside chance; a place without faulty clips has no curve."""
    panels = [panel for plate in roc_plates(data) for panel in plate.panels]
    assert [panel.title for panel in panels] == ["fan 00, source", "valve line-3.b, source"]
    curves = [line for line in drawn(panels[0]).lines if len(np.asarray(line.get_xdata())) > 2]
    assert len(curves) == 2
    assert corners_of_the_shade(panels[0])[:, 0].max() == pytest.approx(0.1)
    assert {key.label for key in roc_plates(data)[0].keys} >= {"earwitness", "floor", "region of the pAUC"}


def test_the_shaded_area_is_the_partial_area() -> None:
    """Its corners are the curve's: 3 of 4 faulty clips before the first of 20 normal ones, all after the second."""
    clips = [
        *(scored(SOURCE, Condition.NORMAL, score) for score in (2.5, 0.5, *[0.0] * 18)),
        *(scored(SOURCE, Condition.ANOMALY, score) for score in (5.0, 4.0, 3.0, 1.0)),
    ]
    (panel,) = roc_plates(report_data({EARWITNESS: clips}))[0].panels
    x, y = corners_of_the_shade(panel).T
    area = 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
    assert area == pytest.approx(0.05 * 0.75 + 0.05 * 1.0)


def corners_of_the_shade(panel: Panel) -> NDArray[np.float64]:
    (shade,) = drawn(panel).collections
    return np.asarray(shade.get_paths()[0].vertices, np.float64)


def drawn(panel: Panel) -> Axes:
    """The axes after a panel was drawn into them."""
    ax = Figure().subplots()
    panel.draw(ax)
    return ax


def every_plate(data: ReportData) -> Iterator[Plate]:
    alarms = false_alarm_plate(data)
    assert alarms is not None
    yield alarms
    for plates in (score_plates, roc_plates, map_plates, training_plates):
        yield from plates(data)


def test_an_svg_takes_its_colours_from_the_page_and_keeps_its_names_apart(data: ReportData) -> None:
    """No colour of the light theme is left, each id is unique in the page, and each reference finds its own."""
    svgs = [as_svg(plate, i) for plate in every_plate(data) for i in range(len(plate.panels))]
    whole = "\n".join(svgs)
    assert not [colour for colour in LIGHT.values() if colour in whole]
    assert {"var(--normal)", "var(--faulty)", "var(--ink)", "var(--text)"} <= set(re.findall(r"var\(--[a-z]+\)", whole))
    assert "DejaVu" not in whole
    ids = re.findall(r' id="([^"]+)"', whole)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', whole)) == set(ids)
    assert not re.search(r"<(style|metadata|script)|xmlns|xlink|<\?xml|<!", whole)


def test_both_themes_name_the_same_colours_each_once() -> None:
    """A colour of the light theme that stood for two names could not be told apart in an SVG."""
    assert list(LIGHT) == list(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_can_be_read_on_both_grounds(theme: dict[str, str]) -> None:
    """WCAG 2.2: 4.5 to 1 for text, 3 to 1 for the marks of a figure."""

    def contrast(name: str, ground: str) -> float:
        values = sorted((luminance(theme[name]), luminance(theme[ground])))
        return (values[1] + 0.05) / (values[0] + 0.05)

    for ground in ("paper", "card"):
        for name in ("ink", "muted", "good", "doubt", "bad", "normal"):
            assert contrast(name, ground) >= 4.5, (name, ground)
    for name in ("faulty", *(name for name in theme if name.startswith("hue"))):
        assert contrast(name, "paper") >= 3.0, name


def test_names_are_drawn_as_they_stand() -> None:
    """No mathematics between dollar signs, and no markup."""
    text = "<b>$x_1$ & $unfinished</b>"
    plate = Plate("x", text, [Panel("p", "a", lambda ax: ax.set_xlabel(text)), Panel(text, "a", lambda _: None)])
    assert "&lt;b&gt;$x_1$ &amp; $unfinished&lt;/b&gt;" in as_svg(plate, 0)
    assert as_png(plate)


def test_a_picture_is_one_file_of_all_panels_with_every_kind_of_key() -> None:
    """Four panels are two rows of three; the settings of matplotlib are left as they were."""
    before = dict(mpl.rcParams)
    panels = [Panel(str(i), "a", lambda ax: ax.plot([0, 1], [1, 0], color=LIGHT["normal"])) for i in range(4)]
    keys = [Key(mark, "normal", mark) for mark in MARKS]
    sizes = [struct.unpack(">II", as_png(Plate("x", "X", panels[:n], keys))[16:24]) for n in (1, 3, 4)]
    assert sizes[1][0] == sizes[2][0] == 3 * sizes[0][0]
    assert sizes[2][1] > 1.6 * sizes[1][1]
    assert dict(mpl.rcParams) == before


def test_a_map_of_many_clips_is_drawn_in_pixels() -> None:
    """Thousands of shapes would make the page heavy."""
    clip = scored(SOURCE, Condition.NORMAL, 0.0)
    few, many = (report_data({EARWITNESS: [clip] * count}) for count in (20, 700))
    few_svg, many_svg = (as_svg(map_plates(data)[0], 0) for data in (few, many))
    assert "<image" not in few_svg
    assert "data:image/png;base64" in many_svg
    assert len(many_svg) < 150_000


def test_a_file_is_named_safely_whatever_a_network_was_called() -> None:
    assert file_name("both-heads-s16") == "both-heads-s16"
    assert file_name("../x y") == ".._x_y"
