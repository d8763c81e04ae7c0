"""How many of a machine's clips must be anomalous before it sounds wrong, and not one clip that happened to be.

A threshold that was set on n clips to a false-alarm rate r keeps it only roughly. With k = floor(r (n + 1)) scores
above it, the rate of normal clips above it is Beta(k, n + 1 - k); its 99th percentile bounds it. A machine also
wanders by itself: over an hour more than over a day. The share theta of anomalous clips in a window that neither
explains is

    theta = Phi(Phi^-1(BetaInv(0.99; k, n + 1 - k)) + D),   D = 1.7 for an hour, 0.6 for a day

The rule and its two constants come from a simulation with machines whose memory lasts ten minutes and twelve hours.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from scipy.special import betaincinv, ndtr, ndtri

WANDER: Final[Mapping[str, float]] = MappingProxyType({"1h": 1.7, "24h": 0.6})
"""D, by window: how far a machine moves by itself, in standard deviations."""
_CONFIDENCE: Final = 0.99


def alarm_share(clips: int, false_alarm_rate: float, window: str) -> float:
    """The share of anomalous clips in ``window`` ("1h" or "24h") above which a section sounds wrong, in (0, 1).

    ``clips``, one or more, stand behind a threshold that is set to ``false_alarm_rate``.
    """
    above = max(1, math.floor(false_alarm_rate * (clips + 1) + 1e-9))
    bound = betaincinv(above, clips + 1 - above, _CONFIDENCE) if above <= clips else 1.0
    return float(ndtr(ndtri(bound) + WANDER[window]))
