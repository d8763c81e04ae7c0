"""The networks of a bundle, opened: each kind of them embeds what it hears of a clip."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from models.bundle import Bundle
from models.compact import INPUT_SIZES
from models.encoder import LOG_MEL_SHAPE, Device, DeviceInfo, Encoder, InvalidEmbedder
from models.errors import BundleError, BundleFormatError, PrecisionUnavailable
from models.manifest import FILE_NAME
from models.systems import Embeddings, Inputs
from models.vocabulary import SubSystem

_SHAPES: Final = {SubSystem.R: LOG_MEL_SHAPE, **{kind: (size,) for kind, size in INPUT_SIZES.items()}}


class Networks:
    """An `Encoder` for each kind of network that the bundle has; none where its systems need none.

    Parameters
    ----------
    device, threads : see `Encoder`.

    Raises
    ------
    BundleFormatError : for a network that cannot be run.
    BundleError : where this machine does not compute in the precision of the bundle's networks.
    DeviceUnavailable : where the device asked for cannot run them.
    """

    def __init__(self, bundle: Bundle, *, device: Device, threads: int | None) -> None:
        self._bundle = bundle
        self._requested = device
        self._encoders = {
            kind: _encoder(bundle, kind, files, device, threads) for kind, files in _files(bundle).items()
        }

    @property
    def device(self) -> DeviceInfo:
        """What was asked for, and what they really run on; a bundle without networks runs on the CPU."""
        for encoder in self._encoders.values():
            return encoder.device
        return DeviceInfo(self._requested, Device.CPU, ())

    def encode(self, inputs: Inputs, members: Sequence[int], free: Callable[[], None] | None = None) -> Embeddings:
        """Embed windows by some of the members of each kind; ``free``: as of `Encoder.encode`, for the last kind.

        Raises
        ------
        BundleError : where a network gives NaN or infinity, on which nothing could be decided.
        """
        last = next(reversed(list(inputs)), None)
        embeddings = {
            kind: self._encoders[kind].encode(own, members, free if kind is last else None)
            for kind, own in inputs.items()
        }
        if not all(np.isfinite(own).all() for own in embeddings.values()):
            raise BundleError(
                self._bundle.path_of(FILE_NAME),
                "its networks give NaN or infinity for a finite clip. Train the bundle again.",
            )
        return embeddings

    def close(self) -> None:
        """Give back the threads; nothing more can be encoded."""
        for encoder in self._encoders.values():
            encoder.close()


def _files(bundle: Bundle) -> dict[SubSystem, list[str]]:
    """The networks by what they hear, in the manifest's order."""
    if bundle.manifest.members:
        return {SubSystem.R: [member.file for member in bundle.manifest.members]}
    files: dict[SubSystem, list[str]] = {}
    for network in bundle.manifest.fold_networks:
        files.setdefault(network.kind, []).append(network.file)
    return files


def _encoder(bundle: Bundle, kind: SubSystem, files: Sequence[str], device: Device, threads: int | None) -> Encoder:
    embedders = [bundle.embedders[file] for file in files]
    try:
        return Encoder(
            embedders, shape=_SHAPES[kind], device=device, threads=threads, precision=bundle.manifest.precision
        )
    except PrecisionUnavailable as error:
        raise BundleError(bundle.path_of(FILE_NAME), str(error)) from error
    except InvalidEmbedder as error:
        path = bundle.path_of(bundle.manifest.network_paths[files[error.member]])
        raise BundleFormatError(path, f"{error}. Get the bundle again, or export its networks again.") from error
