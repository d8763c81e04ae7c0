"""The run as a whole: what it refuses before it costs anything, its plan, and whose embeddings it keeps."""

import fcntl
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from models.encoder import Device, Encoder
from models.errors import BundleError, DataError, NotTrainable
from models.vocabulary import Domain, Precision
from tests.training.small import embedder_of, small_store
from tests.training.test_export import trained_like_snapshot
from tests.training.test_features import record
from training import assemble, embeddings
from training.bundling import refuse_place
from training.embeddings import embed
from training.export import export_embedder
from training.extend import extend
from training.fit import Snapshot
from training.keras_backend import device
from training.pipeline import train
from training.recipe import RECIPES
from training.recordings import Recording
from training.run import Run, Until


def run_on(recordings: list[Recording], work: Path) -> Run:
    return Run.of(recordings, RECIPES["smoke"], 0, work)


def test_target_recordings_alone_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """No section could be learned, and an hour of training would end in nothing."""
    recordings = [replace(one, domain=Domain.TARGET) for one in record(tmp_path, 4)]
    with pytest.raises(NotTrainable, match="say 'source'"):
        run_on(recordings, tmp_path / "work")


def test_two_runs_never_work_in_one_folder(tmp_path: Path) -> None:
    """They would write each other's checkpoints; once the first has gone, however it went, the second may."""
    run = run_on(record(tmp_path / "sounds", 2), tmp_path / "work")
    run.work.mkdir()
    first = os.open(run.work, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    with pytest.raises(DataError, match="Another run is at work"):
        train(run, None, until=Until.FEATURES, workers=1)
    os.close(first)
    train(run, None, until=Until.FEATURES, workers=1)
    assert list(run.work.glob("features/*/rows.npy"))


def test_a_place_where_no_bundle_can_be_is_refused_first(tmp_path: Path) -> None:
    """A file where a folder is needed; a missing parent is no obstacle, it will be made."""
    run = run_on(record(tmp_path / "sounds", 2), tmp_path / "work")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "bundle", tmp_path / "file" / "deeper" / "bundle"):
        for make in (
            lambda place: train(run, place),
            lambda place: extend(tmp_path / "old", run.recordings, place, run.work, advance=lambda _: None),
        ):
            with pytest.raises(BundleError, match="file is no folder that can be written to"):
                make(place)
    assert not run.work.exists()
    refuse_place(tmp_path / "missing" / "parent" / "bundle")


def test_the_plan_ends_where_the_command_ends(tmp_path: Path) -> None:
    """Time is said, and the bar counts, for the stages that will run and for the clips as they are cut."""
    recordings = [replace(one, challenge=False) for one in record(tmp_path, 1, seconds=31.0)]
    run = run_on(recordings, tmp_path / "work")
    assert run.contrast
    units = {stage.name: stage.units for stage in run.stages()}
    assert (units["features"], units["embeddings"], units["back end"]) == (15, 3, 6)
    assert [stage.name for stage in run.stages(Until.FEATURES)] == ["features"]
    assert [stage.name for stage in run.stages(Until.EXPORT)] == ["features", "network both-heads-s2", "export"]
    assert "back end" not in run.describe("cpu", Until.FIT)


def test_another_backend_than_those_that_are_tested_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(DataError, match="'torch'"):
        device()


def exported(folder: Path, gain: float) -> list[tuple[Snapshot, Path]]:
    """One member whose last layer is so much stronger."""
    store, snapshot = small_store(), trained_like_snapshot()
    weights = [np.array(weight) for weight in snapshot.weights]
    weights[-1] = weights[-1] + np.float32(gain)
    snapshot = replace(snapshot, weights=tuple(weights))
    path = folder / f"{gain}.onnx"
    export_embedder(snapshot, embedder_of(store), path, store.log_mels[:2])
    return [(snapshot, path)]


def test_embeddings_are_kept_for_the_networks_and_sounds_that_gave_them_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that was exported anew finds nothing cached; the same one finds all of it, and runs nothing."""
    store = small_store()
    folder = tmp_path / "embeddings"
    first, second = exported(tmp_path, 0.0), exported(tmp_path, 5.0)
    monkeypatch.setattr(embeddings, "EMBEDDING_ROWS", 8)
    advanced: list[int] = []
    before = embed(folder, store, first, Precision.FLOAT32, advanced.append)
    assert advanced == [8, 8, 4]
    assert before.shape == (20, 1, 128)
    after = embed(folder, store, second, Precision.FLOAT32, lambda _: None)
    assert np.abs(after - before).max() > 0.01
    with closing(Encoder([path.read_bytes() for _, path in second], device=Device.CPU)) as encoder:
        np.testing.assert_allclose(after, encoder.encode(store.log_mels, [0]), atol=1e-6)
    with monkeypatch.context() as patched:
        patched.setattr(Encoder, "encode", lambda *_: pytest.fail("embedded again"))
        np.testing.assert_array_equal(embed(folder, store, second, Precision.FLOAT32, lambda _: None), after)
    louder = replace(store, log_mels=store.log_mels + np.float32(3.0), digest="others")
    assert not np.array_equal(embed(folder, louder, second, Precision.FLOAT32, lambda _: None), after)


def test_what_came_out_otherwise_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """In the manifest and to who trains; what is as it should be is not mentioned."""
    found = assemble._reported(
        {"scale_limited_epochs": {"both-heads-s1": 0, "both-heads-s2": 7}, "dropped_components": {}}
    )
    assert found == {"scale_limited_epochs": {"both-heads-s2": 7}}
    assert caplog.messages == ["scale limited epochs: both-heads-s2 7"]
