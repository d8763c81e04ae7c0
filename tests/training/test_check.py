"""The check: every problem with its file, what each section can support, and the verdict that training would give."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from models.errors import DataError
from models.frontend import LogMelSpec
from models.vocabulary import Condition, Domain, Split
from training.check import check_recordings
from training.check_report import CheckReport, Kind, Severity, Verdict
from training.features import extract_features
from training.recordings import Recording, Refusal, survey

REAL = Path(__file__).parents[2].parent / "shared" / "recordings"


def noise(seconds: float, seed: int, rate_hz: int = 16_000) -> NDArray[np.float64]:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))


class Plant:
    """Recordings made one by one; each sounds otherwise than those before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recordings: list[Recording] = []

    def add(
        self,
        n: int = 1,
        *,
        machine_type: str = "pump",
        section: str = "00",
        domain: Domain = Domain.SOURCE,
        split: Split = Split.TRAIN,
        condition: Condition | None = Condition.NORMAL,
        attribute: str = "",
        recording: str | None = None,
        challenge: bool = False,
        seconds: float = 2.0,
        rate_hz: int = 16_000,
        waveform: NDArray[np.float64] | None = None,
        suffix: str = ".wav",
    ) -> Path:
        for _ in range(n):
            path = self.folder / f"{len(self.recordings):03d}{suffix}"
            sound = noise(seconds, len(self.recordings), rate_hz) if waveform is None else waveform
            sixteen_bits = np.round(32767 * sound).astype(np.int16)  # containers round floats each in their own way
            soundfile.write(path, sixteen_bits, rate_hz, subtype="PCM_16")
            name = recording or str(path)
            self.recordings.append(
                Recording(path, machine_type, section, domain, split, condition, attribute, name, challenge)
            )
        return path

    def check(self, *refusals: Refusal) -> CheckReport:
        done: list[int] = []
        report = check_recordings(self.recordings, refusals, workers=1, advance=done.append)
        assert sum(done) == len(self.recordings)
        return report


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def found(report: CheckReport) -> list[tuple[Severity, Kind, str]]:
    return [(problem.severity, problem.kind, problem.where) for problem in report.problems]


def test_ready_is_said_of_two_sections_with_thirty_clips_each_and_target_clips(plant: Plant) -> None:
    plant.add(30, section="00", seconds=10.0)
    plant.add(29, section="01", seconds=10.0)
    plant.add(1, section="01", seconds=29.9)
    plant.add(3, section="01", domain=Domain.TARGET, seconds=10.0)
    report = plant.check()
    assert report.verdict is Verdict.READY
    assert report.trainable
    assert report.as_text().splitlines()[-1] == "ready"
    assert [(s.key.section, s.source_clips, s.target_clips, s.recordings) for s in report.sections] == [
        ("00", 30, 0, 30),
        ("01", 31, 3, 30),
    ]
    assert [s.smallest_false_alarm_rate for s in report.sections] == [1 / 31, 1 / 31], (
        "recordings count, not what they are cut into"
    )


def test_recordings_are_counted_by_section_domain_and_attribute(plant: Plant) -> None:
    plant.add(2, attribute="speed_1")
    plant.add(3, attribute="speed_2")
    plant.add(1, section="01", domain=Domain.TARGET)
    plant.add(4, split=Split.TEST, condition=None)
    report = plant.check()
    assert report.counts == {
        ("pump", "00", Domain.SOURCE, Split.TRAIN, "normal", "speed_1"): 2,
        ("pump", "00", Domain.SOURCE, Split.TRAIN, "normal", "speed_2"): 3,
        ("pump", "00", Domain.SOURCE, Split.TEST, "unlabelled", "noAttribute"): 4,
        ("pump", "01", Domain.TARGET, Split.TRAIN, "normal", "noAttribute"): 1,
    }
    assert "speed_1 2, speed_2 3" in report.as_text()


