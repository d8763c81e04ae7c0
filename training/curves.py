"""How a network's training went: the history that training keeps, and the shorter form of it that a bundle carries.

A history has a row an epoch and the columns of `HISTORY_COLUMNS`; a network without attribute head has NaN in its.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

HISTORY_COLUMNS = ("epoch", "loss", "section_loss", "attribute_loss", "section_scale", "attribute_scale", "limited")
MOST_POINTS = 200
"""Of a curve in a bundle: a manifest is to be read, not to be scrolled through."""

Curve = dict[str, list[float]]
"""By column of `HISTORY_COLUMNS`, those of a head that the network lacks left out."""

_POINT: Mapping[str, Callable[[NDArray[np.float64]], Any]] = {
    "epoch": np.max,
    "loss": np.mean,
    "section_loss": np.mean,
    "attribute_loss": np.mean,
    "section_scale": np.max,
    "attribute_scale": np.max,
    "limited": np.max,
}
_CURVES = TypeAdapter(dict[str, Curve])


def thin(history: NDArray[np.float64], most: int = MOST_POINTS) -> Curve:
    """The history, (epochs, 7), with at most ``most`` points, each for some consecutive epochs.

    A point has its last epoch's number, the mean of its losses, the highest of its scales and whether any met the limit
    (1 or 0): a scale that blew up for one epoch must not vanish between two points. Five digits are kept.
    """
    parts = np.array_split(history, min(most, len(history)))
    points = np.array([[_POINT[name](part[:, i]) for i, name in enumerate(HISTORY_COLUMNS)] for part in parts])
    return {
        name: [float(f"{value:.5g}") for value in column]
        for name, column in zip(HISTORY_COLUMNS, points.T, strict=True)
        if not np.isnan(column).any()
    }


def curves_of(training_data: Mapping[str, Any]) -> dict[str, Curve]:
    """The curves in a manifest's ``training_data``, by network; none in a bundle that was made without them.

    Raises
    ------
    pydantic.ValidationError : for a field ``curves`` that holds something else.
    """
    return _CURVES.validate_python(training_data.get("curves", {}))
