"""The study's parts: what is held out, what stands in for faults, and which choice wins."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.audio import CLIP_SAMPLES, SAMPLE_RATE_HZ
from models.errors import DataError
from models.vocabulary import Condition, Domain, LossChoice, Split
from training.recipe import RECIPES, ServedWeights
from training.recordings import Recording
from training.study.clips import divide
from training.study.figures import Figures
from training.study.modifications import KNOCKS_HZ, MODIFICATIONS, NOISE_BAND_HZ, modified
from training.study.plan import DEFAULT, SNAPSHOTS, STEPS, SYSTEMS, TRAININGS, StudiedSystem
from training.study.report import as_text, lines

TIME_S = np.arange(CLIP_SAMPLES) / SAMPLE_RATE_HZ


def recording(
    number: int,
    *,
    section: str = "00",
    attribute: str = "",
    domain: Domain = Domain.SOURCE,
    split: Split = Split.TRAIN,
    of: str | None = None,
) -> Recording:
    path = Path(f"{section}-{domain}-{split}-{attribute}-{number:03d}.wav")
    return Recording(
        path,
        "fan",
        section,
        domain,
        split,
        Condition.NORMAL,
        attribute,
        recording=of or str(path),
        challenge=of is None,
    )


def test_a_fifth_of_each_section_is_held_out_and_no_recording_is_split() -> None:
    """Of a section's attribute classes too; target clips, a lone recording and test clips stay where they are."""
    recordings = [
        *(recording(i, attribute="slow") for i in range(50)),
        *(recording(i, attribute="fast") for i in range(25)),
        *(recording(i, section="01", of=f"day {i // 4}") for i in range(40)),
        *(recording(i, section="02", of="the only one") for i in range(6)),
        *(recording(i, domain=Domain.TARGET) for i in range(3)),
        *(recording(i, split=Split.TEST) for i in range(4)),
    ]
    found = divide(recordings)
    assert sorted([*found.train, *found.held, *found.test]) == sorted(recordings)
    assert len(found.test) == 4
    held = [(one.section, one.attribute) for one in found.held]
    assert [held.count(("00", name)) for name in ("slow", "fast")] == [10, 5]
    assert len([one for one in found.held if one.section == "01"]) == 8
    assert {one.recording for one in found.held}.isdisjoint(one.recording for one in found.train)
    assert all(one.section != "02" and one.domain is Domain.SOURCE for one in found.held)
    assert divide(recordings[::-1]) == found, "whatever the order they are named in"
    nowhere = replace(recording(9, split=Split.TEST), domain_told=False)
    assert divide([*recordings, nowhere]) == found, "nobody knows whose terms would score it"
    with pytest.raises(DataError, match="None of the 6 training recordings can be held out"):
        divide(recording(i, section="02", of="the only one") for i in range(6))


def band_power(x: NDArray[np.float32], low_hz: float, high_hz: float) -> float:
    power = np.abs(np.fft.rfft(x)) ** 2
    frequencies = np.fft.rfftfreq(len(x), 1.0 / SAMPLE_RATE_HZ)
    return float(power[(frequencies >= low_hz) & (frequencies <= high_hz)].sum() / power.sum())