def test_each_problem_names_its_file_and_its_kind(plant: Plant) -> None:
    plant.add(5)
    expected = {
        Kind.SILENT: plant.add(waveform=np.zeros(32_000)),
        Kind.TOO_SHORT: plant.add(seconds=1.0),
        Kind.TOO_LONG: plant.add(challenge=True, seconds=61.0, rate_hz=4_000),
        Kind.UNREADABLE: plant.add(),
        Kind.CLIPPED: plant.add(waveform=np.clip(30 * noise(2.0, 77), -1, 1)),
        Kind.RATE_ABOVE: plant.add(rate_hz=48_000),
        Kind.RATE_BELOW: plant.add(rate_hz=8_000),
        Kind.LONG: plant.add(seconds=30.0),
        Kind.CHANNELS: plant.add(waveform=np.stack([noise(2.0, 55), noise(2.0, 56)], axis=1)),
        Kind.UNLABELLED: plant.add(split=Split.TEST, condition=None),
    }
    expected[Kind.UNREADABLE].write_bytes(b"\xff\xd8\xff\xe0 a picture")
    report = plant.check()
    errors = {Kind.SILENT, Kind.TOO_SHORT, Kind.TOO_LONG, Kind.UNREADABLE}
    for kind, path in expected.items():
        severity = Severity.ERROR if kind in errors else Severity.NOTE
        assert (severity, kind, str(path)) in found(report)
    others = {(kind, where) for _, kind, where in found(report) if kind is not Kind.SHORT}
    assert others == {(kind, str(path)) for kind, path in expected.items()}
    text = report.as_text()
    assert "errors (4)" in text
    assert all(str(path) in text for path in expected.values())


def test_48_khz_or_a_minute_is_a_note_and_no_obstacle(plant: Plant) -> None:
    plant.add(15, section="00", seconds=20.0, rate_hz=48_000)
    plant.add(5, section="01", seconds=60.0)
    report = plant.check()
    assert report.verdict is Verdict.READY
    assert not report.errors
    assert [section.source_clips for section in report.sections] == [30, 30]


def test_a_recording_that_is_silent_for_a_while_is_an_error(plant: Plant) -> None:
    """Ten seconds of a machine that was off, in the middle of a minute; a challenge's clip ends before them."""
    sound = noise(60.0, 7)
    sound[20 * 16_000 : 41 * 16_000] = 0.0
    long = plant.add(waveform=sound)
    plant.add(waveform=sound[: 30 * 16_000], challenge=True)
    [problem] = [one for one in plant.check().errors if one.kind is Kind.SILENT]
    assert problem.where == str(long)
    assert "from 20, 30 s on" in problem.detail


def test_the_same_sound_is_found_in_another_container_and_across_splits(plant: Plant) -> None:
    first = plant.add()
    again = plant.add(waveform=noise(2.0, 0), suffix=".flac")
    plant.add(3)
    test = plant.add(waveform=noise(2.0, 2), split=Split.TEST)
    report = plant.check()
    duplicates = [problem for problem in report.errors if problem.kind is Kind.DUPLICATE]
    assert [(problem.where, str(first) in problem.detail) for problem in duplicates] == [
        (str(again), True),
        (str(test), False),
    ]
    assert "evaluation would lie" in duplicates[1].detail
    assert report.verdict is Verdict.PROVISIONAL
    assert "2 errors to mend" in report.as_text().splitlines()[-1]


def test_a_refused_name_is_listed_and_stops_training(plant: Plant) -> None:
    plant.add(2)
    report = plant.check(Refusal("own.csv, line 7", "'sorce' is no domain."))
    assert found(report)[0] == (Severity.ERROR, Kind.REFUSED, "own.csv, line 7")
    assert "own.csv, line 7: 'sorce' is no domain." in report.as_text()
    assert report.as_text().splitlines()[-1] == "not trainable because 1 name or row cannot be read"
    assert not report.trainable


def test_an_unusable_training_file_stops_training_as_it_stops_the_features(plant: Plant, tmp_path: Path) -> None:
    plant.add(3)
    plant.add(waveform=np.zeros(32_000))
    report = plant.check()
    assert report.as_text().splitlines()[-1].startswith("not trainable because 1 training file cannot be used")
    with pytest.raises(DataError):
        extract_features(
            plant.recordings,
            tmp_path / "work",
            spec=LogMelSpec(),
            contrast=False,
            workers=1,
            advance=lambda _: None,
        )


def test_an_unusable_test_file_does_not_stop_training(plant: Plant) -> None:
    plant.add(3)
    plant.add(waveform=np.zeros(32_000), split=Split.TEST)
    assert plant.check().verdict is Verdict.PROVISIONAL


