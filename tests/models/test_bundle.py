"""The bundle: written whole or not at all, read back equal, refused for one changed byte."""

import fcntl
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import bundle as bundle_module
from models.bundle import Bundle, read_bundle, write_bundle
from models.contents import (
    LEVEL_QUANTILES,
    SectionCalibration,
    decode_calibrations,
    decode_canary,
    decode_section,
    encode_calibrations,
    encode_canary,
    encode_section,
)
from models.decision import Calibration
from models.errors import BundleDigestError, BundleError, BundleFormatError, BundleNotFound, UnsafePickle
from models.frontend import LogMelSpec
from models.manifest import FrontEnd, bundle_id, parse_manifest, render_manifest
from models.scoring import SectionModel
from models.unpickling import dumps
from models.vocabulary import Domain, SectionKey, ThresholdRule
from tests.models.tiny import FAN, VALVE, held_once, mixtures_of

FILES = (
    "calibration.npz",
    "canary.npz",
    "embedders/both-heads-s2-e0004.onnx",
    "embedders/sections-s2-e0004.onnx",
    "manifest.json",
    "sections/fan/00.pkl",
    "sections/valve/line-3.b.pkl",
    "thresholds.json",
)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may alter."""
    return Path(shutil.copytree(bundle_folder, tmp_path / "copy"))


def forge(folder: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    """Alter the manifest as an attacker would: with the id and every digest made right again."""
    document = json.loads((folder / "manifest.json").read_bytes())
    for name, content in files_of(folder).items():
        if name in document["files"]:
            document["files"][name] = hashlib.sha256(content).hexdigest()
    alter(document)
    document["bundle"] = bundle_id(document)
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text)


def test_what_is_written_is_read(tiny_bundle: Bundle, bundle_folder: Path) -> None:
    """Every part: manifest, networks, mixtures, calibrations, canary."""
    found = read_bundle(bundle_folder)
    assert found.manifest == tiny_bundle.manifest.model_copy(update={"files": found.manifest.files})
    assert found.embedders == tiny_bundle.embedders
    assert set(found.sections) == set(tiny_bundle.sections)
    for key, model in tiny_bundle.sections.items():
        assert encode_section(found.sections[key]) == encode_section(model)
        assert (mixtures_of(found, key).temporal_maximum is None) == (key == FAN)
    assert encode_calibrations(found.calibrations) == encode_calibrations(tiny_bundle.calibrations)
    for name, one in tiny_bundle.calibrations.items():
        assert found.calibrations[name].calibration.threshold == one.calibration.threshold
    assert found.canary is not None
    assert tiny_bundle.canary is not None
    assert encode_canary(found.canary) == encode_canary(tiny_bundle.canary)
    assert found.folder == bundle_folder


def test_what_is_read_is_held_once(bundle_folder: Path) -> None:
    """A section's mixtures are the memory that its scores are computed in, also once a part of it was made."""
    for key in (FAN, VALVE):
        model = mixtures_of(read_bundle(bundle_folder), key)
        part = replace(model, members=model.members[-1:])
        assert held_once(model)
        assert held_once(part)


def test_its_files_are_those_of_the_format(bundle_folder: Path) -> None:
    assert tuple(sorted(files_of(bundle_folder))) == FILES


def test_writing_gives_the_bundle_as_it_is_read(tiny_bundle: Bundle, tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "new" / "bundle", tiny_bundle)
    found = read_bundle(tmp_path / "new" / "bundle")
    assert (written.id, written.manifest, written.folder) == (found.id, found.manifest, found.folder)


