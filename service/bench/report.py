"""What the bench has measured, and how it is printed: medians over rounds with their quartiles, ratios within a round.

A round's ratio compares what was measured within seconds of each other; what else the machine had to do in that round
slowed both sides.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

MULTIPLY_ADDS: Final = 92.6e6
"""Of one of the paper's networks and one clip."""
PARTS: Final = ("decode", "features", "encode", "score")


@dataclass(slots=True)
class Measured:
    """Every figure of a run, by contender and batch; seconds and GFLOP a second."""

    load: tuple[float, float, float]
    librosa: bool | None
    members: int  # of the paper's networks
    runs: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    peaks: list[float] = field(default_factory=list)
    alone: list[dict[str, float]] = field(default_factory=list)  # one clip, by a direct call and through the queue
    direct: list[float] = field(
        default_factory=list
    )  # clips a second of the largest batch, explained, by a direct call
    saturated: list[float] = field(default_factory=list)  # and through the queue
    mixtures: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))  # of one clip
    memory: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, name: str, batch: int, run: dict[str, Any]) -> None:
        """One turn of one contender."""
        self.runs[name, batch].append(run)

    def ms_a_clip(self, name: str, batch: int, part: str | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Wall milliseconds a clip of each round, of a part or of all."""
        seconds = [run["wall_s"] if part is None else run["parts"][part] for run in self.runs[name, batch]]
        return 1e3 * np.array(seconds) / batch

    def cpu_ms_a_clip(self, name: str, batch: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """CPU milliseconds a clip of each round, of all threads together."""
        return 1e3 * np.array([run["cpu_s"] for run in self.runs[name, batch]]) / batch

    def largest_difference(self, one: str, other: str) -> float:
        """Of the scores of two contenders, in nats."""
        batch = max(batch for name, batch in self.runs if name == one)
        pair = [np.array(self.runs[name, batch][0]["scores"]) for name in (one, other)]
        return float(np.abs(pair[0] - pair[1]).max())


def spread(values: Sequence[float] | np.ndarray[Any, Any], digits: int = 1) -> str:
    """The median and, in brackets, the quartiles."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def print_report(measured: Measured, bundle: Path | None, members: int, threads: int) -> None:
    """For people: a table a question."""
    names = list(dict.fromkeys(name for name, _ in measured.runs))
    batches = list(dict.fromkeys(batch for _, batch in measured.runs))
    rounds = len(measured.peaks)
    print(f"{bundle or f'made-up bundle of {members} members'}, {threads} threads, {rounds} rounds in turns.")
    print(f"Load average {measured.load[0]:.1f} before, {os.getloadavg()[0]:.1f} after.")
    print("Milliseconds a clip: median (quartiles) of wall time, by part, and of the CPU time of all threads.")
    if measured.librosa is False:
        print("librosa is not installed: the naive ways have our front end.")
    print(f"\n{'':24}batch" + "".join(f"{title:>26}" for title in ("all", *PARTS, "CPU")))
    for batch in batches:
        for name in names:
            columns = [measured.ms_a_clip(name, batch, part) for part in (None, *PARTS)]
            columns.append(measured.cpu_ms_a_clip(name, batch))
            print(f"{name:24}{batch:5d}" + "".join(f"{spread(column, 2):>26}" for column in columns))
    for name in names[1:]:
        print(f"\n{name} / ours, by round:")
        for batch in batches:
            ratios = {
                title: measured.ms_a_clip(name, batch, part) / measured.ms_a_clip(names[0], batch, part)
                for title, part in (("all", None), ("features", "features"), ("encode", "encode"), ("score", "score"))
            }
            ratios["CPU"] = measured.cpu_ms_a_clip(name, batch) / measured.cpu_ms_a_clip(names[0], batch)
            print(f"  batch {batch:2d}: " + ", ".join(f"{title} {spread(own)}" for title, own in ratios.items()))
        print(f"  scores differ by {measured.largest_difference(names[0], name):.1e} nats at most")
    _print_mixtures(measured)
    _print_shares(measured, names[0], batches)
    for name, memory in measured.memory.items():
        print(f"memory of {name}: {memory['VmRSS']:.0f} MiB resident, {memory['VmHWM']:.0f} at most")


def _print_mixtures(measured: Measured) -> None:
    if not measured.mixtures:
        return
    ours, naive = measured.mixtures.values()
    seconds = [np.array([one["seconds"] for one in way]) for way in (ours, naive)]
    print(
        f"\nmixtures of one clip, cold, CPU: {spread(1e3 * seconds[0], 2)} ms, scikit-learn "
        f"{spread(1e3 * seconds[1], 2)} ms, {spread(seconds[1] / seconds[0])} times within a round; "
        f"over {measured.members} members "
        f"{abs(ours[0]['score'] - naive[0]['score']):.1e} nats apart"
    )


def _print_shares(measured: Measured, name: str, batches: Sequence[int]) -> None:
    peak = float(np.max(measured.peaks))
    print(f"\nmatrix product: {peak:.0f} GFLOP/s at best, {spread(measured.peaks, 0)} over the rounds")
    gflop = 2e-9 * MULTIPLY_ADDS * measured.members
    part = "encode" if measured.members else None  # the rate to be reached: of the encoder where it is what takes time
    best_rates = np.max([1e3 / measured.ms_a_clip(name, batch, part) for batch in batches], axis=0)
    for batch in batches:
        encode = measured.ms_a_clip(name, batch, "encode")
        if not measured.members:  # small networks, whose arithmetic is next to nothing
            continue
        best, within = gflop / encode.min() * 1e3 / peak, gflop / encode * 1e3 / np.array(measured.peaks)
        print(f"  encoder at batch {batch:2d}: {best:.0%} of it at best, {spread(100 * within, 0)} % within a round")
    alone, direct = (1e3 * np.array([one[way] for one in measured.alone]) for way in ("queued", "direct"))
    print("anomalous clips explained, as the service does:")
    print(f"  through the queue, alone: {spread(alone, 2)} ms, {spread(alone / direct, 2)} of the direct call")
    saturated = np.array(measured.saturated)
    print(f"  saturated, {len(saturated)} rounds, each within its round:")
    print(
        f"  through the queue: {spread(saturated)} clips/s, {spread(100 * saturated / best_rates, 0)} % of the "
        f"{'encoder alone' if measured.members else 'direct way without explanations'} at its best batch, "
        f"{spread(100 * saturated / np.array(measured.direct), 0)} % of the direct way at batch {max(batches)}"
    )