def test_nothing_to_train_on_is_said(plant: Plant) -> None:
    assert not plant.check().trainable
    plant.add(2, split=Split.TEST)
    assert "no recording is for training" in plant.check().as_text()
    plant.add(3, domain=Domain.TARGET)
    report = plant.check()
    assert report.as_text().splitlines()[-1] == "not trainable because no section has a usable source clip"
    assert "no usable source clips" in report.sections[0].advice[0]


def test_one_machine_alone_is_told_of_contrast_classes(plant: Plant) -> None:
    """Single section, single attribute class; a second one of either kind ends the need of its head."""
    plant.add(30, seconds=10.0)
    report = plant.check()
    assert report.verdict is Verdict.PROVISIONAL
    assert "the section head has a single class and the attribute head has a single class" in report.as_text()
    assert "contrast classes" in report.as_text().splitlines()[-1]
    plant.add(30, seconds=10.0, attribute="speed_2")
    assert "attribute head" not in plant.check().as_text()
    assert "the section head has a single class" in plant.check().as_text()
    plant.add(30, seconds=10.0, section="01")
    report = plant.check()
    assert not report.advice
    assert report.verdict is Verdict.READY


@pytest.mark.parametrize(
    ("source", "of_one", "target", "said"),
    [
        (1, False, 0, "one source clip: no threshold"),
        (40, True, 0, "all 40 source clips are of one recording or visit"),
        (29, False, 0, "29 source clips, fewer than 30"),
        (40, False, 1, "1 target clip: no target mixture under 3"),
        (40, False, 2, "2 target clips: no target mixture under 3"),
    ],
)
def test_what_limits_a_section_is_said(plant: Plant, source: int, of_one: bool, target: int, said: str) -> None:
    plant.add(30, section="other")
    plant.add(source, section="00", recording="tuesday" if of_one else None)
    if target:
        plant.add(target, section="00", domain=Domain.TARGET)
    report = plant.check()
    limited, unlimited = report.sections
    assert [said in sentence for sentence in limited.advice] == [True]
    assert not unlimited.advice
    assert (limited.smallest_false_alarm_rate is None) == (source == 1 or of_one)
    assert report.verdict is Verdict.PROVISIONAL
    assert report.as_text().splitlines()[-1] == "usable, provisional: more recordings are needed for pump 00"


def test_a_few_visits_are_too_few(plant: Plant) -> None:
    for day in ("monday", "tuesday"):
        plant.add(20, recording=day)
    assert "of 2 recordings or visits only" in plant.check().sections[0].advice[0]


def test_three_target_clips_and_one_of_the_source_are_not_enough_for_a_threshold_of_the_source(plant: Plant) -> None:
    plant.add(1)
    plant.add(3, domain=Domain.TARGET)
    [section] = plant.check().sections
    assert section.smallest_false_alarm_rate is None
    assert "no false-alarm rate can be supported" in plant.check().as_text()


def test_facts_that_many_files_share_are_shortened_and_problems_never(plant: Plant) -> None:
    """A hundred short files are one line; each silent, clipped or unlabelled one is named."""
    plant.add(20)
    silent = [plant.add(waveform=np.zeros(32_000)) for _ in range(12)]
    clipped = [plant.add(waveform=np.clip(30 * noise(2.0, 100 + i), -1, 1)) for i in range(7)]
    unlabelled = [plant.add(split=Split.TEST, condition=None) for _ in range(8)]
    text = plant.check().as_text()
    assert f"shorter than 10 s: repeated ({20 + 7 + 8})" in text
    assert "and 30 more" in text
    assert text.count(" more\n") == 1
    assert all(f"{path}: " in text for path in (*silent, *clipped, *unlabelled))


def test_more_target_clips_than_a_mixture_takes_are_said(plant: Plant) -> None:
    plant.add(2, section="01")
    plant.add(2)
    plant.add(1, seconds=510.0, domain=Domain.TARGET)
    assert "50 of its target clips, evenly spread, are the means" in plant.check().as_text()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real recordings are not beside the project")
def test_the_real_fan_is_usable_provisionally() -> None:
    """Twelve clips of one machine, decoded in several processes."""
    found = survey([REAL / "dev_data" / "fan"])
    report = check_recordings(found.recordings, found.refusals)
    assert not report.problems
    assert report.sections[0].smallest_false_alarm_rate == pytest.approx(1 / 13)
    assert report.verdict is Verdict.PROVISIONAL
