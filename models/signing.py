"""Signatures of bundles: Ed25519 over the canonical manifest, which holds the digest of every other file.

A signature lies in ``manifest.sig`` beside the manifest. It is no part of the bundle, whose id stays what it was: a
reader that has no key passes it over, one that has a key refuses a bundle without it. Keys are PEM files, as OpenSSL
writes and reads them.

``cryptography`` is imported where it is used: serving without a key does not need it.
"""

import base64
import binascii
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from models.commands import shell_line
from models.errors import SigningKeyError, UntrustedBundle
from models.folders import replace_file

FILE_NAME: Final = "manifest.sig"
_PURPOSE: Final = b"earwitness bundle manifest\n"
"""What is signed begins with it: a signature made for anything else is none of a bundle."""


def make_key(file: Path) -> Path:
    """Write a new private key to ``file``, which only its owner may read, and its public key beside it.

    Returns
    -------
    The file of the public key: ``file`` with ``.pub`` added.

    Raises
    ------
    SigningKeyError : where one of the files exists, or the disk refuses.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public_file = file.with_name(f"{file.name}.pub")
    for path in (file, public_file):
        if os.path.lexists(path):
            raise SigningKeyError(f"{path}: already exists, and a key is never overwritten. Choose another name.")
    try:
        replace_file(file, private, mode=0o600)
        replace_file(public_file, public)
    except OSError as error:
        raise SigningKeyError(f"{file}: cannot be written ({error.strerror}). Choose a folder that can.") from error
    return public_file


def sign(canonical: bytes, private_key: Path) -> bytes:
    """The content of ``manifest.sig`` for a canonical manifest; raises `SigningKeyError` where the key is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = _key(private_key, lambda content: load_pem_private_key(content, None))
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(private_key, "private")
    return base64.b64encode(key.sign(_PURPOSE + canonical)) + b"\n"


def check(canonical: bytes, bundle: Path, public_key: Path) -> None:
    """Check that the manifest of ``bundle`` was signed by the owner of ``public_key``.

    Raises
    ------
    UntrustedBundle : where it was not, or by another.
    SigningKeyError : where ``public_key`` is no key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = _key(public_key, load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(public_key, "public")
    file = bundle / FILE_NAME
    try:
        signature = base64.b64decode(file.read_bytes().strip(), validate=True)
        key.verify(signature, _PURPOSE + canonical)
    except FileNotFoundError as error:
        raise UntrustedBundle(
            file,
            f"the bundle is not signed, and {public_key} asks for a signature. Sign it where it was made: "
            f"{shell_line('models.bundle sign BUNDLE --key FILE')}.",
        ) from error
    except OSError as error:
        raise UntrustedBundle(file, f"cannot be read ({error.strerror}). Check the file's permissions.") from error
    except (InvalidSignature, binascii.Error) as error:
        raise UntrustedBundle(
            file,
            f"this is no signature of this bundle by the owner of {public_key}. Get the bundle from who you trust, or "
            "name the public key of who signed it.",
        ) from error


def _key(file: Path, load: Callable[[bytes], object]) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load(file.read_bytes())
    except OSError as error:
        raise SigningKeyError(f"{file}: the key cannot be read ({error.strerror}). Check the path.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _no_key(file: Path, kind: str) -> SigningKeyError:
    return SigningKeyError(
        f"{file}: this is no {kind} Ed25519 key in PEM form without a password. Make a pair with "
        f"{shell_line('models.bundle key OUT')}: OUT signs, OUT.pub verifies."
    )
