"""Machines' histories as promtool reads them: what a section's clips were decided, minute by minute, as series.

A clip a minute or several, looked at every five minutes: promtool refuses a query over more samples than a week has at
one a minute. Scores are drawn as the study behind the alarms drew them: a standard normal score of which a part is
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
from scipy.signal import lfilter
from scipy.special import ndtri

from models.vocabulary import Domain
from service.alarms import WANDER, alarm_share
from tests.containers.checkers import DOCKER, run

RULES = DOCKER / "prometheus" / "rules"
HOUR, DAY = 60, 24 * 60
STEP = 5
"""Minutes between two looks."""
INSTANCES = ("a:8000", "b:8000")
FALSE_ALARMS = 0.1
_REMEMBERED = ((0.3, 10.0), (0.1, 12.0 * HOUR))  # shares of the variance, minutes


def remembering(rng: np.random.Generator, minutes: int, a_minute: int = 1) -> NDArray[np.float64]:
    """Standard normal scores with the study's memory, ``a_minute`` in each minute: (clips,)."""
    fresh = 1.0 - sum(share for share, _ in _REMEMBERED)
    scores: NDArray[np.float64] = np.sqrt(fresh) * rng.standard_normal(minutes * a_minute)
    for share, memory in _REMEMBERED:
        kept = np.exp(-1.0 / (memory * a_minute))
        noise = np.sqrt(1.0 - kept**2) * rng.standard_normal(len(scores))
        noise[0] = rng.standard_normal()
        scores += np.sqrt(share) * lfilter([1.0], [1.0, -kept], noise)
    return scores


def anomalous(scores: NDArray[np.float64], *, fault_from: int | None = None, share: float = 0.99) -> NDArray[np.bool_]:
    """Which clips are anomalous, with a fault that ``share`` of the clips show from one of them on: (clips,)."""
    raised = scores.copy()
    if fault_from is not None:
        raised[fault_from:] += ndtri(share) - ndtri(FALSE_ALARMS)
    above: NDArray[np.bool_] = raised > ndtri(1.0 - FALSE_ALARMS)
    return above


@dataclass(frozen=True)
class History:
    """One section of machine type ``fan`` in one domain.

    ``anomalous``: of each clip, of which ``a_minute`` come in each minute. ``calibration_clips``: whose thresholds
    hold. ``stops``: (from, to) in minutes without a clip; ``quiet``: (from, to) whose clips are quieter than normal,
    and anomalous. ``restarts``: minutes at which the service's counters begin anew; ``second_from``: when a second
    instance takes the clips of every other minute.
    """

    section: str
    anomalous: NDArray[np.bool_]
    calibration_clips: int = 30
    a_minute: int = 1
    domain: Domain = Domain.SOURCE
    stops: Sequence[tuple[int, int]] = ()
    quiet: Sequence[tuple[int, int]] = ()
    restarts: Sequence[int] = ()
    second_from: int | None = None

    @property
    def minutes(self) -> int:
        """How long it lasts."""
        return len(self.anomalous) // self.a_minute

    def series(self) -> list[tuple[str, list[float | None]]]:
        """The section's series, each with its value in every minute."""
        minutes = self.minutes
        time = np.arange(minutes)
        heard, quiet = np.ones(minutes, bool), np.zeros(minutes, bool)
        for begin, end in self.stops:
            heard[begin:end] = False
        for begin, end in self.quiet:
            quiet[begin:end] = True
        above = np.where(quiet, self.a_minute, self.anomalous.reshape(minutes, self.a_minute).sum(axis=1))
        second = np.zeros(minutes, bool) if self.second_from is None else (time >= self.second_from) & (time % 2 == 1)
        found: list[tuple[str, list[float | None]]] = []
        begins = [0] if self.second_from is None else [0, self.second_from]
        for instance, begin in zip(INSTANCES, begins, strict=False):
            own = heard & (second == (instance == INSTANCES[1]))
            where = f'machine_type="fan",section="{self.section}",domain="{self.domain}"'
            labels = f'instance="{instance}",{where}'
            for decision, clips in (("anomalous", above), ("normal", self.a_minute - above)):
                name = f'earwitness_decisions_total{{{labels},decision="{decision}"}}'
                counts = counted(own * clips, self.restarts)
                counts[:begin] = [None] * begin
                found.append((name, counts))
            last = np.maximum.accumulate(np.where(own, time * 60, -1)).tolist()
            seen = [None if minute < 0 else minute for minute in last]
            found.append((f"earwitness_last_clip_timestamp_seconds{{{labels}}}", seen))
            found.append((f"earwitness_level_below_normal{{{labels}}}", quiet.astype(float).tolist()))
            for window in WANDER:
                share = round(alarm_share(self.calibration_clips, FALSE_ALARMS, window), 4)
                name = f'earwitness_alarm_share{{{labels},window="{window}"}}'
                found.append((name, [share] * minutes))
        return found


def counted(events: NDArray[np.int64], restarts: Sequence[int]) -> list[float | None]:
    """A counter of the events of each minute, from 0 again at each restart."""
    values = np.cumsum(events)
    for restart in restarts:
        values[restart:] -= values[restart]
    return [float(value) for value in values]


def sounds_wrong_after(above: NDArray[np.bool_], share: float, *, a_minute: int = 1) -> int | None:
    """The first of two minutes in a row in which more than ``share`` of the last hour's clips are anomalous."""
    each = above.reshape(-1, a_minute).sum(axis=1)
    hours = np.convolve(each, np.ones(HOUR, np.int64))[: len(each)] / (HOUR * a_minute)
    hours[:HOUR] = 0.0  # no whole hour yet
    crossed = np.flatnonzero((hours[:-1] > share) & (hours[1:] > share))
    return int(crossed[0]) if len(crossed) else None


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


def check(folder: Path, histories: Sequence[History], expectations: list[dict[str, Any]], *, every: int = STEP) -> None:
    """Let promtool look ``every`` so many minutes at ``histories``, by the project's rules, and compare."""
    series = [one for history in histories for one in history.series()]
    series += [(f'up{{job="earwitness",instance="{one}"}}', [1.0] * histories[0].minutes) for one in INSTANCES]
    written = [{"series": name, "values": notation(values[::every])} for name, values in series]
    test = {"interval": f"{every}m", "input_series": written, "promql_expr_test": expectations}
    file = folder / "test.yml"
    rules = [str(path) for path in sorted(RULES.glob("*.yml"))]
    file.write_text(
        yaml.safe_dump({"rule_files": rules, "evaluation_interval": f"{every}m", "tests": [test]}, width=1000)
    )
    run("promtool", "test", "rules", file)


def firing(alert: str, section: str = ".*") -> str:
    """PromQL: a 1 for each section of which an alert has fired so far."""
    chosen = f'alertname=~"{alert}",section=~"{section}",alertstate="firing"'
    return f"max by (section) (max_over_time(ALERTS{{{chosen}}}[30d]))"
