"""The alert rules in promtool's hands: what is usual fires nothing, and a fault that lasts fires in time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.vocabulary import Domain
from service.alarms import alarm_share
from tests.containers.checkers import installed
from tests.containers.histories import (
    DAY,
    FALSE_ALARMS,
    HOUR,
    History,
    anomalous,
    check,
    firing,
    remembering,
    sounds_wrong_after,
)

WEEK = 7 * DAY
EVERYTHING = "Machine.*|Earwitness.*"
OFTEN = 6
"""A clip every ten seconds."""


@pytest.fixture(autouse=True)
def _promtool() -> None:
    """Each test needs promtool."""
    installed("promtool", "prometheus")


def independent(seed: int, clips: int) -> NDArray[np.float64]:
    """Scores that remember nothing."""
    return np.random.default_rng(seed).standard_normal(clips)


def test_a_usual_week_fires_nothing(tmp_path: Path) -> None:
    """Ten per cent false alarms, a clip a minute or every ten seconds: alone, restarted, stopped, by two instances.

    The machine stops for an hour at a time, with its microphone and without: what the empty hall sounds like is called
    anomalous, and counts for nothing. (A longer stop is told, as information: the last test.) One is switched on for
    five minutes a day, too short to say more than that a machine starts with another sound.
    """
    stops = [(day * DAY + 12 * HOUR, day * DAY + 13 * HOUR) for day in range(7)]
    starting = np.ones(WEEK * OFTEN, np.bool_)
    off = [(0, 10 * HOUR), *((day * DAY + 10 * HOUR + 5, (day + 1) * DAY + 10 * HOUR) for day in range(7))]
    histories = [
        *(History(f"n{n}", anomalous(independent(n, WEEK)), n) for n in (30, 300)),
        *(History(f"often-{n}", anomalous(independent(n, WEEK * OFTEN)), n, a_minute=OFTEN) for n in (30, 300)),
        History("restarted", anomalous(independent(1, WEEK)), restarts=[2 * DAY + 7, 2 * DAY + 30, 5 * DAY + 3 * HOUR]),
        History("silent", anomalous(independent(2, WEEK)), stops=stops),
        History("quiet", anomalous(independent(3, WEEK * OFTEN)), a_minute=OFTEN, quiet=stops),
        History("two", anomalous(independent(4, WEEK)), second_from=3 * DAY),
        History("starting", starting, 300, a_minute=OFTEN, stops=off),
    ]
    alerts = "MachineSoundsWrong|MachineDrifts|MachineQuiet|Earwitness.*"
    counted = 'count(machine:anomalous:share1h{section!="silent"}) + count(machine:anomalous:share1d{section!="quiet"})'
    check(
        tmp_path,
        histories,
        [
            {"expr": firing(EVERYTHING, "[^s].*|silent"), "eval_time": "7d", "exp_samples": []},
            {"expr": firing(alerts, "starting"), "eval_time": "7d", "exp_samples": []},
            # and not because nothing was counted
            {"expr": counted, "eval_time": "6d20h", "exp_samples": [{"labels": "{}", "value": 14}]},
        ],
    )


def test_a_lasting_fault_fires_in_time(tmp_path: Path) -> None:
    """Within an hour where 99 of 100 clips show it, with a past and without one; as drift where 60 do, within the day.

    As soon with a clip every ten seconds. What lasts is told once: a day later it has become the machine's past, and
    nothing fires any more.
    """
    fault, minutes = 3 * DAY, 4 * DAY + 6 * HOUR

    def history(name: str, seed: int, n: int, share: float = 0.99, a_minute: int = 1, **more: Any) -> History:
        scores = independent(seed, minutes * a_minute)
        return History(name, anomalous(scores, fault_from=fault * a_minute, share=share), n, a_minute=a_minute, **more)

    histories = [
        *(history(f"strong-{n}", n, n) for n in (30, 300)),
        history("often-30", 31, 30, a_minute=OFTEN),
        *(history(f"weak-{n}", n, n, share=0.6) for n in (30, 145)),
        history("often-weak-145", 146, 145, share=0.6, a_minute=OFTEN),
        history("clean-past", 7, 30, stops=[(0, fault - 30)]),
        # five minutes of a machine that comes back after a long stop, all of them anomalous, are no habit
        history("came-back", 8, 30, share=0.999, stops=[(0, DAY), (DAY + 5, 2 * DAY)], a_minute=OFTEN),
    ]
    histories[-1].anomalous[DAY * OFTEN : (DAY + 5) * OFTEN] = True

    def fired(alert: str, when: str, *named: str) -> dict[str, Any]:
        found = [{"labels": f'{{section="{name}"}}', "value": 1} for name in named]
        return {"expr": firing(alert), "eval_time": when, "exp_samples": found}

    strong = ("came-back", "clean-past", "often-30", "strong-30", "strong-300")
    weak = ("often-weak-145", "weak-145")
    check(
        tmp_path,
        histories,
        [
            fired("Machine(SoundsWrong|Drifts)", "3d"),
            fired("MachineSoundsWrong", "3d40m"),
            fired("MachineSoundsWrong", "3d1h", *strong),
            fired("MachineDrifts", "3d11h", *strong),
            fired("MachineDrifts", "3d14h", *strong, *weak),
            fired("MachineDrifts", "3d20h", *strong, *weak, "weak-30"),
            {"expr": 'ALERTS{alertname="MachineSoundsWrong"}', "eval_time": "4d4h", "exp_samples": []},
        ],
    )


def test_source_and_target_are_apart(tmp_path: Path) -> None:
    """A fault in the one is not thinned by normal clips in the other, and each has its own threshold.

    Of three target clips nobody knows which rate of false alarms their threshold has: two clips in three are no alarm.
    """
    minutes = DAY + 2 * HOUR
    normal, fault = anomalous(independent(1, minutes)), anomalous(independent(2, minutes), fault_from=DAY)
    two_in_three = independent(3, minutes) < 0.43
    histories = [
        *(History("faulty", *one) for one in ((normal, 145, 1, Domain.SOURCE), (fault, 50, 1, Domain.TARGET))),
        *(History("unsure", *one) for one in ((normal, 145, 1, Domain.SOURCE), (two_in_three, 3, 1, Domain.TARGET))),
    ]
    found = 'max by (alertname, section, domain) (ALERTS{alertstate="firing"})'
    labels = '{alertname="MachineSoundsWrong",section="faulty",domain="target"}'
    check(
        tmp_path,
        histories,
        [
            {"expr": found, "eval_time": "1d", "exp_samples": []},
            {"expr": found, "eval_time": "1d1h15m", "exp_samples": [{"labels": labels, "value": 1}]},
        ],
    )


def test_a_weak_fault_is_told_as_soon_as_the_study_found_it(tmp_path: Path) -> None:
    """Six clips in ten, scores with a memory: half of the machines within 10 h (30 clips) and 3 h (145).

    A thousand machines each as the study counted; of some the rules say the same to the minute, at both rates of clips.
    """
    begin, hours = 2 * HOUR, 14

    def drawn(seed: int, a_minute: int) -> NDArray[np.bool_]:
        scores = remembering(np.random.default_rng([2021, seed, a_minute]), begin + hours * HOUR, a_minute)
        return anomalous(scores, fault_from=begin * a_minute, share=0.6)

    histories: list[History] = []
    expectations: list[dict[str, Any]] = []
    for n, within in ((30, 10), (145, 3)):
        share = alarm_share(n, FALSE_ALARMS, "1h")
        told = [sounds_wrong_after(drawn(seed, 1), share) for seed in range(1000)]
        assert sum(one is not None and one - begin <= within * HOUR for one in told) >= 500
        for seed, a_minute in ((0, 1), (1, 1), (2, 1), (0, OFTEN), (1, OFTEN)):
            above = drawn(seed, a_minute)
            when = sounds_wrong_after(above, share, a_minute=a_minute)
            name = f"{n}-{a_minute}-{seed}"
            histories.append(History(name, above, n, a_minute=a_minute))
            fired = {"labels": f'{{section="{name}"}}', "value": 1}
            last = histories[-1].minutes - 1 if when is None else when
            expr = firing("MachineSoundsWrong", name)
            expectations.append({"expr": expr, "eval_time": f"{last}m", "exp_samples": []})
            if when is not None:
                expectations.append({"expr": expr, "eval_time": f"{when + 1}m", "exp_samples": [fired]})
    assert len(expectations) > len(histories)
    check(tmp_path, histories, expectations, every=1)
