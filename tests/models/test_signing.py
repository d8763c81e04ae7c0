"""Signed bundles: who holds the key can sign, everybody else is refused, and a reader without a key notices nothing."""

import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models.bundle import main, read_bundle, sign_bundle
from models.errors import BundleDigestError, SigningKeyError, UntrustedBundle
from models.manifest import render_manifest
from models.signing import make_key


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public one is beside it."""
    make_key(tmp_path / "plant.key")
    return tmp_path / "plant.key"


@pytest.fixture
def signed(bundle_folder: Path, tmp_path: Path, key: Path) -> Path:
    """A copy of the bundle, signed."""
    shutil.copytree(bundle_folder, tmp_path / "signed")
    sign_bundle(tmp_path / "signed", key)
    return tmp_path / "signed"


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def test_a_signed_bundle_is_the_same_bundle(bundle_folder: Path, signed: Path, key: Path) -> None:
    """With the same id for readers with a key and without; signed again, and by another, too."""
    assert read_bundle(signed).id == read_bundle(signed, public_key=public(key)).id == read_bundle(bundle_folder).id
    assert {path.name for path in signed.iterdir()} == {"manifest.sig", *(one.name for one in bundle_folder.iterdir())}
    sign_bundle(signed, key)
    make_key(key.with_name("other"))
    sign_bundle(signed, key.with_name("other"))
    assert read_bundle(signed, public_key=key.with_name("other.pub")).id == read_bundle(bundle_folder).id
    with pytest.raises(UntrustedBundle):
        read_bundle(signed, public_key=public(key))


def unsigned(folder: Path) -> None:
    (folder / "manifest.sig").unlink()


def one_bit(folder: Path) -> None:
    content = bytearray((folder / "manifest.sig").read_bytes())
    content[5] ^= 1
    (folder / "manifest.sig").write_bytes(content)


def shortened(folder: Path) -> None:
    (folder / "manifest.sig").write_bytes((folder / "manifest.sig").read_bytes()[:40])


def emptied(folder: Path) -> None:
    (folder / "manifest.sig").write_bytes(b"")


def another_manifest(folder: Path) -> None:
    """Whole by its own account, but not what was signed."""
    content, _ = render_manifest(read_bundle(folder).manifest.model_copy(update={"name": "forged"}))
    (folder / "manifest.json").write_bytes(content)
    assert read_bundle(folder).manifest.name == "forged"


@pytest.mark.parametrize("forge", [unsigned, one_bit, shortened, emptied, another_manifest])
def test_what_was_not_signed_is_refused(signed: Path, key: Path, forge: Callable[[Path], None]) -> None:
    """The message names the signature's file and what to do."""
    forge(signed)
    with pytest.raises(UntrustedBundle, match=r"manifest\.sig: .*(Sign it|Get the bundle)"):
        read_bundle(signed, public_key=public(key))


def test_files_are_covered_through_their_digests(signed: Path, key: Path) -> None:
    """A signed bundle whose calibration was altered is refused as before."""
    content = (signed / "calibration.npz").read_bytes()
    (signed / "calibration.npz").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleDigestError):
        read_bundle(signed, public_key=public(key))


def test_a_key_that_is_none_is_told(signed: Path, key: Path, tmp_path: Path) -> None:
    """One that is missing, another file, and the other half of the pair; keys are never overwritten."""
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PRIVATE" not in public(key).read_text()
    for wrong in (key, signed / "manifest.json", tmp_path / "none"):
        with pytest.raises(SigningKeyError, match=wrong.name):
            read_bundle(signed, public_key=wrong)
    for wrong in (public(key), signed / "manifest.json", tmp_path / "none"):
        with pytest.raises(SigningKeyError, match=wrong.name):
            sign_bundle(signed, wrong)
    with pytest.raises(SigningKeyError, match="never overwritten"):
        make_key(key)


def test_the_command_line(bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Key, sign, verify; exit status 1 and a sentence where something is wrong."""
    folder, key = tmp_path / "copy", tmp_path / "k"
    shutil.copytree(bundle_folder, folder)
    assert main(["key", str(key)]) == 0
    assert main(["verify", str(folder), "--key", str(public(key))]) == 1
    assert "is not signed" in capsys.readouterr().err
    assert main(["sign", str(folder), "--key", str(key)]) == 0
    assert main(["verify", str(folder), "--key", str(public(key))]) == 0
    assert "signed by the owner of" in capsys.readouterr().out
    assert main(["key", str(key)]) == 1


def test_without_a_key_nothing_of_it_is_imported(signed: Path) -> None:
    """Serving an unsigned bundle must not wait for a library that it does not need."""
    code = (
        "import sys, pathlib; from models.bundle import read_bundle; read_bundle(pathlib.Path(sys.argv[1]));"
        "assert not [name for name in sys.modules if name.startswith('cryptography')]"
    )
    subprocess.run([sys.executable, "-c", code, str(signed)], check=True)
