"""Target clips out of a database and into another, whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from models.errors import DataError
from service.errors import TargetClipsUnusable
from service.settings import Settings
from service.targets import Idempotency, TargetStore
from service.transfers import Transferred, export_targets, import_targets
from tests.service.bundles import FAN_0, FAN_1, PUMP
from tests.service.servers import REPOSITORY
from tests.service.test_target_store import change, rows, state

ONES, TWOS = rows(b"one", b"two", b"three"), rows(b"four", b"five", b"six")


def fill(url: str) -> None:
    """Three sections: one restored, one withdrawn, one as it was registered."""
    with TargetStore(url) as store:
        store.register(FAN_0, ONES, idempotency=Idempotency("monday", "a" * 64))
        store.register(FAN_0, TWOS)
        store.restore(FAN_0, 1)
        store.register(PUMP, TWOS)
        store.withdraw(PUMP)
        store.register(FAN_1, TWOS)


def held(url: str) -> dict[str, object]:
    """All that clients could ask of a store, but for the ids of its rows."""
    with TargetStore(url) as store:
        every = [one for key in (FAN_0, FAN_1, PUMP) for one in store.versions(key)]
        key = store.replayed(Idempotency("monday", "a" * 64))
        return {
            "versions": [
                (one.key, one.version, one.registered_at, one.restored_from, one.standing, one.samples) for one in every
            ],
            "audio": [store.audio(one) for one in every],
            "in force": [(one.key, one.version) for one in state(store).in_force],
            "key": key and (key.key, key.version),
        }


def test_another_database_of_either_kind_takes_all_over(url: str, tmp_path: Path) -> None:
    """Versions, what was restored from what, what is in force, keys; the next registration goes on counting."""
    begun = time.monotonic()
    source = f"sqlite:///{tmp_path / 'source.db'}"
    fill(source)
    assert export_targets(source, tmp_path / "backup") == Transferred(5, 15, 0)
    assert len(list((tmp_path / "backup" / "clips").iterdir())) == 6
    assert import_targets(url, tmp_path / "backup") == Transferred(5, 15, 0)
    assert held(url) == held(source)
    export_targets(url, tmp_path / "again")
    copies = [
        {
            file.relative_to(tmp_path / name): file.read_bytes()
            for file in (tmp_path / name).rglob("*")
            if file.is_file()
        }
        for name in ("backup", "again")
    ]
    contents = [json.loads(copy.pop(Path("targets.json"))) for copy in copies]
    assert copies[0] == copies[1]
    for name in ("registrations", "idempotency_keys"):
        assert contents[0][name] == contents[1][name]
    with TargetStore(url) as store:
        version = store.register(FAN_0, ONES)[0].version
        assert 3 + 1 < version <= 3 + 2 + time.monotonic() - begun


def test_no_version_of_a_lost_database_is_given_again(url: str, tmp_path: Path) -> None:
    """By backups of backups neither, nor in a section that they lack; those of the release before are read too."""
    lost, backup, again = f"sqlite:///{tmp_path / 'lost.db'}", tmp_path / "backup", tmp_path / "again"
    with TargetStore(lost) as store:
        store.register(FAN_0, ONES)
    export_targets(lost, backup)
    contents = json.loads((backup / "targets.json").read_text())
    exported_at = datetime.fromisoformat(contents["exported_at"]) - timedelta(seconds=100.0)
    contents["exported_at"] = exported_at.isoformat()
    (backup / "targets.json").write_text(json.dumps(contents))
    between = f"sqlite:///{tmp_path / 'between.db'}"
    import_targets(between, backup)
    export_targets(between, again)
    import_targets(url, again)
    with TargetStore(url) as store:
        assert [one.version for one in state(store).in_force] == [1]
        for key in (FAN_0, FAN_1, PUMP):
            assert 1 + 100 < store.register(key, TWOS)[0].version < 1 + 100 + 600

    registered_at = datetime.fromisoformat(contents["registrations"][0]["registered_at"]) - timedelta(seconds=200.0)
    contents["registrations"][0]["registered_at"] = registered_at.isoformat()
    former = {name: contents[name] for name in ("format", "registrations", "idempotency_keys")}
    (backup / "targets.json").write_text(json.dumps({**former, "format_version": 1}))
    import_targets(f"sqlite:///{tmp_path / 'former.db'}", backup)
    with TargetStore(f"sqlite:///{tmp_path / 'former.db'}") as store:
        assert 1 + 200 < store.register(FAN_0, TWOS)[0].version < 1 + 200 + 600


def test_what_would_be_mixed_or_written_over_is_refused(url: str, tmp_path: Path) -> None:
    """A database with registrations, a folder that exists, a database that is not there: each named, none touched."""
    fill(url)
    before = held(url)
    export_targets(url, tmp_path / "backup")
    with pytest.raises(DataError, match="holds 5 registrations"):
        import_targets(url, tmp_path / "backup")
    assert held(url) == before
    with pytest.raises(DataError, match="exists already"):
        export_targets(url, tmp_path / "backup")
    with pytest.raises(DataError, match="no database"):
        export_targets(f"sqlite:///{tmp_path / 'nothing.db'}", tmp_path / "other")
    assert not (tmp_path / "nothing.db").exists()
    assert not (tmp_path / "other").exists()


def test_a_folder_that_is_not_whole_leaves_the_database_empty(url: str, tmp_path: Path) -> None:
    """A clip damaged or missing, contents changed, of a later format or not there: nothing is taken over."""
    source = f"sqlite:///{tmp_path / 'source.db'}"
    fill(source)
    export_targets(source, tmp_path / "backup")
    last = max((tmp_path / "backup" / "clips").iterdir()).name
    contents = json.loads((tmp_path / "backup" / "targets.json").read_text())
    twice = {**contents, "registrations": contents["registrations"] * 2}
    outside = json.loads(json.dumps(contents))
    outside["registrations"][0]["clips"][0]["sha256"] = "../../targets.json"
    wrong: dict[str, Callable[[Path], object]] = {
        "is damaged": lambda folder: (folder / "clips" / last).write_bytes(b"other"),
        "cannot be read": lambda folder: (folder / "clips" / last).unlink(),
        "format_version": lambda folder: (folder / "targets.json").write_text(
            json.dumps({**contents, "format_version": 3})
        ),
        "there twice": lambda folder: (folder / "targets.json").write_text(json.dumps(twice)),
        "sha256": lambda folder: (folder / "targets.json").write_text(json.dumps(outside)),
        "Invalid JSON": lambda folder: (folder / "targets.json").write_bytes(b'{"format": '),
        "is no export": lambda folder: (folder / "targets.json").unlink(),
    }
    for number, (said, spoil) in enumerate(wrong.items()):
        folder = tmp_path / f"wrong-{number}"
        shutil.copytree(tmp_path / "backup", folder)
        spoil(folder)
        with pytest.raises(DataError, match=said):
            import_targets(url, folder)
    with TargetStore(url) as store:
        assert (state(store).changes, state(store).in_force) == (0, ())
    import_targets(url, tmp_path / "backup")
    assert held(url) == held(source)


def test_a_damaged_clip_does_not_keep_the_others_from_being_saved(url: str, tmp_path: Path) -> None:
    """It is counted, its registration stays what it is, and says so in the new database as in the old."""
    with TargetStore(url) as store:
        store.register(FAN_0, ONES)
        store.register(FAN_1, TWOS)
    change(url, f"UPDATE clips SET audio = {'x' if url.startswith('sqlite') else ''}'74766f' WHERE registration_id = 2")
    assert export_targets(url, tmp_path / "backup") == Transferred(2, 6, 3)
    copy = f"sqlite:///{tmp_path / 'copy.db'}"
    assert import_targets(copy, tmp_path / "backup") == Transferred(2, 6, 3)
    with TargetStore(copy) as store:
        good, bad = state(store).in_force
        assert store.audio(good) == [b"one", b"two", b"three"]
        with pytest.raises(TargetClipsUnusable, match="damaged"):
            store.audio(bad)


def test_an_export_that_fails_half_way_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor anything beside it."""
    source = f"sqlite:///{tmp_path / 'data' / 'source.db'}"
    fill(source)
    monkeypatch.setattr("service.transfers._Contents", lambda **_: 1 / 0)
    (tmp_path / "out").mkdir()
    with pytest.raises(ZeroDivisionError):
        export_targets(source, tmp_path / "out" / "backup")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_says_what_it_carried_or_why_not(tmp_path: Path) -> None:
    """Exit status 0, or 2 with a sentence."""
    source = Settings(database=str(tmp_path / "source.db")).database
    fill(source)

    def targets(action: str, database: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service", "targets", action, str(tmp_path / "backup")],
            cwd=REPOSITORY,
            env={**os.environ, "EARWITNESS_DATABASE": database},
            check=False,
            capture_output=True,
            text=True,
        )

    exported = targets("export", source)
    assert (exported.returncode, exported.stdout) == (
        0,
        f"exported 5 registrations with 15 clips to {tmp_path / 'backup'}\n",
    )
    imported = targets("import", str(tmp_path / "copy.db"))
    assert (imported.returncode, imported.stdout) == (
        0,
        f"imported 5 registrations with 15 clips into {tmp_path / 'copy.db'}\n",
    )
    refused = targets("import", source)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: ")
    assert "holds 5 registrations" in refused.stderr
