"""A checkpoint: all variables of a model and its optimiser, and beside them what a run needs to go on."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.storage import write_atomically


def save_checkpoint(path: Path, model: keras.Model, **beside: NDArray[Any]) -> None:
    """Write the variables of ``model`` and the arrays ``beside`` them; no name of these begins with ``variable_``."""
    arrays: dict[str, Any] = {f"variable_{i:04d}": ops.convert_to_numpy(v) for i, v in enumerate(_variables(model))}
    arrays |= beside
    write_atomically(path, lambda file: np.savez(file, **arrays))


def restore_checkpoint(path: Path, model: keras.Model) -> dict[str, NDArray[Any]] | None:
    """Load the variables of ``model``, its optimiser built, and return the arrays beside them; None without a file."""
    if not path.exists():
        return None
    with np.load(path) as saved:
        for i, variable in enumerate(_variables(model)):
            variable.assign(saved[f"variable_{i:04d}"])
        return {name: saved[name] for name in saved.files if not name.startswith("variable_")}


def _variables(model: keras.Model) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]
