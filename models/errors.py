"""What can go wrong, as one tree. Every message is a sentence with the value, and says what to do.

::

    EarwitnessError
    ├── InvalidName             a machine type, section or bundle name that cannot be one
    ├── AudioError              the clip cannot be used
    │   ├── NotAudio            the bytes are no WAV, FLAC or OGG
    │   ├── UndecodableAudio    they claim to be, but cannot be decoded to their end
    │   ├── ClipTooShort
    │   ├── ClipTooLong
    │   ├── SilentClip
    │   └── NonFiniteAudio      NaN or infinity among the samples
    ├── UnknownMachineType      the bundle does not know it
    ├── UnknownSection
    ├── NoTargetClips           a target-domain score was asked for, but no target clip is known
    ├── TargetClipsError        the clips offered for a registration cannot be registered
    ├── BundleError             a bundle cannot be written, read or trusted
    │   ├── BundleNotFound
    │   ├── BundleFormatError   another format version, or not the format
    │   ├── BundleDigestError   a file is not the one the manifest names
    │   ├── UnsafePickle        a pickle names a class beyond numpy's arrays
    │   ├── UntrustedBundle     it is not signed by the owner of the key that was given
    │   └── CanaryError         the loaded bundle does not reproduce its own scores
    ├── SigningKeyError         a key that signs or verifies bundles cannot be read or written
    ├── DeviceUnavailable       the device asked for cannot run the bundle
    ├── PrecisionUnavailable    this machine does not compute as the bundle's networks need it
    ├── DataError               recordings or a manifest cannot be read as asked
    │   └── NotTrainable        they can, but nothing can be trained on them
    ├── DownloadError           a file of the challenge cannot be fetched, or is not what its record says
    │   ├── ServerUnreachable   nobody answers, or every connection is cut
    │   └── ArchiveRefused      an archive holds what must not be unpacked, or is damaged
    └── TrainingDiverged        NaN or infinity in the loss or the AdaCos scale

HTTP lives in `service`, which maps this tree to status codes in one table.
"""

from collections.abc import Sequence
from pathlib import Path


class EarwitnessError(Exception):
    """Base of every error that a user can cause and mend."""


class InvalidName(EarwitnessError):
    """A name outside ``[A-Za-z0-9][A-Za-z0-9._-]{0,63}``."""


class AudioError(EarwitnessError):
    """The clip cannot be used."""


class NotAudio(AudioError):
    """The bytes are no WAV, FLAC or OGG file."""


class UndecodableAudio(AudioError):
    """An audio file that cannot be decoded to its declared end."""


class ClipTooShort(AudioError):
    """Shorter than the shortest clip that can be scored."""


class ClipTooLong(AudioError):
    """Longer than the longest clip that is accepted."""


class SilentClip(AudioError):
    """No sample reaches the level that a live microphone always reaches."""


class NonFiniteAudio(AudioError):
    """NaN or infinity among the samples."""


def _listing(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "") if names else "none"


class UnknownMachineType(EarwitnessError):
    """A machine type that the bundle does not know; ``known`` are those it does."""

    def __init__(self, machine_type: str, known: Sequence[str]) -> None:
        self.known = tuple(known)
        super().__init__(
            f"Machine type {machine_type!r} is not in the loaded bundle. Known machine types: {_listing(self.known)}."
        )


class UnknownSection(EarwitnessError):
    """A section that the machine type does not have; ``known`` are those it has."""

    def __init__(self, machine_type: str, section: str, known: Sequence[str]) -> None:
        self.known = tuple(known)
        super().__init__(
            f"Machine type {machine_type!r} has no section {section!r} in the loaded bundle. "
            f"Its sections: {_listing(self.known)}."
        )


class NoTargetClips(EarwitnessError):
    """A target-domain score was asked for where no target-domain clip is known."""

    def __init__(self, machine_type: str, section: str) -> None:
        super().__init__(
            f"Section {section!r} of machine type {machine_type!r} has no target-domain clips. Register three to fifty "
            "normal clips of the changed condition with POST /target-samples, or score with domain 'source'."
        )


class TargetClipsError(EarwitnessError):
    """Target clips that cannot be registered; ``position`` (from 1) names the offending clip where there is one."""

    def __init__(self, message: str, position: int | None = None) -> None:
        self.position = position
        super().__init__(message)


class BundleError(EarwitnessError):
    """A bundle that cannot be written, read or trusted; ``path`` is the file in question."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


class BundleNotFound(BundleError):
    """There is no bundle at this place."""


class BundleFormatError(BundleError):
    """Another format version, or not the format at all."""


class BundleDigestError(BundleError):
    """A file is missing, unexpected, or not the one that the manifest names."""


class UnsafePickle(BundleError):
    """A pickle that names a class beyond numpy's arrays."""


class UntrustedBundle(BundleError):
    """A bundle without a signature by the owner of the public key that was given."""


class CanaryError(BundleError):
    """The loaded bundle does not reproduce its own expected scores on this machine."""


class SigningKeyError(EarwitnessError):
    """A key that signs or verifies bundles, and cannot be read or written, or is none."""


class DeviceUnavailable(EarwitnessError):
    """The device asked for cannot run the bundle."""


class PrecisionUnavailable(EarwitnessError):
    """This machine does not compute in the precision that the networks were calibrated in."""


class DataError(EarwitnessError):
    """Recordings or a manifest that cannot be read as asked."""


class NotTrainable(DataError):
    """Readable recordings on which nothing can be trained."""


class DownloadError(EarwitnessError):
    """A file of the challenge that cannot be fetched, or is not what its record says."""


class ServerUnreachable(DownloadError):
    """A server that does not answer, or cuts every connection."""


class ArchiveRefused(DownloadError):
    """An archive that is damaged, or has an entry that must not be unpacked: none of it has been."""


class TrainingDiverged(EarwitnessError):
    """NaN or infinity in the loss or the AdaCos scale."""
