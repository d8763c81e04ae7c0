"""From a bundle's folder and recordings on disk to a report: what evaluation gives is what the page says."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.bundle import read_bundle, write_bundle
from models.encoder import Device
from models.vocabulary import Condition, Domain, Split
from tests.models.tiny import FAN, build_bundle, sound, with_canary
from tests.training.report.test_page import read
from tests.training.told import Told, ignore
from training.contenders import BundleContender
from training.evaluate import evaluate
from training.printed import as_text, row_table
from training.recordings import Recording
from training.report.gather import gather
from training.report.reporter import Reporter
from training.scored import SystemName


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    write_bundle(folder, with_canary(build_bundle()))
    return folder


def record(folder: Path, condition: Condition, number: int, seconds: float = 10.0) -> Recording:
    """A plant's recording of the fan; a faulty one rattles."""
    path = folder / f"{condition}-{number}.wav"
    waveform = sound(FAN, 60 + number, seconds=seconds)
    if condition is Condition.ANOMALY:
        waveform = waveform + np.random.default_rng(number).normal(0, 0.1, len(waveform)).astype(np.float32)
    soundfile.write(path, waveform, 16_000, subtype="PCM_16")
    return Recording(
        path=path,
        machine_type=FAN.machine_type,
        section=FAN.section,
        domain=Domain.SOURCE,
        split=Split.TEST,
        condition=condition,
        attribute="",
        recording=path.as_posix(),
        challenge=False,
    )


def test_a_report_is_made_of_an_evaluation(bundle: Path, tmp_path: Path) -> None:
    """Its own bundle's rows, means and parts, embeddings clip by clip, the command as it can be typed again."""
    recordings = [record(tmp_path, condition, i, 10.0 + 15.0 * i) for condition in Condition for i in range(2)]
    reporter = Reporter(tmp_path / "report", ("python", "-m", "training", "two words"), made="today")
    with closing(BundleContender(bundle, device=Device.CPU, watch=reporter.embeddings)) as contender:
        evaluation = evaluate([contender], recordings, advance=ignore)
    assert reporter.write(evaluation, [contender.content]) == tmp_path / "report" / "report.html"
    page = read(tmp_path / "report")
    identity = read_bundle(bundle).id
    (row,) = evaluation.rows
    for words in (
        *(identity, "python -m training 'two words'", "today", f"AUC {100 * (row.auc or 0):.1f}"),
        *("earwitness by term: AUC, pAUC", "over all groups", "6 test clips of 1 section"),
    ):
        assert words in page.text or words in " ".join(page.values("aria-label")), words
    data = gather(evaluation, contender.content, reporter.embeddings, command="")
    assert data.embeddings.shape == (6, 128)
    assert data.labels == ["earwitness"]
    assert (data.own_rows, data.clips) == (evaluation.first.rows, evaluation.first.scored)
    assert "Made" not in data.provenance
    printed = as_text(evaluation)
    for one in (row_table(data.rows), *data.means):
        assert one.as_text() in printed, "the page's tables are the terminal's"
    assert [table.caption.split(":")[0] for table in data.means] == [
        "over all groups, per cent with 95 % intervals",
        "harmonic means",
        "harmonic means, earwitness by term",
        "harmonic means, earwitness by loss",
    ]
    assert page.text.count("earwitness by term") == 1


def test_a_baseline_that_wins_is_said_and_marked(bundle: Path, tmp_path: Path) -> None:
    """Faults that sound as normal clips do: a floor that is told them is ahead, and the reader is told first."""
    normal = [record(tmp_path, Condition.NORMAL, i) for i in range(2)]
    faulty = []
    for one in normal:
        path = Path(shutil.copy(one.path, one.path.with_name(f"faulty-{one.path.name}")))
        faulty.append(replace(one, path=path, recording=path.as_posix(), condition=Condition.ANOMALY))
    floor = Told(lambda one, _: float(one.condition is Condition.ANOMALY), name=SystemName.FLOOR)
    reporter = Reporter(tmp_path / "report", ())
    with closing(BundleContender(bundle, device=Device.CPU, watch=reporter.embeddings)) as contender:
        evaluation = evaluate([contender, floor], [*normal, *faulty], advance=ignore)
    data = gather(evaluation, contender.content, reporter.embeddings, command="")
    assert data.means[1].lines[0] == ("fan", "source", "50.0, -", "100.0*, -")
    won = "floor has a higher AUC than earwitness in 1 of 1 groups: fan 00 source by 50.0"
    assert data.notes[0].startswith(won)
    reporter.write(evaluation, [contender.content])
    assert won in read(tmp_path / "report").text


def test_a_place_that_cannot_be_written_is_refused_before_the_evaluation(tmp_path: Path) -> None:
    """A file where the folder should be; otherwise the folder is there at once."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Reporter(tmp_path / "file" / "report", ())
    Reporter(tmp_path / "deep" / "report", ())
    assert (tmp_path / "deep" / "report").is_dir()