def test_equal_bundles_are_equal_to_the_last_byte(bundle_folder: Path, tmp_path: Path) -> None:
    """The id names the content, wherever and whenever it is written, also from a bundle that was read."""
    write_bundle(tmp_path / "again", read_bundle(bundle_folder))
    assert files_of(tmp_path / "again") == files_of(bundle_folder)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_of_any_file_is_refused(name: str, copy: Path) -> None:
    """First, last, and bytes between; the error names the file."""
    path = copy / name
    content = path.read_bytes()
    for place in {0, 1, len(content) // 3, len(content) // 2, len(content) - 2, len(content) - 1}:
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises((BundleDigestError, BundleFormatError)) as refusal:
            read_bundle(copy)
        assert refusal.value.path == path
        assert str(path) in str(refusal.value)
    path.write_bytes(content)
    read_bundle(copy)


def test_no_byte_of_the_manifest_can_change(bundle_folder: Path) -> None:
    """Not even a blank, or a digit to another way of writing the same number."""
    content = (bundle_folder / "manifest.json").read_bytes()
    parse_manifest(content, Path("manifest.json"))
    middle = len(content) // 2
    changes = [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in range(0, len(content), 7)]
    changes += [content + b" ", content[:-1], content[:middle], content.replace(b"12.0", b"12.00", 1), b""]
    changes += [content.replace(b'"demonstration": false', b'"demonstration": true')]
    for changed in changes:
        with pytest.raises((BundleDigestError, BundleFormatError), match=r"manifest\.json"):
            parse_manifest(changed, Path("manifest.json"))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleNotFound if name == "manifest.json" else BundleDigestError, match=Path(name).name):
        read_bundle(copy)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "sections/fan/01.pkl", "embedders/extra.onnx", "a/b/c"])
def test_an_unexpected_file_is_refused(name: str, copy: Path) -> None:
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_bytes(b"")
    with pytest.raises(BundleDigestError, match="unexpected") as refusal:
        read_bundle(copy)
    assert refusal.value.path == copy / name


def test_links_and_special_files_are_refused(copy: Path, tmp_path: Path) -> None:
    """Even a link to the right content: what it names can change later."""
    outside = tmp_path / "outside"
    name = "sections/fan/00.pkl"
    (copy / name).rename(outside)
    for make in (lambda path: path.symlink_to(outside), os.mkfifo):
        make(copy / name)
        with pytest.raises(BundleDigestError, match=r"00\.pkl.*no links"):
            read_bundle(copy)
        (copy / name).unlink()
    outside.rename(copy / name)
    (copy / "sections").rename(tmp_path / "sections")
    (copy / "sections").symlink_to(tmp_path / "sections")
    with pytest.raises(BundleDigestError, match="no links"):
        read_bundle(copy)


def test_a_link_to_a_bundle_is_served(bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle_folder)
    assert read_bundle(tmp_path / "current").folder == bundle_folder


@pytest.mark.parametrize("place", ["missing", "empty", "file"])
def test_no_bundle_is_told_from_a_bad_one(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BundleNotFound, match=place):
        read_bundle(tmp_path / place)


def test_a_place_that_cannot_be_reached_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The system's refusal is about the path, not about a bundle that is missing there."""
    assert bundle_module.main(["verify", str(tmp_path / ("n" * 300))]) == 1
    assert "cannot be reached (File name too long)" in capsys.readouterr().err


