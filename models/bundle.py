"""The bundle, an immutable folder with everything that serving needs; this module is the only owner of its format.

::

    manifest.json                            what is in it, and the digest of every other file (models/manifest.py)
    embedders/<member file>.onnx             one network a member; its first layer standardises the log-mel
    statistics_networks/<kind>-<fold>.onnx   where systems are fused: one network a kind and fold
    sections/<machine type>/<section>.pkl    what scores one section: plain dictionaries of numpy arrays
    calibration.npz                          per section and domain: calibration scores, mel bands, levels
    thresholds.json                          derived from it, for people
    canary.npz                               two clips and the scores they must be given
    manifest.sig                             where the bundle is signed; no part of it (models/signing.py)

Reading is parse, verify, construct: nothing is interpreted before each file's digest has been checked, on the very
bytes that are interpreted then.

``python -m models.bundle verify BUNDLE`` reads a bundle as the service would and says whether it can be trusted;
``key`` makes a pair of keys, and ``sign`` signs a bundle with one.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models import signing
from models.commands import shell_line
from models.compact import CompactSection
from models.contents import (
    LEVEL_QUANTILES,
    CalibrationKey,
    Canary,
    SectionCalibration,
    check_section,
    check_thresholds,
    decode_calibrations,
    decode_canary,
    decode_section,
    encode_calibrations,
    encode_canary,
    encode_section,
    encode_thresholds,
)
from models.errors import BundleDigestError, BundleError, BundleFormatError, BundleNotFound, EarwitnessError
from models.folders import list_folder, replace_file, write_folder
from models.manifest import FILE_NAME, Manifest, canonical_form, parse_manifest, render_manifest
from models.scoring import SectionModel
from models.vocabulary import SectionKey

__all__ = [
    "LEVEL_QUANTILES",
    "Bundle",
    "CalibrationKey",
    "Canary",
    "SectionCalibration",
    "read_bundle",
    "sign_bundle",
    "write_bundle",
]

_CALIBRATION, _THRESHOLDS, _CANARY = "calibration.npz", "thresholds.json", "canary.npz"
_AGAIN = "Get the bundle again from where it was made, or train a new one."


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle in memory.

    ``embedders``: network file name -> ONNX model. ``sections``: what scores each: mixtures, their members aligned with
    ``manifest.members_of(machine type)``, or where systems are fused the reference clips of `CompactSection`.
    ``calibrations``: one for each domain that the manifest lists for a section.
    A bundle that has not been written yet has no ``id`` and no ``folder``, and may have no ``canary``.
    """

    manifest: Manifest
    embedders: Mapping[str, bytes]
    sections: Mapping[SectionKey, SectionModel | CompactSection]
    calibrations: Mapping[CalibrationKey, SectionCalibration]
    canary: Canary | None = None
    id: str = ""
    folder: Path | None = None

    def path_of(self, name: str) -> Path:
        """Where one of its files is, to be named in an error."""
        return (self.folder or Path("bundle in memory")) / name


def section_path(key: SectionKey) -> str:
    """Where a section's mixtures are, relative to the bundle's folder."""
    return f"sections/{key.machine_type}/{key.section}.pkl"


def write_bundle(folder: Path, bundle: Bundle) -> Bundle:
    """Write ``bundle`` as ``folder``: whole or not at all, whenever this process is killed.

    Returns
    -------
    The bundle with its id, its digests and its folder.

    Raises
    ------
    BundleError : where ``folder`` exists, or the disk refuses.
    ValueError : where the bundle has no canary, or its parts do not agree with its manifest.
    """
    _check_parts(bundle)
    if bundle.canary is None:
        raise ValueError("a bundle is written with its canary: see Detector.record_canary")
    files = {
        **{path: bundle.embedders[file] for file, path in bundle.manifest.network_paths.items()},
        **{section_path(key): encode_section(bundle.sections[key]) for key in bundle.manifest.sections},
        _CALIBRATION: encode_calibrations(bundle.calibrations),
        _THRESHOLDS: encode_thresholds(bundle.calibrations),
        _CANARY: encode_canary(bundle.canary),
    }
    digests = {name: _digest(content) for name, content in sorted(files.items())}
    manifest = Manifest.model_validate(dict(bundle.manifest) | {"files": digests})
    content, identity = render_manifest(manifest)
    write_folder(folder, {**files, FILE_NAME: content})
    return replace(bundle, manifest=manifest, id=identity, folder=Path(os.path.realpath(folder)))


def read_bundle(folder: Path, *, public_key: Path | None = None) -> Bundle:
    """Read a bundle folder, or the one that a symbolic link names, and check every byte of it.

    With the file of a ``public_key``, only a bundle that its owner has signed is read.

    Raises
    ------
    BundleNotFound, BundleFormatError, BundleDigestError, UntrustedBundle, UnsafePickle : each names the file and what
        to do.
    SigningKeyError : where ``public_key`` is none.
    """
    root = Path(os.path.realpath(folder))  # once: the link may be changed while its bundle is read
    if not _exists(root / FILE_NAME):
        raise BundleNotFound(root, f"there is no bundle here (no {FILE_NAME}). Name the folder that holds one.")
    found = list_folder(root)
    content = _read(root / FILE_NAME)
    manifest, identity = parse_manifest(content, root / FILE_NAME)
    if public_key is not None:
        signing.check(canonical_form(content), root, public_key)
    _check_files(root, manifest, found - {FILE_NAME, signing.FILE_NAME})
    files = {name: _verified(root / name, digest) for name, digest in manifest.files.items()}
    calibrations = decode_calibrations(files.pop(_CALIBRATION), root / _CALIBRATION, _calibration_keys(manifest))
    check_thresholds(files.pop(_THRESHOLDS), root / _THRESHOLDS, calibrations)
    sections = {
        key: decode_section(files.pop(section_path(key)), root / section_path(key), manifest, key)
        for key in manifest.sections
    }
    canary = decode_canary(files.pop(_CANARY), root / _CANARY)
    if (canary.key, canary.domain) not in calibrations:
        raise BundleFormatError(root / _CANARY, f"the canary's {canary.key} is not in the bundle. {_AGAIN}")
    embedders = {file: files[path] for file, path in manifest.network_paths.items()}
    return Bundle(manifest, embedders, sections, calibrations, canary, identity, root)


