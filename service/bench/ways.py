"""Two ways from the bytes of clips to their scores, which tell what each part took.

`Naive` is what one writes first: librosa's front end, a session a member with onnxruntime's defaults, one after
another, and scikit-learn's mixtures. `Ours` is what the service runs. Both give the anomaly score of each clip in
domain source, so that they can be compared; parts are wall seconds by name.
"""

import io
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.bundle import read_bundle
from models.detector import Detector
from models.encoder import Device, l2_normalised
from models.errors import DataError
from models.frontend import LogMelSpec, log_mel
from models.mixtures import Mixture
from models.scoring import SectionModel, score_section
from models.systems import Features, joined, places
from models.vocabulary import Decision, Domain
from service.bench.workload import key_of

Parts = dict[str, float]
Scores = NDArray[np.float64]


class Way(Protocol):
    """From clips to scores."""

    def run(self, clips: Sequence[bytes]) -> tuple[Scores, Parts]:
        """The anomaly score of each clip, and what the parts took."""

    def rate(self, embeddings: NDArray[np.float32]) -> Scores:
        """The anomaly scores of embeddings, (clips, members, 128), by the section's mixtures alone."""

    def close(self) -> None:
        """Give everything back."""


@contextmanager
def timed(parts: Parts, part: str) -> Iterator[None]:
    """Add what happens inside to a part."""
    begun = time.perf_counter()
    yield
    parts[part] = parts.get(part, 0.0) + time.perf_counter() - begun


class Ours:
    """The detector, with decoding, features and scores in a pool of a thread a core, as in the service."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.detector = Detector.load(folder, device=Device.CPU, threads=threads)
        self.key = key_of(self.detector.sections)
        self._pool = ThreadPoolExecutor(threads)

    def run(self, clips: Sequence[bytes], *, explained: bool = False) -> tuple[Scores, Parts]:
        """One batch; ``explained``: as the service answers it, with an explanation of each anomalous clip."""
        parts: Parts = {}
        with timed(parts, "decode"):
            heard = self._each(self.detector.decode, clips)
        with timed(parts, "features"):
            features: list[Features] = self._each(self.detector.analyse, heard)
        with timed(parts, "encode"):
            inputs = joined([self.detector.inputs(one) for one in features])
            embeddings = self.detector.encode(inputs, self.key.machine_type)
        with timed(parts, "score"):
            scores = self.detector.rate(self.key, Domain.SOURCE, Features.joined(features), embeddings)
            own = [scores.of(rows) for rows in places([len(one.log_mels) for one in features])]
            answer = self._answer if explained else self._assess
            found = self._each(answer, list(zip(heard, features, own, strict=True)))
        return np.array([one.anomaly_score for one in found]), parts

    def rate(self, embeddings: NDArray[np.float32]) -> Scores:
        """By all mixtures in their joint products."""
        model = self.detector.bundle.sections[self.key]
        assert isinstance(model, SectionModel), "nobody asks this of another system"
        return score_section(model, embeddings, None, Domain.SOURCE).anomaly_score

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
        self.detector.close()

    def _assess(self, one: tuple[Any, Any, Any]) -> Any:
        clip, _, scores = one
        return self.detector.assess(self.key, Domain.SOURCE, clip, scores)

    def _answer(self, one: tuple[Any, Any, Any]) -> Any:
        assessment = self._assess(one)
        if assessment.decision is Decision.ANOMALOUS:
            self.detector.explain(self.key, Domain.SOURCE, *one)
        return assessment

    def _each(self, function: Any, items: Sequence[Any]) -> list[Any]:
        """One clip is done here and now; several are spread over the pool."""
        return [function(items[0])] if len(items) == 1 else list(self._pool.map(function, items))


class Naive:
    """The way without thought, for the paper's system.

    Raises
    ------
    DataError : for a bundle of other systems: there is no naive way to compare with.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime  # noqa: PLC0415  in the process of the naive way alone
        import soundfile  # noqa: PLC0415

        bundle = read_bundle(folder)
        self.key = key_of(bundle.manifest.sections)
        model = bundle.sections[self.key]
        if not isinstance(model, SectionModel) or any(not member.attributes for member in model.members):
            raise DataError(f"{folder} is no bundle of the paper's system: it has no naive way to be compared with.")
        places = bundle.manifest.members_of(self.key.machine_type)
        files = [bundle.manifest.members[place].file for place in places]
        self._sessions = [onnxruntime.InferenceSession(bundle.embedders[file]) for file in files]
        self._mixtures = [
            (reference(member.section), [reference(one) for one in member.attributes.values()])
            for member in model.members
            if isinstance(member.section, Mixture)
        ]
        self._read = soundfile.read
        self.spec = bundle.manifest.front_end.spec()
        self.front_end = _front_end(self.spec)

    def run(self, clips: Sequence[bytes]) -> tuple[Scores, Parts]:
        """One batch."""
        parts: Parts = {}
        with timed(parts, "decode"):
            waveforms = [self._read(io.BytesIO(clip), dtype="float32")[0] for clip in clips]
        with timed(parts, "features"):
            log_mels = np.stack([self.front_end(waveform) for waveform in waveforms])
        with timed(parts, "encode"):
            embeddings = [
                l2_normalised(session.run(None, {session.get_inputs()[0].name: log_mels})[0])
                for session in self._sessions
            ]
        with timed(parts, "score"):
            scores = self.rate(np.stack(embeddings, axis=1))
        return scores, parts

    def rate(self, embeddings: NDArray[np.float32]) -> Scores:
        """By one mixture after another."""
        scores = np.zeros(len(embeddings))
        for x, (section, attributes) in zip(np.moveaxis(embeddings, 1, 0), self._mixtures, strict=True):
            wide = x.astype(np.float64)
            scores -= weighted(section, wide)
            scores -= np.max([weighted(one, wide) for one in attributes], axis=0)
        return scores

    def close(self) -> None:
        """Nothing to give back."""