def test_each_modification_changes_what_it_says_and_nothing_else() -> None:
    """Of a tone of 1 kHz: its pitch, a band of noise 15 dB below it, thirty knocks, its loudness six times a second."""
    tone = (0.1 * np.sin(2 * np.pi * 1000.0 * TIME_S)).astype(np.float32)
    copies = dict(zip(MODIFICATIONS, modified(tone, 3), strict=True))
    assert all(copy.shape == tone.shape and copy.dtype == np.float32 for copy in copies.values())
    assert band_power(copies["slower"], 949, 951) > 0.98
    assert band_power(copies["faster"], 1049, 1051) > 0.98

    noise = copies["band noise"] - tone
    assert band_power(noise, *NOISE_BAND_HZ) > 0.999
    assert 10 * np.log10(np.mean(noise**2) / np.mean(tone**2)) == pytest.approx(-15.0, abs=0.1)

    knocks = np.abs(copies["knocks"] - tone)
    loud = np.flatnonzero(knocks > 0.5 * knocks.max())
    assert 1 + np.count_nonzero(np.diff(loud) > 0.1 * SAMPLE_RATE_HZ) == pytest.approx(10 * KNOCKS_HZ, abs=1)
    assert knocks.max() == pytest.approx(2.0 * np.sqrt(np.mean(tone**2)), rel=0.3)

    envelope = np.abs(copies["tremolo"]).reshape(-1, 160).max(axis=1)
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
    assert np.fft.rfftfreq(len(envelope), 0.01)[spectrum.argmax()] == pytest.approx(6.0)
    assert np.mean(copies["tremolo"] ** 2) == pytest.approx(np.mean(tone**2), rel=1e-3)

    np.testing.assert_array_equal(modified(tone, 3), list(copies.values()))
    assert not np.array_equal(modified(tone, 4)[2], copies["band noise"])


def test_the_plan_compares_what_the_paper_leaves_open() -> None:
    """Each training is the default's but for one choice, each system's trainings exist, and names are its own."""
    default = TRAININGS[DEFAULT.trainings[0]]
    assert default == replace(RECIPES["quick"], snapshots=SNAPSHOTS)
    assert STEPS < 1000, "a short budget"
    for recipe in TRAININGS.values():
        assert len(recipe.networks) == 1
        ours, theirs = recipe.as_json(), default.as_json()
        assert len({name for name in ours if ours[name] != theirs[name]} - {"default_loss"}) <= 1
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS)
    assert {name for system in SYSTEMS for name in system.trainings} == set(TRAININGS)
    assert StudiedSystem("two", snapshots=2).snapshot_places == (1, 3)
    assert StudiedSystem("one", snapshots=1, weights=ServedWeights.AVERAGE).snapshot_places == (3,)
    selected = StudiedSystem("chosen", ("s16", "sections-only"), loss={"fan": LossChoice.SECTIONS})
    assert selected.trainings_of("fan", TRAININGS) == ("sections-only",)
    assert selected.trainings_of("press", TRAININGS) == ("s16",)
    assert replace(selected, loss=None).trainings_of("fan", TRAININGS) == ("s16", "sections-only")


def figures(system: str, seed: int, criterion: float) -> Figures:
    return Figures(system, seed, criterion, {}, 0.9, 0.1, None, 0.6, 0.6, {})


@pytest.mark.parametrize(
    ("criteria", "wins"),
    [
        ((0.66, 0.68, 0.70), True),  # better by 0.06 with every seed, where seeds differ by 0.04
        ((0.63, 0.65, 0.67), False),  # better with every seed, but by less than seeds differ
        ((0.80, 0.80, 0.63), False),  # better on average, but not with every seed
        ((0.66, 0.68), False),  # two seeds decide nothing
    ],
)
def test_a_choice_wins_with_every_seed_and_by_more_than_seeds_differ(criteria: tuple[float, ...], wins: bool) -> None:
    usual = (0.60, 0.62, 0.64)
    systems = (DEFAULT, StudiedSystem("other"), StudiedSystem("two", ("s16", "s1")))
    found = [
        figures(system.name, seed, values[seed])
        for system, values in zip(systems, (usual, criteria, criteria), strict=True)
        for seed in range(len(criteria))
    ]
    first, other, two = lines(systems, found)
    assert (first.wins, other.wins, two.wins) == (None, wins, None)
    assert other.gains == pytest.approx([ours - theirs for ours, theirs in zip(criteria, usual, strict=False)])
    assert (other.criterion.least, other.criterion.greatest) == (min(criteria), max(criteria))
    text = as_text([first, other, two])
    assert f"{100 * np.mean(criteria):.1f} ({100 * min(criteria):.1f} to {100 * max(criteria):.1f})" in text
    assert "test figures decide nothing" in text
