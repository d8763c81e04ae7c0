"""Networks in bfloat16, run by OpenVINO on a CPU that multiplies it: half the bits, about twice the speed.

OpenVINO is the extra ``openvino``. Asked for bfloat16 where the CPU has none it computes in float32 without a word, and
a bundle's mixtures and thresholds are of its own encoder's embeddings: so a CPU that does not list it is refused.
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import PrecisionUnavailable
from models.vocabulary import Precision

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_HINTS = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16"}


def check_precision(precision: Precision) -> Any:
    """OpenVINO's core, where this machine computes in ``precision``.

    Raises
    ------
    PrecisionUnavailable : where OpenVINO is not installed, or the CPU does not.
    """
    try:
        import openvino  # noqa: PLC0415  an extra, and a second
    except ImportError as error:
        raise PrecisionUnavailable(
            f"The networks run in {precision.value}, for which OpenVINO is needed: install the extra 'openvino'."
        ) from error
    core = openvino.Core()
    can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision is Precision.BFLOAT16 and "BF16" not in can:
        raise PrecisionUnavailable(
            f"The networks run in bfloat16, which this CPU does not compute (it does {', '.join(can)}). Use one that "
            "does (AVX512-BF16 or AMX), or a bundle of float32: training export --precision float32."
        )
    return core


def reduced_networks(embedders: Sequence[bytes], precision: Precision) -> list[Network]:
    """One network an embedder, each on one thread, ready to be called from any; raises `PrecisionUnavailable`."""
    core = check_precision(precision)
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    return [_network(core.compile_model(core.read_model(content), "CPU", settings)) for content in embedders]


def _network(compiled: Any) -> Network:
    request, lock = compiled.create_infer_request(), Lock()

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with lock:  # a request holds one input at a time
            result: NDArray[np.float32] = request.infer({0: x})[0].copy()
            return result

    return run