def _front_end(spec: LogMelSpec) -> Any:
    """librosa's, where it is installed: a development tool; else ours, and the report says so."""
    return librosa_front_end(spec) or (lambda waveform: log_mel(waveform, spec))


def librosa_front_end(spec: LogMelSpec) -> Any:
    """The log-mel by librosa, or None where it is not installed."""
    try:
        import librosa  # noqa: PLC0415
    except ImportError:
        return None

    window = np.hanning(spec.n_fft)

    def by_librosa(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        power = librosa.feature.melspectrogram(
            y=waveform,
            sr=spec.sample_rate_hz,
            n_fft=spec.n_fft,
            hop_length=spec.hop_length,
            window=window,
            pad_mode="reflect",
            n_mels=spec.n_mels,
            fmin=spec.f_min_hz,
            fmax=spec.f_max_hz,
        )
        decibels: NDArray[np.float32] = (10.0 * np.log10(np.maximum(power, spec.floor))).T
        return decibels

    return by_librosa


def reference(mixture: Mixture) -> Any:
    """scikit-learn's mixture of full covariance matrices, in float64, that ``mixture`` is the small form of."""
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415

    k, d = mixture.means.shape
    reg = mixture.regularisation
    model = GaussianMixture(k)
    model.weights_ = np.exp(mixture.log_weights)
    model.means_ = mixture.means.astype(np.float64)
    precisions = np.repeat(np.eye(d)[None] / reg, k, axis=0)
    ends = np.cumsum(mixture.ranks)
    for component, (end, rank) in enumerate(zip(ends, mixture.ranks, strict=True)):
        own = mixture.factors[end - rank : end].astype(np.float64)
        precisions[component] -= own.T @ own
    model.precisions_cholesky_ = np.linalg.cholesky(precisions)
    return model


def weighted(model: Any, x: NDArray[np.float64]) -> Scores:
    """max_k ln w_k N_k by scikit-learn, (clips,)."""
    best: Scores = model._estimate_weighted_log_prob(x).max(axis=1)
    return best
