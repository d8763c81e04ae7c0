"""The alert rules in promtool's hands: what is usual fires nothing, and a fault that lasts fires in time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.containers.checkers import installed
from tests.containers.histories import DAY, HOUR, History, anomalous, check, firing, remembering

WEEK = 7 * DAY
EVERYTHING = "Machine.*|Earwitness.*"


@pytest.fixture(autouse=True)
def _promtool() -> None:
    """Each test needs promtool."""
    installed("promtool", "prometheus")


def independent(seed: int, minutes: int) -> NDArray[np.float64]:
    """Scores that remember nothing."""
    return np.random.default_rng(seed).standard_normal(minutes)


def test_a_usual_week_fires_nothing(tmp_path: Path) -> None:
    """Ten per cent false alarms, a clip a minute: alone, through restarts, with stops, with a second instance.

    The machine stops for an hour at a time, with its microphone and without: what the empty hall sounds like is called
    anomalous, and counts for nothing. (A longer stop is told, as information: the last test.)
    """
    stops = [(day * DAY + 12 * HOUR, day * DAY + 13 * HOUR) for day in range(7)]
    histories = [
        *(History(f"n{n}", anomalous(independent(n, WEEK)), n) for n in (30, 145, 300)),
        History("restarted", anomalous(independent(1, WEEK)), restarts=[2 * DAY + 7, 2 * DAY + 30, 5 * DAY + 3 * HOUR]),
        History("silent", anomalous(independent(2, WEEK)), stops=stops),
        History("quiet", anomalous(independent(3, WEEK)), quiet=stops),
        History("two", anomalous(independent(4, WEEK)), second_from=3 * DAY),
    ]
    counted = 'count(machine:anomalous:share1h{section!="silent"}) + count(machine:anomalous:share1d{section!="quiet"})'
    check(
        tmp_path,
        histories,
        [
            {"expr": firing(EVERYTHING), "eval_time": "7d", "exp_samples": []},
            # and not because nothing was counted
            {"expr": counted, "eval_time": "6d20h", "exp_samples": [{"labels": "{}", "value": 12}]},
        ],
    )


def test_a_lasting_fault_fires_in_time(tmp_path: Path) -> None:
    """Within an hour where 99 of 100 clips show it, with a past and without one; as drift where 60 do, within the day.

    What lasts is told once: a day later it has become the machine's past, and nothing fires any more.
    """
    fault, minutes = 3 * DAY, 4 * DAY + 6 * HOUR
    histories = [
        *(History(f"strong-{n}", anomalous(independent(n, minutes), fault_from=fault), n) for n in (30, 300)),
        *(History(f"weak-{n}", anomalous(independent(n, minutes), fault_from=fault, share=0.6), n) for n in (30, 145)),
        History("clean-past", anomalous(independent(7, minutes), fault_from=fault), stops=[(0, fault - 30)]),
        # five clips of a machine that comes back after a long stop, all of them anomalous, are no habit
        History(
            "came-back", anomalous(independent(8, minutes), fault_from=fault), stops=[(0, DAY), (DAY + 5, 2 * DAY)]
        ),
    ]
    histories[-1].anomalous[DAY : DAY + 5] = True

    def fired(alert: str, when: str, *named: str) -> dict[str, Any]:
        found = [{"labels": f'{{section="{name}"}}', "value": 1} for name in named]
        return {"expr": firing(alert), "eval_time": when, "exp_samples": found}

    strong = ("came-back", "clean-past", "strong-30", "strong-300")
    check(
        tmp_path,
        histories,
        [
            fired("Machine(SoundsWrong|Drifts)", "3d"),
            fired("MachineSoundsWrong", "3d40m"),
            fired("MachineSoundsWrong", "3d1h", *strong),
            fired("MachineDrifts", "3d11h", *strong),
            fired("MachineDrifts", "3d14h", *strong, "weak-145"),
            fired("MachineDrifts", "3d20h", *strong, "weak-145", "weak-30"),
            {"expr": 'ALERTS{alertname="MachineSoundsWrong"}', "eval_time": "4d4h", "exp_samples": []},
        ],
    )


def test_a_weak_fault_of_machines_that_wander(tmp_path: Path) -> None:
    """Six clips in ten, scores with a memory: half of the machines are found in 12 h (30 clips) and in 6 h (145)."""
    fault, machines = 2 * DAY, 20
    rng = np.random.default_rng(2021)
    histories = [
        History(f"{n}-{i}", anomalous(remembering(rng, fault + 13 * HOUR), fault_from=fault, share=0.6), n)
        for n in (30, 145)
        for i in range(machines)
    ]
    half = [
        (f"count({firing('Machine.*', f'{n}-.*')}) >= bool {machines // 2}", hours) for n, hours in ((30, 12), (145, 6))
    ]
    one = [{"labels": "{}", "value": 1}]
    check(tmp_path, histories, [{"expr": expr, "eval_time": f"2d{hours}h", "exp_samples": one} for expr, hours in half])
