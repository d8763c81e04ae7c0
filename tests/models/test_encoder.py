"""The encoder: the embeddings of a plain session, for each caller its own, on the device that it says."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from models.encoder import Device, Encoder, InvalidEmbedder
from models.errors import DeviceUnavailable
from models.reduced import Network
from tests.models.tiny import embedder

PATIENCE_S = 60.0
EMBEDDERS = [embedder(seed) for seed in (1, 2, 3)]


def log_mels(clips: int, seed: int = 0) -> NDArray[np.float32]:
    """Random decibels, each clip another."""
    random = np.random.default_rng(seed)
    return (random.normal(-60, 12, (clips, 313, 128)) + random.normal(0, 9, (clips, 1, 128))).astype(np.float32)


def plain(x: NDArray[np.float32], members: list[int]) -> NDArray[np.float64]:
    """The oracle: a session with defaults, one clip at a time, normalised in float64."""
    columns = []
    for member in members:
        session = onnxruntime.InferenceSession(EMBEDDERS[member], providers=["CPUExecutionProvider"])
        rows = np.concatenate([session.run(None, {"log_mel": clip[None]})[0] for clip in x]).astype(np.float64)
        columns.append(rows / np.sqrt((rows**2).sum(axis=1, keepdims=True)))
    return np.stack(columns, axis=1)


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    encoder = Encoder(EMBEDDERS, device=Device.CPU, threads=2)
    yield encoder
    encoder.close()


@pytest.mark.parametrize("clips", [1, 7, 8, 9, 17])
def test_embeddings_are_those_of_a_plain_session(encoder: Encoder, clips: int) -> None:
    """To 1e-6, whatever the number of clips: 8 are run at once."""
    x = log_mels(clips)
    found = encoder.encode(x, [0, 1, 2])
    assert found.shape == (clips, 3, 128)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain(x, [0, 1, 2]), rtol=0, atol=1e-6)


def test_embeddings_have_length_one(encoder: Encoder) -> None:
    lengths = np.linalg.norm(encoder.encode(log_mels(5), [0, 1]).astype(np.float64), axis=-1)
    np.testing.assert_allclose(lengths, 1.0, rtol=0, atol=1e-6)


def test_members_come_in_the_order_asked_for(encoder: Encoder) -> None:
    x = log_mels(3)
    every = encoder.encode(x, [0, 1, 2])
    np.testing.assert_array_equal(encoder.encode(x, [2, 0]), every[:, [2, 0]])
    assert np.abs(every[:, 0] - every[:, 1]).max() > 0.1


def test_no_clip_gives_no_embedding(encoder: Encoder) -> None:
    assert encoder.encode(log_mels(0), [0, 1]).shape == (0, 2, 128)


def test_a_view_in_another_order_gives_the_same(encoder: Encoder) -> None:
    """Rows picked backwards out of a larger array are not contiguous."""
    x = log_mels(6)
    np.testing.assert_allclose(encoder.encode(x[::-2], [1]), encoder.encode(x, [1])[::-2], rtol=0, atol=1e-6)


def test_concurrent_callers_get_their_own_rows(encoder: Encoder) -> None:
    """Sixteen threads at once, batches of several sizes and other members each: none sees another's clips."""
    calls = [(log_mels(1 + seed % 10, seed), [seed % 3, (seed + 1) % 3]) for seed in range(32)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda call: encoder.encode(*call), calls))
    for (x, members), embeddings in zip(calls, found, strict=True):
        np.testing.assert_array_equal(embeddings, encoder.encode(x, members))


