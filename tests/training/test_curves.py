"""A network's curves in its bundle: short, and nothing that matters is lost on the way."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from training.curves import HISTORY_COLUMNS, MOST_POINTS, curves_of, thin


def history(epochs: int) -> NDArray[np.float64]:
    """Losses that fall, a section scale that rises, no attribute head."""
    epoch = np.arange(1.0, epochs + 1)
    nothing = np.full(epochs, np.nan)
    return np.stack([epoch, 1 / epoch, 1 / epoch, nothing, epoch, nothing, np.zeros(epochs)], axis=1)


def test_a_short_history_is_kept_as_it_is() -> None:
    """Every epoch a point; the columns of a head that the network lacks are left out."""
    curve = thin(history(8))
    assert list(curve) == ["epoch", "loss", "section_loss", "section_scale", "limited"]
    assert curve["epoch"] == list(range(1, 9))
    assert curve["loss"] == pytest.approx([1 / epoch for epoch in range(1, 9)], rel=1e-4)


def test_a_long_history_keeps_its_peaks_and_its_last_epoch() -> None:
    """A scale that blew up in one epoch of 1,000, and the limit it met there, are still to be seen."""
    long = history(1000)
    long[:, 4] = 5.0
    long[637, 4:] = 858.0, np.nan, 1.0
    curve = thin(long)
    assert len(curve["epoch"]) == MOST_POINTS
    assert curve["epoch"][-1] == 1000
    assert curve["epoch"] == sorted(curve["epoch"])
    assert max(curve["section_scale"]) == 858.0
    assert sum(curve["limited"]) == 1.0
    assert curve["limited"].index(1.0) == curve["section_scale"].index(858.0)
    assert curve["loss"][0] == pytest.approx(np.mean(long[:5, 1]), rel=1e-4)


def test_curves_come_back_from_a_manifest() -> None:
    """As they were; a bundle without them has none, and what is no curve is refused."""
    curves = {"both-heads-s2": thin(history(300))}
    training_data = json.loads(json.dumps({"clips": 3, "curves": curves}))
    assert curves_of(training_data) == curves
    assert curves_of({"clips": 3}) == {}
    with pytest.raises(ValidationError):
        curves_of({"curves": {"both-heads-s2": {"loss": ["low"]}}})


def test_every_column_has_its_rule() -> None:
    """A column that training adds must say how it is thinned."""
    assert list(thin(np.ones((3, len(HISTORY_COLUMNS))))) == list(HISTORY_COLUMNS)
