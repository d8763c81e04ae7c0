"""What the studies are made of: cuts of recordings, and changed copies of them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from models.audio import decode
from models.vocabulary import Condition, Domain, SectionKey, Split
from tests.studies.copies import CHANGES, EQUALISER_DB, copied, filtered, other_microphone
from tests.studies.cuts import cut_to, of_section, without, write_manifest
from training.recordings import Recording, read_recordings

PUMP, FAN = SectionKey("pump", "00"), SectionKey("fan", "00")


def recorded(folder: Path, key: SectionKey, number: int, domain: Domain = Domain.SOURCE) -> Recording:
    path = folder / f"{key.machine_type}-{domain}-{number}.wav"
    random = np.random.default_rng(number)
    hum = 0.05 * np.sin(2 * np.pi * (200 + number) * np.arange(160_000) / 16_000)
    soundfile.write(path, hum + random.normal(0, 0.005, 160_000), 16_000, subtype="PCM_16")
    return Recording(
        path.resolve(),
        key.machine_type,
        key.section,
        domain,
        Split.TRAIN,
        Condition.NORMAL,
        "slow",
        str(path.resolve()),
        challenge=False,
    )


def test_a_cut_leaves_what_it_may_not_touch(tmp_path: Path) -> None:
    """So many source clips of each larger section; test and target clips stay, and a manifest gives all of it back."""
    recordings = [recorded(tmp_path, PUMP, i) for i in range(6)] + [recorded(tmp_path, FAN, i) for i in range(2)]
    recordings += [recorded(tmp_path, PUMP, i, Domain.TARGET) for i in range(5)]
    recordings.append(replace(recorded(tmp_path, PUMP, 99), split=Split.TEST, condition=Condition.ANOMALY))
    cut = cut_to(recordings, 3, seed=1)
    assert Counter((one.machine_type, one.domain, one.split) for one in cut) == {
        ("pump", Domain.SOURCE, Split.TRAIN): 3,
        ("fan", Domain.SOURCE, Split.TRAIN): 2,
        ("pump", Domain.TARGET, Split.TRAIN): 5,
        ("pump", Domain.SOURCE, Split.TEST): 1,
    }
    assert cut == cut_to(recordings, 3, seed=1)
    assert any(cut != cut_to(recordings, 3, seed=seed) for seed in (2, 3, 4))
    assert {one.key for one in of_section(cut, FAN)} == {FAN}
    assert {one.key for one in without(cut, FAN)} == {PUMP}
    write_manifest(tmp_path / "elsewhere" / "cut.csv", cut)
    assert read_recordings([tmp_path / "elsewhere" / "cut.csv"]) == sorted(cut)


def test_changed_copies_are_what_they_say(tmp_path: Path) -> None:
    """Rate, depth and level of the files; equal seeds give equal bytes, and a copy that is there is kept."""
    original = recorded(tmp_path, PUMP, 0)
    level = decode(original.path).level_dbfs
    copies = {
        name: copied([original], tmp_path / name.replace(" ", "-"), change, 0)[0] for name, change in CHANGES.items()
    }
    assert soundfile.info(copies["48 kHz"].path).samplerate == 48_000
    assert soundfile.info(copies["8 bit"].path).subtype == "PCM_U8"
    for name, gain in (("48 kHz", 0.0), ("8 bit", 0.0), ("+12 dB", 12.0), ("-12 dB", -12.0)):
        found = decode(copies[name].path)
        assert len(found.waveform) == 160_000
        assert abs(found.level_dbfs - level - gain) < 0.2
    again = copied([original], tmp_path / "again", other_microphone, 3)[0].path
    once_more = copied([original], tmp_path / "once-more", other_microphone, 3)[0].path
    other_seed = copied([original], tmp_path / "other-seed", other_microphone, 4)[0].path
    assert again.read_bytes() == once_more.read_bytes() != other_seed.read_bytes()
    again.write_bytes(b"kept")
    assert copied([original], tmp_path / "again", other_microphone, 3)[0].path.read_bytes() == b"kept"


def test_a_filter_has_the_gains_that_are_asked_for() -> None:
    time_s = np.arange(160_000) / 16_000
    for hertz, decibels in EQUALISER_DB.items():
        if 0 < hertz < 8000:
            tone = np.sin(2 * np.pi * hertz * time_s).astype(np.float32)
            inner = filtered(tone, EQUALISER_DB)[1000:-1000]
            assert abs(20 * np.log10(inner.std() / tone.std()) - decibels) < 0.5