@pytest.mark.parametrize("clips", [1, 9])
def test_the_device_is_told_free_once_when_the_last_run_begins(clips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine clips are two runs of each network; every other run has begun by then."""
    encoder = Encoder(EMBEDDERS, device=Device.CPU, threads=1)
    told: list[str] = []

    def noted(network: Network) -> Network:
        def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
            told.append("run")
            return network(x)

        return run

    monkeypatch.setattr(encoder, "_networks", [noted(network) for network in encoder._networks])
    encoder.encode(log_mels(clips), [0, 1, 2], lambda: told.append("free"))
    runs = 3 if clips == 1 else 6
    assert told == ["run"] * (runs - 1) + ["free", "run"]
    encoder.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_that_fails_fails_its_call_alone(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other of the call runs on when it has failed, and the next call is served."""
    encoder, x = Encoder(EMBEDDERS, device=Device.CPU, threads=threads), log_mels(1)
    failed, begun, ended = threading.Event(), list[int](), list[int]()

    def failing(x: NDArray[np.float32]) -> NDArray[np.float32]:
        failed.set()
        raise MemoryError("no room")

    def slow(x: NDArray[np.float32]) -> NDArray[np.float32]:
        begun.append(1)
        assert failed.wait(PATIENCE_S)
        time.sleep(0.1)
        ended.append(1)
        return np.ones((len(x), 128), np.float32)

    with monkeypatch.context() as patched:
        patched.setattr(encoder, "_networks", [failing, slow, slow])
        with pytest.raises(MemoryError, match="no room"):
            encoder.encode(x, [0, 1, 2])
    assert len(begun) == len(ended) == 2 * (threads - 1)
    assert encoder.encode(x, [0, 1, 2]).shape == (1, 3, 128)
    encoder.close()


@pytest.mark.parametrize("shape", [(313, 128), (1, 312, 128), (1, 313, 64), (1, 313, 128, 1)])
def test_other_shapes_are_refused(encoder: Encoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="inputs of shape"):
        encoder.encode(np.zeros(shape, np.float32), [0])


@pytest.mark.parametrize("content", [b"", b"no model", EMBEDDERS[0][:500], embedder(1, output=64)])
def test_what_is_no_embedder_is_refused(content: bytes) -> None:
    """The error names the member."""
    with pytest.raises(InvalidEmbedder, match="embedder 1") as refusal:
        Encoder([EMBEDDERS[0], content], device=Device.CPU)
    assert refusal.value.member == 1


def test_no_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="0 threads"):
        Encoder(EMBEDDERS, device=Device.CPU, threads=0)


def test_it_says_what_it_runs_on(encoder: Encoder) -> None:
    assert encoder.device.requested is encoder.device.running is Device.CPU
    assert encoder.device.providers == ("CPUExecutionProvider",)
    assert not encoder.device.fallback
    assert encoder.device.reason is None


without_gpu = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)


@without_gpu
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(DeviceUnavailable, match=r"has no CUDA.*device=cpu"):
        Encoder(EMBEDDERS, device=Device.CUDA)


@without_gpu
def test_auto_falls_back_and_says_so() -> None:
    encoder = Encoder(EMBEDDERS, device=Device.AUTO, threads=1)
    assert (encoder.device.requested, encoder.device.running) == (Device.AUTO, Device.CPU)
    assert encoder.device.fallback
    assert "has no CUDA" in str(encoder.device.reason)
    encoder.close()


@without_gpu
@pytest.mark.parametrize("device", [Device.CUDA, Device.AUTO])
def test_listed_cuda_is_not_believed(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU package lists CUDA on a machine without a GPU, and its sessions silently run on the CPU."""
    opened: list[list[object]] = []
    plain_session = onnxruntime.InferenceSession

    def open_session(content: bytes, options: object, providers: list[object]) -> object:
        opened.append(providers)
        return plain_session(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: opened.append(["preloaded"]))
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    if device is Device.CUDA:
        with pytest.raises(DeviceUnavailable, match="run on CPUExecutionProvider"):
            Encoder(EMBEDDERS, device=device)
    else:
        encoder = Encoder(EMBEDDERS, device=device, threads=1)
        assert encoder.device.running is Device.CPU
        assert "run on CPUExecutionProvider" in str(encoder.device.reason)
        encoder.close()
    assert opened[0] == ["preloaded"]
    assert str(opened[1]).startswith("[('CUDAExecutionProvider'")


@without_gpu
def test_a_gpu_that_refuses_a_network_makes_auto_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_session = onnxruntime.InferenceSession

    def open_session(content: bytes, options: object, providers: list[object]) -> object:
        if len(providers) > 1:
            raise RuntimeError("CUDA out of memory")
        return plain_session(content, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    encoder = Encoder(EMBEDDERS, device=Device.AUTO, threads=1)
    assert "out of memory" in str(encoder.device.reason)
    encoder.close()


def test_sessions_have_one_thread_that_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions with default threads in one process double everyone's time."""
    options: list[onnxruntime.SessionOptions] = []
    plain_session = onnxruntime.InferenceSession

    def open_session(content: bytes, given: onnxruntime.SessionOptions, providers: list[object]) -> object:
        options.append(given)
        return plain_session(content, given, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    Encoder(EMBEDDERS, device=Device.CPU, threads=1).close()
    assert len(options) == 3
    for given in options:
        assert (given.intra_op_num_threads, given.inter_op_num_threads) == (1, 1)
        assert given.get_session_config_entry("session.intra_op.allow_spinning") == "0"