def test_an_unreadable_file_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "canary.npz":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BundleError, match=r"canary\.npz.*Permission denied"):
        read_bundle(copy)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_another_format_version_is_refused(version: object, copy: Path) -> None:
    forge(copy, lambda document: document.update(format_version=version))
    with pytest.raises(BundleFormatError, match=r"format version.*reads 1"):
        read_bundle(copy)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../b", "sections//x", "./x", "a\\..\\b", "sections/.x", "", "a\n"]
)
def test_a_path_out_of_the_bundle_is_refused(name: str, copy: Path) -> None:
    forge(copy, lambda document: document["files"].update({name: "0" * 64}))
    with pytest.raises(BundleFormatError, match=r"manifest\.json.*files"):
        read_bundle(copy)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d.pop("recipe"), "recipe"),
        (lambda d: d["machine_types"].update({"../fan": d["machine_types"].pop("fan")}), "machine_types"),
        (lambda d: d["machine_types"]["valve"].update(sections={"a/b": {}}), "a/b"),
        (lambda d: d["members"][0].update(file="../../x.onnx"), "members.0.file"),
        (lambda d: d["members"][0].update(id=d["members"][1]["id"]), "same id"),
        (lambda d: d["members"][0].update(heads="sum"), "heads"),
        (lambda d: d["members"][1].update(heads="both heads"), "valve.*no member"),
        (lambda d: d["standardisation"].update(mean=[0.0]), "standardisation.mean"),
        (lambda d: d["standardisation"]["deviation"].__setitem__(5, -1.0), "deviation is negative"),
        (lambda d: d["machine_types"]["fan"]["sections"]["00"].update(domains=["target"]), "domains"),
        (lambda d: d["files"].pop("canary.npz"), "wrong about 'canary.npz'"),
        (lambda d: d["files"].update({"more.bin": "0" * 64}), "wrong about 'more.bin'"),
        (lambda d: d["front_end"].update(channel=-1), "front_end.channel"),
        (lambda d: d.update(name="\ud800"), "no bundle's manifest"),
    ],
    ids=range(15),
)  # fmt: skip
def test_a_manifest_that_makes_no_sense_is_refused(
    alter: Callable[[dict[str, Any]], None], message: str, copy: Path
) -> None:
    """Though all its digests are right."""
    try:
        forge(copy, alter)
    except UnicodeEncodeError:
        (copy / "manifest.json").write_text('{"format_version": 1, "name": "\\ud800"}')
    with pytest.raises(BundleFormatError, match=rf"manifest\.json.*{message}"):
        read_bundle(copy)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"format_version": NaN}', b"[" * 100_000, b"{}"])
def test_what_is_no_manifest_is_refused(content: bytes, copy: Path) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleFormatError, match=r"manifest\.json"):
        read_bundle(copy)


def test_a_pickle_that_names_a_class_is_refused(copy: Path) -> None:
    """Though its digest is right; the error names the file and the class, and nothing of it is called."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(copy / "pwned"),)

    path = copy / "sections/fan/00.pkl"
    path.write_bytes(pickle.dumps({"members": [Evil()]}))
    forge(copy, lambda _: None)
    with pytest.raises(UnsafePickle, match=r"posix\.mkdir") as refusal:
        read_bundle(copy)
    assert refusal.value.path == path
    assert not (copy / "pwned").exists()


def test_an_altered_pickle_is_never_unpickled(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is interpreted before every digest is right, also not a file before the altered one."""
    interpreted: list[Path] = []
    monkeypatch.setattr(bundle_module, "decode_section", lambda _, path, __: interpreted.append(path))
    monkeypatch.setattr(bundle_module, "decode_calibrations", lambda _, path, __: interpreted.append(path))
    (copy / "thresholds.json").write_text("[]\n")
    with pytest.raises(BundleDigestError, match=r"thresholds\.json"):
        read_bundle(copy)
    assert interpreted == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sections/fan/00.pkl", dumps({"members": []}), "temporal_maximum"),
        ("sections/fan/00.pkl", dumps({"members": [], "temporal_maximum": None}), "at least one member"),
        ("sections/fan/00.pkl", dumps([1]), "mixtures"),
        ("sections/fan/00.pkl", dumps({"members": [{"section": {}}], "temporal_maximum": None}), "mixtures"),
        ("calibration.npz", b"no zip", "calibrations"),
        ("calibration.npz", b"PK\x03\x04 no zip", "calibrations"),
        ("canary.npz", b"", "canary"),
        ("thresholds.json", b"[]\n", "not those of calibration"),
        ("thresholds.json", b"{", "thresholds"),
    ],
)
def test_content_that_is_none_is_refused(name: str, content: bytes, message: str, copy: Path) -> None:
    """Though its digest is right."""
    (copy / name).write_bytes(content)
    forge(copy, lambda _: None)
    with pytest.raises(BundleFormatError, match=message) as refusal:
        read_bundle(copy)
    assert refusal.value.path == copy / name


def test_thresholds_are_those_of_the_calibration(copy: Path) -> None:
    """A threshold that people would read, but that is not in force, is refused."""
    rows = json.loads((copy / "thresholds.json").read_bytes())
    rows[0]["threshold"] += 1.0
    (copy / "thresholds.json").write_text(json.dumps(rows))
    forge(copy, lambda _: None)
    with pytest.raises(BundleFormatError, match=r"thresholds\.json"):
        read_bundle(copy)


