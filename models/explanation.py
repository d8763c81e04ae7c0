"""Why a clip deviates: where in frequency and time, and in what way, against the section's normal clips.

Conventions: a deviation is in standard deviations of normal clips, signed: above 0 is more than normal. What is said
are the largest deviations, not causes. Frequencies are the limits of mel bands, in Hz; times are those of the clip, in
seconds. ``level``: how loud a band is; ``flux``: how much its level changes from frame to frame; ``modulation``: how
much it pulsates at a rate, in Hz.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.frontend import N_MELS, hz_to_mel, mel_to_hz
from models.modulation import ENV, ENV2, ModulationSpec

FRAME_S: Final = 512 / 16_000
NOTEWORTHY: Final = 3.0
"""Fewer standard deviations than these, one clip in a hundred has somewhere."""
MOST: Final = 3
"""Bands, times and changes that are named."""
_SMALLEST_DEVIATION: Final = 0.05
"""Of statistics in dB and of logarithms: what a section's few clips happen to agree in is no law."""
_SMOOTH_FRAMES: Final = 5
_PARTS: Final = 10
"""Of a window, a second each: a fault that lasts a second must not drown in the mean over ten."""


class ChangeKind(StrEnum):
    """In what way a sound changed."""

    LEVEL = "level"
    FLUX = "flux"
    MODULATION = "modulation"


@dataclass(frozen=True, slots=True)
class Band:
    """Frequencies that deviate."""

    low_hz: float
    high_hz: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Moment:
    """A part of the clip that deviates."""

    start_s: float
    end_s: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Change:
    """A kind of change; ``rate_hz`` of a modulation, None for the others."""

    kind: ChangeKind
    rate_hz: float | None
    deviation: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """The largest deviations first; ``nearest_attribute``: the operating condition that the clip is most like."""

    bands: tuple[Band, ...]
    times: tuple[Moment, ...]
    changes: tuple[Change, ...]
    nearest_attribute: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Normal:
    """What normal clips of a section are like.

    ``mel_mean``, ``mel_deviation``: (128,) dB over their frames. ``mean``, ``deviation``: (1192,) over the clips, of
    statics and dynamics; None where the bundle keeps no statistics.
    """

    mel_mean: NDArray[np.float64]
    mel_deviation: NDArray[np.float64]
    mean: NDArray[np.float64] | None = None
    deviation: NDArray[np.float64] | None = None


def explain(
    log_mel: NDArray[np.float32],
    statistics: NDArray[np.float32] | None,
    normal: Normal,
    *,
    start_s: float = 0.0,
    nearest_attribute: str | None = None,
) -> Explanation:
    """Explain one window.

    Parameters
    ----------
    log_mel : (313, 128) dB.
    statistics : (1192,) statics and dynamics of the window; without them, or the bundle's, only levels are compared.
    start_s : where in the clip the window begins.
    """
    frames = (log_mel - normal.mel_mean) / np.maximum(normal.mel_deviation, _SMALLEST_DEVIATION)
    if statistics is None or normal.mean is None or normal.deviation is None:
        by_mel = _strongest(*(part.mean(axis=0) for part in np.array_split(frames, _PARTS)))
        changes = [_largest(ChangeKind.LEVEL, by_mel)]
    else:
        z = (statistics - normal.mean) / np.maximum(normal.deviation, _SMALLEST_DEVIATION)
        level, level_deviation, flux_1, flux_4 = z[: 4 * N_MELS].reshape(4, N_MELS)
        rates = z[-(ENV.size + ENV2.size) :]
        by_mel = _strongest(level, level_deviation, flux_1, flux_4)
        changes = [
            _largest(ChangeKind.LEVEL, level),
            _largest(ChangeKind.FLUX, _strongest(flux_1, flux_4)),
            max(_modulations(rates), key=lambda change: abs(change.deviation)),
        ]
    changes = sorted(changes, key=lambda change: -abs(change.deviation))
    bands = list(_runs(by_mel))
    own = np.concatenate([np.arange(first, last) for first, last in bands]) if bands else np.arange(N_MELS)
    loudness = np.convolve(frames[:, own].mean(axis=1), np.full(_SMOOTH_FRAMES, 1 / _SMOOTH_FRAMES), "same")
    return Explanation(
        bands=tuple(Band(*_limits_hz(first, last), _peak(by_mel[first:last])) for first, last in bands),
        times=tuple(
            Moment(start_s + FRAME_S * first, start_s + min(10.0, FRAME_S * last), _peak(loudness[first:last]))
            for first, last in _runs(loudness, gap=3)
        ),
        changes=tuple(change for change in changes if abs(change.deviation) >= NOTEWORTHY) or tuple(changes[:1]),
        nearest_attribute=nearest_attribute,
    )


def _strongest(*each: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of several deviations at each place the one that is farthest from 0."""
    stacked = np.stack(each)
    strongest: NDArray[np.float64] = np.take_along_axis(stacked, np.abs(stacked).argmax(axis=0)[None], axis=0)[0]
    return strongest


def _largest(kind: ChangeKind, by_mel: NDArray[np.float64]) -> Change:
    """Averaged over three neighbouring bands: one of 128 deviates by chance."""
    return Change(kind, None, _peak(np.convolve(by_mel, np.full(3, 1 / 3), "same")))


def _modulations(z: NDArray[np.float64]) -> Iterator[Change]:
    """Each rate's deviation: the mean over the quarter of its bands that deviates most."""
    for spec, values in ((ENV, z[: ENV.size]), (ENV2, z[ENV.size :])):
        by_rate = values.reshape(spec.n_mels, -1)
        quarter = spec.n_mels // 4
        for rate_hz, own in zip(_centres_hz(spec), by_rate.T, strict=True):
            ordered = np.sort(own)
            low, high = ordered[:quarter].mean(), ordered[-quarter:].mean()
            yield Change(ChangeKind.MODULATION, rate_hz, float(high if high > -low else low))


def _centres_hz(spec: ModulationSpec) -> list[float]:
    edges = np.asarray(spec.edges_hz)
    return [float(rate) for rate in np.sqrt(edges[:-1] * edges[1:])]


def _runs(values: NDArray[np.float64], gap: int = 1) -> Sequence[tuple[int, int]]:
    """The strongest runs of neighbours of one sign, at least half as strong as the strongest; first, past the last."""
    least = max(NOTEWORTHY, 0.5 * float(np.abs(values).max()))
    found: list[tuple[int, int]] = []
    for sign in (1.0, -1.0):
        places = np.flatnonzero(sign * values >= least)
        parts = np.split(places, np.flatnonzero(np.diff(places) > gap) + 1)
        found.extend((int(part[0]), int(part[-1]) + 1) for part in parts if len(part))
    return sorted(found, key=lambda run: -float(np.abs(values[run[0] : run[1]]).max()))[:MOST]


def _peak(values: NDArray[np.float64]) -> float:
    return float(values[np.abs(values).argmax()])


def _limits_hz(first: int, last: int) -> tuple[float, float]:
    """From the middle of the lowest filter's rise to that of the highest one's fall."""
    mels = _edges_mel()
    low, high = mel_to_hz(np.array([mels[first] + mels[first + 1], mels[last] + mels[last + 1]]) / 2.0)
    return float(low), float(high)


@cache
def _edges_mel() -> NDArray[np.float64]:
    """Where the filters begin, peak and end."""
    lowest, highest = hz_to_mel(np.array([0.0, 8000.0]))
    return np.linspace(lowest, highest, N_MELS + 2)
