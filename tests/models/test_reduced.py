"""Networks in bfloat16: run where the machine computes it, refused by name where it does not."""

from dataclasses import replace

import numpy as np
import pytest

from models.bundle import Bundle
from models.detector import Detector
from models.encoder import Device, Encoder
from models.errors import BundleError, PrecisionUnavailable
from models.manifest import Manifest
from models.reduced import check_precision, reduced_networks
from models.vocabulary import Precision
from tests.models.test_encoder import EMBEDDERS, log_mels, plain

openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
HAS_BFLOAT16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def in_bfloat16(bundle: Bundle) -> Bundle:
    """The bundle, its members said to run in bfloat16."""
    members = tuple(member.model_copy(update={"precision": Precision.BFLOAT16}) for member in bundle.manifest.members)
    return replace(bundle, manifest=Manifest.model_validate(dict(bundle.manifest) | {"members": members}))


def test_openvino_runs_the_exported_graphs() -> None:
    """In float32, to 1e-4: what it makes of a graph is ours but for the precision."""
    x = log_mels(5)
    raw = [network(x) for network in reduced_networks(EMBEDDERS, Precision.FLOAT32)]
    found = np.stack([one / np.linalg.norm(one, axis=1, keepdims=True) for one in raw], axis=1)
    np.testing.assert_allclose(found, plain(x, [0, 1, 2]), rtol=0, atol=1e-4)


@pytest.mark.skipif(HAS_BFLOAT16, reason="this CPU computes bfloat16")
def test_a_cpu_without_bfloat16_is_refused(tiny_bundle: Bundle) -> None:
    """OpenVINO would compute in float32 without a word, on thresholds of other embeddings."""
    with pytest.raises(PrecisionUnavailable, match="which this CPU does not compute"):
        check_precision(Precision.BFLOAT16)
    with pytest.raises(BundleError, match=r"manifest\.json: The networks run in bfloat16.*float32"):
        Detector(in_bfloat16(tiny_bundle), device=Device.AUTO)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU does not compute bfloat16")
def test_bfloat16_is_near_float32_and_is_not_it() -> None:
    """Cosines to float32's embeddings within bfloat16's eight bits, and a device that says what runs."""
    x = log_mels(9)
    encoder = Encoder(EMBEDDERS, device=Device.AUTO, threads=2, precision=Precision.BFLOAT16)
    found = encoder.encode(x, [0, 1, 2])
    encoder.close()
    assert encoder.device.providers == ("OpenVINO bfloat16",)
    cosines = (found * plain(x, [0, 1, 2])).sum(axis=-1)
    assert cosines.min() > 0.99
    assert cosines.min() < 1.0 - 1e-7


def test_a_gpu_does_not_run_it() -> None:
    with pytest.raises(PrecisionUnavailable, match="run on the CPU"):
        Encoder(EMBEDDERS, device=Device.CUDA, precision=Precision.BFLOAT16)


def test_a_bundle_has_one_precision(tiny_bundle: Bundle) -> None:
    """Members of several would be calibrated on a mix that nobody asked for."""
    first, *others = in_bfloat16(tiny_bundle).manifest.members
    mixed = (first, *(member.model_copy(update={"precision": Precision.FLOAT32}) for member in others))
    with pytest.raises(ValueError, match="several precisions"):
        Manifest.model_validate(dict(tiny_bundle.manifest) | {"members": mixed})
