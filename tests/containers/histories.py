"""Machines' histories as promtool reads them: what a section's clips were decided, minute by minute, as series.

A clip a minute, looked at every five: promtool refuses a query over more samples than a week has at one a minute.
Scores are drawn as the study behind the alarms drew them: a standard normal score of which a part is
remembered for ten minutes and a part for twelve hours, or nothing is; a clip is anomalous above the threshold that a
tenth of normal clips passes. A fault raises every score, by as much as makes a given share of the clips anomalous.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.special import ndtri

from tests.containers.checkers import DOCKER, run

RULES = DOCKER / "prometheus" / "rules"
HOUR, DAY = 60, 24 * 60
STEP = 5  # minutes
INSTANCES = ("a:8000", "b:8000")
FALSE_ALARMS = 0.1
# theta of 1 h and of 24 h by the number of calibration clips
THETA = {30: (0.849, 0.473), 145: (0.760, 0.347), 300: (0.737, 0.321)}
_REMEMBERED = ((0.3, 10.0), (0.1, 12.0 * HOUR))  # shares of the variance, minutes


def remembering(rng: np.random.Generator, minutes: int) -> NDArray[np.float64]:
    """Standard normal scores with the study's memory: (minutes,)."""
    fresh = 1.0 - sum(share for share, _ in _REMEMBERED)
    scores: NDArray[np.float64] = np.sqrt(fresh) * rng.standard_normal(minutes)
    for share, memory in _REMEMBERED:
        kept = np.exp(-1.0 / memory)
        state = rng.standard_normal()
        for minute, noise in enumerate(rng.standard_normal(minutes)):
            state = kept * state + np.sqrt(1.0 - kept**2) * noise
            scores[minute] += np.sqrt(share) * state
    return scores


def anomalous(scores: NDArray[np.float64], *, fault_from: int | None = None, share: float = 0.99) -> NDArray[np.bool_]:
    """Which clips are anomalous, with a fault that ``share`` of the clips show from a minute on: (minutes,)."""
    raised = scores.copy()
    if fault_from is not None:
        raised[fault_from:] += ndtri(share) - ndtri(FALSE_ALARMS)
    above: NDArray[np.bool_] = raised > ndtri(1.0 - FALSE_ALARMS)
    return above


@dataclass(frozen=True)
class History:
    """One section of machine type ``fan``.

    ``anomalous``: of the clip of each minute. ``calibration_clips``: whose thresholds hold. ``stops``: (from, to) in
    minutes without a clip; ``quiet``: (from, to) whose clips are quieter than normal, and anomalous. ``restarts``:
    minutes at which the service's counters begin anew; ``second_from``: when a second instance takes every other clip.
    """

    section: str
    anomalous: NDArray[np.bool_]
    calibration_clips: int = 30
    stops: Sequence[tuple[int, int]] = ()
    quiet: Sequence[tuple[int, int]] = ()
    restarts: Sequence[int] = ()
    second_from: int | None = None

    def series(self) -> list[dict[str, str]]:
        """The section's series, a value every five minutes."""
        minutes = len(self.anomalous)
        time = np.arange(minutes)
        heard, quiet = np.ones(minutes, bool), np.zeros(minutes, bool)
        for begin, end in self.stops:
            heard[begin:end] = False
        for begin, end in self.quiet:
            quiet[begin:end] = True
        above = self.anomalous | quiet
        second = np.zeros(minutes, bool) if self.second_from is None else (time >= self.second_from) & (time % 2 == 1)
        found = []
        begins = [0] if self.second_from is None else [0, self.second_from]
        for instance, begin in zip(INSTANCES, begins, strict=False):
            own = heard & (second == (instance == INSTANCES[1]))
            labels = f'instance="{instance}",machine_type="fan",section="{self.section}"'
            scored = f'{labels},domain="source"'
            for decision, clips in (("anomalous", own & above), ("normal", own & ~above)):
                name = f'earwitness_decisions_total{{{scored},decision="{decision}"}}'
                found.append(_series(name, [None] * begin + counted(clips, self.restarts)[begin:]))
            last = np.maximum.accumulate(np.where(own, time * 60, -1)).tolist()
            seen = [None if minute < 0 else minute for minute in last]
            found.append(_series(f"earwitness_last_clip_timestamp_seconds{{{scored}}}", seen))
            found.append(_series(f"earwitness_level_below_normal{{{scored}}}", quiet.astype(int).tolist()))
            for window, theta in zip(("1h", "24h"), THETA[self.calibration_clips], strict=True):
                name = f'earwitness_alarm_share{{{labels},window="{window}"}}'
                found.append(_series(name, [theta] * minutes))
        return found


def counted(events: NDArray[np.bool_], restarts: Sequence[int]) -> list[float | None]:
    """A counter of events, from 0 again at each restart."""
    values = np.cumsum(events.astype(np.int64))
    for restart in restarts:
        values[restart:] -= values[restart]
    return [float(value) for value in values]


def _series(name: str, values: Sequence[float | None]) -> dict[str, str]:
    return {"series": name, "values": notation(values[::STEP])}


def notation(values: Sequence[float | None]) -> str:
    """Values as promtool writes them, with straight runs as ``start+stepxcount`` and missing ones as ``_xcount``."""
    words, at = [], 0
    while at < len(values):
        end = at + 1
        start = values[at]
        if start is None:
            while end < len(values) and values[end] is None:
                end += 1
            words.append(f"_x{end - at}")
        else:
            step = 0.0
            while end < len(values) and (value := values[end]) is not None:
                if end == at + 1:
                    step = value - start
                elif value != start + step * (end - at):
                    break
                end += 1
            words.append(f"{start:g}" if end == at + 1 else f"{start:.12g}{step:+.12g}x{end - at - 1}")
        at = end
    return " ".join(words)


def check(folder: Path, histories: Sequence[History], expectations: list[dict[str, Any]]) -> None:
    """Let promtool evaluate the project's rules over ``histories``, and compare."""
    series = [one for history in histories for one in history.series()]
    series += [
        _series(f'up{{job="earwitness",instance="{one}"}}', [1.0] * len(histories[0].anomalous)) for one in INSTANCES
    ]
    test = {"interval": f"{STEP}m", "input_series": series, "promql_expr_test": expectations}
    file = folder / "test.yml"
    rules = [str(path) for path in sorted(RULES.glob("*.yml"))]
    file.write_text(
        yaml.safe_dump({"rule_files": rules, "evaluation_interval": f"{STEP}m", "tests": [test]}, width=1000)
    )
    run("promtool", "test", "rules", file)


def firing(alert: str, section: str = ".*") -> str:
    """PromQL: a 1 for each section of which an alert has fired so far."""
    chosen = f'alertname=~"{alert}",section=~"{section}",alertstate="firing"'
    return f"max by (section) (max_over_time(ALERTS{{{chosen}}}[30d]))"