def test_an_existing_folder_is_never_overwritten(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for name in ("empty", "link"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        if name == "link":
            (tmp_path / name).symlink_to(tmp_path / "nowhere")
        with pytest.raises(BundleError, match=rf"{name}: already exists"):
            write_bundle(tmp_path / name, tiny_bundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"canary": None}, "canary"),
        ({"embedders": {}}, "embedders"),
        ({"sections": {}}, "sections"),
        ({"calibrations": {}}, "calibrations"),
    ],
)
def test_a_bundle_that_could_not_be_read_is_not_written(
    change: dict[str, Any], message: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_bundle(tmp_path / "new", replace(tiny_bundle, **change))
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(BundleError, match="No space left"):
        write_bundle(tmp_path / "new", tiny_bundle)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_write_left_is_removed_and_what_another_writes_is_not(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    dead, living, other = (tmp_path / f".{n}.partial" for n in ("b." + "0" * 32, "b." + "1" * 32, "c." + "0" * 32))
    for folder in (dead, living, other):
        folder.mkdir()
        (folder / "manifest.json").write_text("half")
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    write_bundle(tmp_path / "b", tiny_bundle)
    os.close(descriptor)
    assert not dead.exists()
    assert living.exists()
    assert other.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from models.bundle import read_bundle, write_bundle

bundle, place = read_bundle(Path(sys.argv[1])), Path(sys.argv[2])

def write(folder, kill_at):
    "Write in a child that SIGKILLs itself at its kill_at-th act on a file, counted; returns (lived, acts)."
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        acts = 0
        def act(event, arguments):
            nonlocal acts
            if event in ("open", "os.mkdir", "os.rename", "os.listdir", "os.scandir", "os.rmdir", "os.remove", "sync"):
                acts += 1
                if acts == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
        fsync = os.fsync
        def audited(descriptor):
            sys.audit("sync")
            fsync(descriptor)
        os.fsync = audited
        sys.addaudithook(act)
        write_bundle(folder, bundle)
        os.write(writer, str(acts).encode())
        os._exit(0)
    os.close(writer)
    acts = os.read(reader, 9)
    os.close(reader)
    return os.waitpid(child, 0)[1] == 0, int(acts or 0)

folder = place / "all" / "bundle"
folder.parent.mkdir()
lived, acts = write(folder, 0)
assert lived
whole = 0
for moment in [*range(1, acts - 8, int(sys.argv[3])), *range(acts - 8, acts + 1)]:
    folder = place / str(moment) / "bundle"
    lived, _ = write(folder, moment)
    assert not lived
    if folder.exists():
        assert read_bundle(folder).id == bundle.id
        whole += 1
    else:
        write_bundle(folder, bundle)
        assert read_bundle(folder).id == bundle.id
        left = [path.name for path in folder.parent.iterdir()]
        assert left == ["bundle"], left
print(acts, whole)
"""


def test_a_killed_write_leaves_no_bundle_or_the_whole_one(bundle_folder: Path, tmp_path: Path) -> None:
    """SIGKILL at each third act on a file, and at each of the last; the next write works and clears away the rest."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", KILLED, str(bundle_folder), str(tmp_path), "3"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    acts, whole = map(int, ran.stdout.split())
    assert acts > 40
    assert whole > 0  # killed after the rename, before the end


def test_verify_says_what_it_found(bundle_folder: Path, copy: Path) -> None:
    """Exit status 0 and a sentence for a good bundle, 1 and the file for a bad one."""
    command = [sys.executable, "-m", "models.bundle", "verify"]
    good = subprocess.run([*command, str(bundle_folder)], capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert read_bundle(bundle_folder).id in good.stdout
    (copy / "canary.npz").write_bytes(b"")
    bad = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert f"{copy / 'canary.npz'}: the file was altered" in bad.stderr


def test_the_manifest_holds_the_whole_front_end() -> None:
    """A field added to `LogMelSpec` must be added to the manifest."""
    assert set(FrontEnd.model_fields) == {entry.name for entry in fields(LogMelSpec)}
    spec = LogMelSpec(channel=1, floor=1e-9)
    assert FrontEnd.from_spec(spec).spec() == spec


def test_the_id_is_of_the_canonical_form(bundle_folder: Path) -> None:
    """SHA-256 of the JSON with sorted keys and no whitespace, without the id itself."""
    document = json.loads((bundle_folder / "manifest.json").read_bytes())
    identity = document.pop("bundle")
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert identity == hashlib.sha256(canonical.encode()).hexdigest() == read_bundle(bundle_folder).id


def test_a_manifest_is_read_as_it_is_rendered(tiny_bundle: Bundle) -> None:
    content, identity = render_manifest(tiny_bundle.manifest)
    assert parse_manifest(content, Path("manifest.json")) == (tiny_bundle.manifest, identity)


def test_members_are_those_of_the_loss_choice(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.manifest.members_of("fan") == (0, 1)
    assert tiny_bundle.manifest.members_of("valve") == (1,)


finite = st.floats(-1e9, 1e9)


@given(
    scores=st.lists(finite, max_size=20),
    rule=st.sampled_from(ThresholdRule),
    percentile=st.floats(0, 100),
    bands=st.lists(finite, min_size=128, max_size=128),
    domain=st.sampled_from(Domain),
)
@settings(max_examples=40, deadline=None)
def test_calibrations_survive(
    scores: list[float], rule: ThresholdRule, percentile: float, bands: list[float], domain: Domain
) -> None:
    """To the last bit, threshold included; also where there are no scores. Each keeps the fold it was held out with."""
    folds = None if rule is ThresholdRule.PAPER else np.arange(len(scores)) % 5
    given = SectionCalibration(
        Calibration.from_scores(scores, rule, percentile, folds=folds),
        np.array(bands),
        np.abs(bands),
        np.linspace(-60.0, -20.0, len(LEVEL_QUANTILES)),
    )
    key = SectionKey("a.npy", "scores")
    content = encode_calibrations({(key, domain): given})
    found = decode_calibrations(content, Path("calibration.npz"), [(key, domain)])[key, domain]
    assert (found.calibration.rule, found.calibration.percentile) == (rule, percentile)
    assert found.calibration.threshold == given.calibration.threshold
    for name in ("mel_mean", "mel_deviation", "level_quantiles_dbfs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name), strict=True)
    np.testing.assert_array_equal(found.calibration.scores, sorted(scores))
    if folds is None:
        assert found.calibration.folds is None
    else:
        np.testing.assert_array_equal(found.calibration.folds, folds[np.argsort(scores, kind="stable")])


def test_a_calibration_has_the_shape_it_must_have() -> None:
    calibration = Calibration.from_scores([1.0], ThresholdRule.PAPER)
    for bands, levels in (
        (np.zeros(127), np.zeros(7)),
        (np.zeros(128), np.zeros(6)),
        (np.full(128, np.nan), np.zeros(7)),
    ):
        with pytest.raises(ValueError, match="finite values"):
            SectionCalibration(calibration, bands, np.zeros(128), levels)


def test_a_section_is_read_for_its_number_of_members(tiny_bundle: Bundle) -> None:
    content = encode_section(tiny_bundle.sections[VALVE])
    model = decode_section(content, Path("x"), tiny_bundle.manifest, VALVE)
    assert isinstance(model, SectionModel)
    assert len(model.members) == 1
    with pytest.raises(BundleFormatError, match="1 members where 2"):
        decode_section(content, Path("x"), tiny_bundle.manifest, FAN)


def test_a_canary_is_two_waveforms(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.canary is not None
    found = decode_canary(encode_canary(tiny_bundle.canary), Path("canary.npz"))
    assert (found.key, found.domain) == (FAN, Domain.SOURCE)
    with pytest.raises(ValueError, match="two ten-second waveforms"):
        replace(found, waveforms=found.waveforms[:, :1000])
