"""Runs networks that hear the same input: (clips, ...) -> (clips, networks, 128) L2-normalised embeddings.

The paper's embedders take log-mels, (clips, 313, 128); those of other systems take vectors of statistics.

On a CPU each member has a session of one thread that does not spin, and the members of a call are fanned over a pool of
as many threads as there are cores: measured 1.6 to 2 times faster than sessions that share the cores among them.
A run holds at most eight clips there, since memory stays at the largest batch ever seen; and all sessions of a process
take it from one arena, for each needs it only while it runs: twenty members hold 200 MiB so, 650 apart. On a GPU the
members run one after another, each over the whole batch, in plain float32: TF32's rounding would move scores by more
than the canary allows.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import DeviceUnavailable, PrecisionUnavailable
from models.frontend import N_FRAMES, N_MELS
from models.reduced import Network, reduced_networks
from models.vocabulary import Precision

EMBEDDING_SIZE: Final = 128
LOG_MEL_SHAPE: Final = (N_FRAMES, N_MELS)
_CLIPS_A_RUN = {"cpu": 8, "cuda": 64}
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Device(StrEnum):
    """Where to run: ``auto`` takes a GPU that works, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What was asked for and what the sessions really run on.

    ``providers``: of the sessions themselves, not what the library lists. ``fallback``: ``auto`` found no GPU that
    works; ``reason`` then says why.
    """

    requested: Device
    running: Device
    providers: tuple[str, ...]
    fallback: bool = False
    reason: str | None = None


class InvalidEmbedder(ValueError):
    """Bytes that are no embedder; ``member`` is their place in the ensemble."""

    def __init__(self, member: int, message: str) -> None:
        self.member = member
        super().__init__(f"embedder {member}: {message}")


class Encoder:
    """The embedders of an ensemble, loaded. `encode` may be called from any number of threads at once.

    Parameters
    ----------
    embedders : ONNX models, each (clips, *shape) float32 -> (clips, 128) float32.
    shape : of what they take of a clip.
    device : where to run.
    threads : how many members run at once on a CPU; None is one a core.
    precision : in which they compute; bfloat16 runs on a CPU alone, by OpenVINO.

    Raises
    ------
    DeviceUnavailable : for ``cuda`` where no session can run on a GPU.
    PrecisionUnavailable : where the CPU, or what is installed, does not compute in ``precision``.
    InvalidEmbedder : for bytes that are no such model.
    """

    def __init__(
        self,
        embedders: Sequence[bytes],
        *,
        shape: tuple[int, ...] = LOG_MEL_SHAPE,
        device: Device = Device.AUTO,
        threads: int | None = None,
        precision: Precision = Precision.FLOAT32,
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"{threads} threads; at least 1 is needed.")
        self._shape = shape
        reduced = precision is not Precision.FLOAT32
        if reduced and device is Device.CUDA:
            raise PrecisionUnavailable(f"Networks in {precision.value} run on the CPU. Use device=cpu or auto.")
        sessions, self.device = _open_sessions(embedders, shape, Device.CPU if reduced else device)
        if reduced:
            self._networks = reduced_networks(embedders, precision)
            self.device = DeviceInfo(device, Device.CPU, (f"OpenVINO {precision.value}",))
        else:
            self._networks = [_network(session) for session in sessions]
        self._clips_a_run = _CLIPS_A_RUN[self.device.running.value]
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="encoder")

    def encode(
        self, inputs: NDArray[np.float32], members: Sequence[int], free: Callable[[], None] | None = None
    ) -> NDArray[np.float32]:
        """Embed clips with some of the members.

        Parameters
        ----------
        inputs : (clips, *shape), not standardised: the first layer of each embedder does that.
        members : their places in the ensemble.
        free : called when a thread has begun the last of it, so that another call's work would begin next; on a GPU,
            where there is no work, and where runs fail before that, not at all.

        Returns
        -------
        (clips, len(members), 128) float32, each embedding of length 1.

        Raises
        ------
        ValueError : for another shape.
        """
        if inputs.shape[1:] != self._shape:
            needed = ", ".join(("clips", *map(str, self._shape)))
            raise ValueError(f"inputs of shape {inputs.shape}; ({needed}) are needed.")
        inputs = np.ascontiguousarray(inputs, np.float32)
        embeddings = np.empty((len(inputs), len(members), EMBEDDING_SIZE), np.float32)

        starts = range(0, len(inputs), self._clips_a_run)
        work = list(itertools.product(starts, range(len(members))))

        def run(start: int, column: int) -> None:
            rows = slice(start, start + self._clips_a_run)
            embeddings[rows, column] = self._networks[members[column]](inputs[rows])

        left = iter(range(len(work)))  # one for all threads, each of which takes what is next

        def run_what_is_left() -> None:
            for place in left:
                if free is not None and place == len(work) - 1:
                    free()
                run(*work[place])

        if self.device.running is Device.CUDA:
            for one in work:
                run(*one)
        else:
            runs = [self._pool.submit(run_what_is_left) for _ in range(min(self._threads, len(work)))]
            wait(runs)  # for all at once: who waits for each wakes at each, and takes a core from those that work
            for ended in runs:
                ended.result()
        return l2_normalised(embeddings)

    def close(self) -> None:
        """End the threads; `encode` can no longer be called."""
        self._pool.shutdown()


def l2_normalised(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """``embeddings`` (..., 128) divided by their Euclidean length; zero stays zero."""
    lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    normalised: NDArray[np.float32] = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalised


def _open_sessions(embedders: Sequence[bytes], shape: tuple[int, ...], device: Device) -> tuple[list[Any], DeviceInfo]:
    if device is Device.CPU:
        sessions = _sessions(embedders, shape, Device.CPU)
        return sessions, _info(sessions, device, Device.CPU)
    try:
        sessions = _sessions(embedders, shape, Device.CUDA)
    except DeviceUnavailable as error:
        if device is Device.CUDA:
            raise
        sessions = _sessions(embedders, shape, Device.CPU)
        return sessions, _info(sessions, device, Device.CPU, str(error))
    return sessions, _info(sessions, device, Device.CUDA)


def _network(session: Any) -> Network:
    name = session.get_inputs()[0].name

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(None, {name: x})[0]
        return found

    return run


def _info(sessions: Sequence[Any], requested: Device, running: Device, reason: str | None = None) -> DeviceInfo:
    providers = tuple(sessions[0].get_providers())
    return DeviceInfo(requested, running, providers, fallback=reason is not None, reason=reason)


def _sessions(embedders: Sequence[bytes], shape: tuple[int, ...], device: Device) -> list[Any]:
    """One session a member on ``device``; raises `DeviceUnavailable` where they do not really run there."""
    import onnxruntime  # noqa: PLC0415  # a tenth of a second, which importing this module must not cost

    if device is Device.CUDA:
        if _CUDA not in onnxruntime.get_available_providers():
            raise DeviceUnavailable(
                "The installed onnxruntime has no CUDA. Install the extra 'gpu' in place of 'cpu', or use device=cpu."
            )
        onnxruntime.preload_dlls()  # finds the CUDA libraries that came as wheels
    sessions = []
    for member, content in enumerate(embedders):
        session = _session(onnxruntime, member, content, shape, device)
        if device is Device.CUDA and session.get_providers()[0] != _CUDA:
            raise DeviceUnavailable(
                f"onnxruntime lists CUDA, but its sessions run on {session.get_providers()[0]}: the GPU, its driver or "
                "CUDA's libraries are missing here. Check nvidia-smi, or use device=cpu."
            )
        sessions.append(session)
    return sessions


def _session(onnxruntime: Any, member: int, content: bytes, shape: tuple[int, ...], device: Device) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4  # what is wrong is raised here, as one sentence
    if device is Device.CPU:
        _register_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    cuda = (_CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
    providers = [cuda, _CPU] if device is Device.CUDA else [_CPU]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # onnxruntime raises what protobuf, the graph or the device make of it
        if device is Device.CUDA:
            raise DeviceUnavailable(f"The GPU cannot run embedder {member} ({error}). Use device=cpu.") from error
        raise InvalidEmbedder(member, f"onnxruntime cannot load it ({error})") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = [value.shape[1:] for value in (*inputs, *outputs)]
    if shapes != [[*shape], [EMBEDDING_SIZE]]:
        needed = ", ".join(("clips", *map(str, shape)))
        raise InvalidEmbedder(
            member, f"shapes {shapes}; one input ({needed}) and one output (clips, {EMBEDDING_SIZE}) are needed"
        )
    return session


@cache
def _register_arena() -> None:
    """The process's arena, once: onnxruntime keeps it for as long as the process lives."""
    import onnxruntime  # noqa: PLC0415

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({}))