def _calibration_keys(manifest: Manifest) -> list[CalibrationKey]:
    return [
        (key, domain)
        for key in manifest.sections
        for domain in manifest.machine_types[key.machine_type].sections[key.section].domains
    ]


def _check_parts(bundle: Bundle) -> None:
    """Raise ValueError where a bundle to be written would be refused when it is read."""
    manifest = bundle.manifest
    expected: dict[str, tuple[set[Any], set[Any]]] = {
        "embedders": (set(manifest.network_paths), set(bundle.embedders)),
        "sections": (set(manifest.sections), set(bundle.sections)),
        "calibrations": (set(_calibration_keys(manifest)), set(bundle.calibrations)),
    }
    for part, (stated, given) in expected.items():
        if stated != given:
            raise ValueError(f"the manifest and the {part} differ in {sorted(map(str, stated ^ given))}")
    for key, model in bundle.sections.items():
        check_section(model, manifest, key)


def _check_files(root: Path, manifest: Manifest, found: frozenset[str]) -> None:
    """The manifest must name the format's files and no others, and the folder hold those and no others."""
    stated = set(manifest.files)
    expected = {
        *manifest.network_paths.values(),
        *(section_path(key) for key in manifest.sections),
        *(_CALIBRATION, _THRESHOLDS, _CANARY),
    }
    if stated != expected:
        name = min(stated ^ expected)
        raise BundleFormatError(root / FILE_NAME, f"its list of files is wrong about {name!r}. {_AGAIN}")
    if missing := stated - found:
        raise BundleDigestError(root / min(missing), f"the file is missing. {_AGAIN}")
    if unexpected := found - stated:
        raise BundleDigestError(
            root / min(unexpected), "an unexpected file: the manifest does not name it. Remove it from the bundle."
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a folder that may not be searched, a name too long
        raise BundleError(path, f"cannot be reached ({error.strerror}). Check the path and its permissions.") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(path, f"cannot be read ({error.strerror}). Check the file's permissions.") from error


def _verified(path: Path, digest: str) -> bytes:
    content = _read(path)
    if (found := _digest(content)) != digest:
        raise BundleDigestError(path, f"the file was altered: its SHA-256 is {found}, not {digest}. {_AGAIN}")
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sign_bundle(folder: Path, private_key: Path) -> Bundle:
    """Sign a bundle, which is read and checked first, in place of a signature that it may have.

    Raises
    ------
    SigningKeyError : where ``private_key`` is none; and whatever `read_bundle` raises.
    """
    bundle = read_bundle(folder)
    root = bundle.path_of("")
    signature = signing.sign(canonical_form(_read(root / FILE_NAME)), private_key)
    try:
        replace_file(root / signing.FILE_NAME, signature)
    except OSError as error:
        raise BundleError(
            root / signing.FILE_NAME, f"cannot be written ({error.strerror}). Check the folder's permissions."
        ) from error
    return bundle


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 for a bundle that can be trusted, else 1."""
    parser = argparse.ArgumentParser(prog=shell_line("models.bundle"), description="Look after bundles.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="check every byte of a bundle, and its signature")
    verify.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    verify.add_argument("--key", type=Path, metavar="PUBLIC", help="the public key of who must have signed it")
    verify.set_defaults(run=_verify)
    sign = commands.add_parser("sign", help="sign a bundle")
    sign.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    sign.add_argument("--key", type=Path, metavar="FILE", required=True, help="the private key")
    sign.set_defaults(run=_sign)
    key = commands.add_parser("key", help="make a pair of keys: OUT signs, OUT.pub verifies")
    key.add_argument("out", type=Path, metavar="OUT", help="the file of the private key, which must not exist yet")
    key.set_defaults(run=_make_key)
    options = parser.parse_args(arguments)
    try:
        print(options.run(options))
    except EarwitnessError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _verify(options: argparse.Namespace) -> str:
    bundle = read_bundle(options.bundle, public_key=options.key)
    trusted = "" if options.key is None else f", and signed by the owner of {options.key}"
    return (
        f"{options.bundle}: bundle {bundle.id} is whole and unaltered{trusted}: {len(bundle.embedders)} networks, "
        f"{len(bundle.manifest.machine_types)} machine types, {len(bundle.sections)} sections, "
        f"{len(bundle.manifest.files) + 1} files."
    )


def _sign(options: argparse.Namespace) -> str:
    return f"{options.bundle}: signed bundle {sign_bundle(options.bundle, options.key).id}."


def _make_key(options: argparse.Namespace) -> str:
    public = signing.make_key(options.out)
    return f"{options.out} signs bundles: keep it secret. {public} verifies them: give it to who serves them."


if __name__ == "__main__":
    sys.exit(main())
