"""The page as a file: it needs nothing but itself, says everything, and takes nobody's words for markup."""

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from models.audio import decode
from models.manifest import MemberEntry
from models.vocabulary import Condition
from tests.training.report.made import (
    BUNDLE_ID,
    EARWITNESS,
    FLOOR,
    OTHER,
    SOURCE,
    TARGET,
    Hostile,
    clips_of,
    report_data,
    scored,
    tiny,
)
from training.layout import Table
from training.report.choice import choose
from training.report.contents import ReportData
from training.report.page import PAGE, write_report

SECTIONS = ["short", "alarms", "faults", "clips", "networks", "figures", "provenance"]


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """What is read, blanks joined."""
        return " ".join(" ".join(self.texts).split())

    def values(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [value or "" for _, attributes in self.elements if name in attributes for value in [attributes[name]]]


def read(folder: Path) -> Page:
    return Page((folder / PAGE).read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Normal and faulty clips of three places; of one a single normal clip."""
    clips = clips_of(tmp_path_factory.mktemp("sounds"), {SOURCE: (9, 6), TARGET: (1, 0), OTHER: (5, 4)}, shift=0.4)
    return report_data({EARWITNESS: clips}, notes=("pump 00: 2 test recordings left out.",))


@pytest.fixture(scope="module")
def written(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "deep" / "report"
    write_report(data, folder)
    return folder


def test_the_page_needs_nothing_but_itself(written: Path) -> None:
    """Every address is a fragment of the page or data in it; nothing is imported, and nothing could be fetched."""
    content = (written / PAGE).read_text()
    page = Page(content)
    addresses = [value for name in ("src", "href", "srcset", "action", "poster", "data") for value in page.values(name)]
    assert len(addresses) > 20
    assert not [value for value in addresses if not value.startswith(("#", "data:"))]
    assert not re.search(r"url\((?!#)|@import|https?:|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", content))
    assert not {"script", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.elements}
    (policy,) = [
        attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv") and tag == "meta"
    ]
    assert policy == "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def test_everything_is_there(written: Path) -> None:
    """Each section with its figures, one sentence under each on how to read it, the notes, and where it comes from."""
    page = read(written)
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    assert [a["href"] for tag, a in page.elements if tag == "a"] == ["#short", *(f"#{name}" for name in SECTIONS)]
    assert page.text.count("How to read it.") == 8
    drawings = [a for _, a in page.elements if a.get("class") == "drawing"]
    places, types, cards = 3, 2, 10
    assert len(drawings) == types + places + places + 2 + cards + types + 2  # alarms, p, scores, ROC, ..., curves
    for words in (
        *("pump 00: 2 test recordings left out.", "Harmonic means", BUNDLE_ID, "python -m training evaluate"),
        *("earwitness 0.1.0", "recipe tiny, seed 3", "both-heads-s2: AdaCos scale", "name: tiny", "recordings: 23"),
        *("fan 00, target", "valve line-3.b, source", "10 % promised", "threshold in force"),
    ):
        assert str(words) in page.text, words


def test_the_figures_lie_beside_the_page_as_pictures(written: Path) -> None:
    """One a kind and machine type, one a shown clip; each a PNG that says how large it is."""
    kinds = ["p-values", "scores", "roc", "embeddings"]
    expected = {f"{kind}-{machine_type}.png" for kind in kinds for machine_type in ("fan", "valve")}
    expected |= {"false-alarms.png", "training-both-heads-s2.png", *(f"clip-{i:02d}.png" for i in range(1, 11))}
    assert {path.name for path in written.iterdir()} == {PAGE, *expected}
    for path in written.glob("*.png"):
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(content[16:20], "big") > 400


def test_who_cannot_see_can_read_it(written: Path) -> None:
    """Alternatives for every drawing, names for every player and table, scopes for headers, headings without a gap."""
    page = read(written)
    labels = [a.get("aria-label") for _, a in page.elements if a.get("role") == "img"]
    assert len(labels) > 20
    assert all(label and len(label) > 20 for label in labels)
    assert all(a.get("aria-label") for tag, a in page.elements if tag == "audio")
    assert all(a.get("scope") in {"row", "col"} for tag, a in page.elements if tag == "th")
    assert all("aria-labelledby" in a for tag, a in page.elements if tag == "table")
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = Counter(page.values("id"))
    assert max(ids.values()) == 1
    wanted = {*page.values("aria-labelledby"), *(value[1:] for value in page.values("href") if value.startswith("#"))}
    assert wanted <= set(ids)
    assert dict(page.elements)["html"] == {"lang": "en"}


def test_equal_data_gives_equal_files(data: ReportData, written: Path, tmp_path: Path) -> None:
    """Byte for byte, over an earlier report too; a time stands there only when one is given."""
    (tmp_path / PAGE).write_text("an earlier report")
    write_report(data, tmp_path)
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (written, tmp_path))
    assert first == second
    assert "2026" not in read(tmp_path).text


def test_the_clips_shown_are_the_worst_and_sound_as_they_were_scored(data: ReportData, written: Path) -> None:
    """In their order, each with the sound of its own file, raised by the gain that is stated."""
    page = read(written)
    chosen = choose(data.clips, data.p_value)
    paths = [one.clip.recording.path.as_posix() for one in chosen]
    assert len(paths) == 10
    places = [page.text.index(path) for path in paths]
    assert places == sorted(places)
    sounds = [sound_in(attributes) for tag, attributes in page.elements if tag == "audio"]
    gains = [float(found) for found in re.findall(r"([+-]\d+) dB to listen", page.text)]
    for path, heard, gain in zip(paths, sounds, gains, strict=True):
        original = decode(Path(path)).waveform
        assert len(heard) == len(original)
        assert np.abs(heard).max() == pytest.approx(0.9, abs=1e-3)
        assert 20 * np.log10(np.abs(heard).max() / np.abs(original).max()) == pytest.approx(gain, abs=0.51)
        assert np.corrcoef(heard, original)[0, 1] > 0.999


def sound_in(player: dict[str, str | None]) -> NDArray[np.float64]:
    """What an audio element plays."""
    kind, content = (player["src"] or "").split(",", 1)
    assert kind == "data:audio/flac;base64"
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate == 16_000
    return np.asarray(heard)


def test_without_an_anomaly_normal_clips_say_what_can_be_said(tmp_path: Path) -> None:
    """False alarms, p-values and the highest normal clips; no curve, no AUC, and a sentence that says why."""
    clips = clips_of(tmp_path, {SOURCE: (3, 0), OTHER: (1, 0)})
    write_report(report_data({EARWITNESS: clips}, official_score=None, mean_auc=None, means=()), tmp_path / "report")
    page = read(tmp_path / "report")
    assert "No faulty clip is among the test recordings." in page.text
    assert "No section has both normal and faulty test clips, so there is no curve." in page.text
    assert "The normal clips that score highest" in page.text
    assert page.text.count("normal, among the highest scores") == 4
    assert "Faults heard: not measured." in page.text
    assert "False alarms" in page.text
    assert "hang below" not in page.text
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"false-alarms.png", "p-values-fan.png", "scores-valve.png", "clip-04.png"} <= names
    assert not [name for name in names if name.startswith("roc")]


def test_single_clips_and_clips_of_unknown_condition_have_their_report(tmp_path: Path) -> None:
    """One normal clip in a place, one faulty in another, one unknown in a third, and no threshold there."""
    places = {SOURCE: (1, 0), OTHER: (0, 1)}
    clips = clips_of(tmp_path, places)
    unknown = scored(TARGET, None, -600.0, path=clips[0].recording.path.as_posix(), threshold=None)
    bare = tiny().manifest.model_copy(update={"demonstration": True, "training_data": {"clips": 1}})
    write_report(report_data({EARWITNESS: [*clips, unknown]}, manifest=bare, means=()), tmp_path / "report")
    page = read(tmp_path / "report")
    assert "This is a demonstration bundle" in page.text
    assert "This bundle was made without training curves" in page.text
    assert "tested: unknown" in page.text
    assert "test clips of unknown condition" in page.text
    assert page.text.count("not measured: no faulty clips") == 1
    assert sum(tag == "article" for tag, _ in page.elements) == 1


def test_a_report_in_which_nothing_is_known_says_so(tmp_path: Path) -> None:
    """An evaluation set without its labels: no alarms to count, no clip to show."""
    clip = scored(SOURCE, None, 1.0)
    write_report(report_data({EARWITNESS: [clip]}, means=()), tmp_path)
    page = read(tmp_path)
    for words in (
        "No alarm was decided on a normal test clip",
        "No normal test clip has a p-value",
        "none is known to",
    ):
        assert words in page.text


def test_several_systems_stand_side_by_side(tmp_path: Path) -> None:
    """Rows and ROC curves of each by its name, differences and spread as they are given; clips of the bundle only."""
    own = clips_of(tmp_path, {SOURCE: (2, 2)})
    floor = [replace(clip, anomaly_score=-clip.anomaly_score) for clip in own]
    difference = Table(
        "Differences with intervals", ("system", "AUC"), (("floor less bundle", "-12.0 (-20 to -3)"),), words=1
    )
    systems = {EARWITNESS: own, "earwitness quick": own, FLOOR: floor}
    data = report_data(systems, comparisons=(difference,))
    write_report(data, tmp_path / "report")
    page = read(tmp_path / "report")
    for words in ("Differences with intervals", "−12.0 (−20 to −3)"):
        assert words in page.text, words
    found = Counter(words.strip() for words in page.texts)
    for label in ("earwitness", "earwitness quick", "floor"):
        assert found[label] == 2, f"a row of {label} and the key of its curve"
        assert re.search(rf"{label}: AUC \d+\.\d", page.text), "beside its curve"
        assert f"00 source, {label}" in page.text, "a line among the false alarms"
    assert sum(tag == "article" for tag, _ in page.elements) == len(choose(own, data.p_value))


def test_nobodys_words_are_taken_for_markup(tmp_path: Path) -> None:
    """A script in a note, a name, a recipe, a network, an attribute, a command and a file name: all are text."""
    hostile = Hostile()
    (clip,) = clips_of(tmp_path, {SOURCE: (1, 0)})
    path = tmp_path / f"{hostile.image.replace('/', '_')}.wav"
    clip.recording.path.rename(path)
    recording = replace(clip.recording, path=path, attribute=hostile.script)
    member: MemberEntry = tiny().manifest.members[0].model_copy(update={"network": hostile.script})
    manifest = tiny().manifest.model_copy(
        update={
            "name": hostile.script,
            "members": (member,),
            "recipe": {"name": hostile.image, hostile.script: [hostile.template]},
            "versions": {hostile.script: hostile.image},
            "training_data": {
                hostile.script: {hostile.image: 1},
                "curves": {hostile.script: tiny().manifest.training_data["curves"]["both-heads-s2"]},  # type: ignore[index, call-overload]
            },
        }
    )
    data = report_data(
        {hostile.mathematics: [replace(clip, recording=recording)], hostile.script: [clip]},
        manifest=manifest,
        notes=(hostile.script, hostile.template),
        comparisons=(Table(hostile.script, (hostile.image,), ((hostile.template,),), words=1),),
        provenance={hostile.script: hostile.image},
    )
    write_report(data, tmp_path / "report")
    page = read(tmp_path / "report")
    assert {tag for tag, _ in page.elements} <= {
        *("html", "head", "meta", "title", "link", "style", "body", "a", "header", "p", "span", "h1", "code", "nav"),
        *(
            "ol",
            "ul",
            "li",
            "main",
            "section",
            "h2",
            "h3",
            "dl",
            "div",
            "dt",
            "dd",
            "strong",
            "table",
            "thead",
            "tbody",
        ),
        *("tr", "th", "td", "figure", "figcaption", "b", "article", "audio", "footer"),
        *("svg", "defs", "g", "path", "use", "text", "clippath", "rect", "image"),
    }
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for words in (hostile.script, hostile.image, hostile.template, hostile.mathematics):
        assert words in page.text, words
    assert {path.name for path in (tmp_path / "report").glob("training-*")} == {
        "training-_script_alert_1___script_.png"
    }


def test_a_path_that_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    """A folder named in Latin-1 by an old recorder must not cost an evaluation of hours."""
    (clip,) = clips_of(tmp_path, {SOURCE: (1, 0)})
    path = tmp_path / "Gebl\udce4se.wav"
    clip.recording.path.rename(path)
    moved = replace(clip, recording=replace(clip.recording, path=path))
    write_report(report_data({EARWITNESS: [moved]}), tmp_path / "report")
    assert "Gebl\\udce4se.wav" in read(tmp_path / "report").text


def test_a_plants_long_recording_is_heard_where_the_clip_begins(tmp_path: Path) -> None:
    """The second ten seconds of a recording that was cut, a tone, and not the silence around it."""
    time_s = np.arange(400_000) / 16_000
    tone = np.where((time_s >= 10) & (time_s < 20), 0.25 * np.sin(2 * np.pi * 440 * time_s), 0.0)
    path = tmp_path / "long.wav"
    soundfile.write(path, tone, 16_000, subtype="PCM_16")
    clips = [
        replace(
            scored(SOURCE, Condition.NORMAL, start_s, path=path.as_posix(), challenge=False, attribute="1450rpm"),
            start_s=start_s,
        )
        for start_s in (0.0, 10.0)
    ]
    write_report(report_data({EARWITNESS: clips}), tmp_path / "report")
    page = read(tmp_path / "report")
    assert "1450rpm" in page.text
    later, earlier = (sound_in(attributes) for tag, attributes in page.elements if tag == "audio")
    assert len(later) == len(earlier) == 160_000
    assert np.abs(later).max() == pytest.approx(0.9, abs=1e-3), "the later clip scores higher"
    assert np.abs(earlier).max() == 0.0
