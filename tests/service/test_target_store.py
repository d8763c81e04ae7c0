"""The stores of target clips: one contract over SQLite and PostgreSQL, and what each has of its own."""

import asyncio
import hashlib
import itertools
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import service.databases
from models.vocabulary import SectionKey
from service.databases import REVISION, exists
from service.errors import IdempotencyConflict, StoreError, TargetClipsUnusable, UnknownTargetVersion
from service.registered import Registered
from service.retention import RETENTION, Retention
from service.settings import Settings
from service.tables import metadata
from service.targets import Idempotency, Sample, Standing, State, TargetStore
from tests.service.bundles import FAN_0, FAN_1, PUMP
from tests.service.postgres import Postgres, execute
from tests.service.servers import PATIENCE_S, REPOSITORY

FIRST_RELEASE = Path(__file__).with_name("first_release.sql")


def rows(*contents: bytes) -> list[tuple[Sample, bytes]]:
    return [(Sample(hashlib.sha256(content).hexdigest(), 10.0, -20.0, 0.0), content) for content in contents]


def state(store: TargetStore) -> State:
    found = store.state()
    assert found is not None
    return found


def change(url: str, statement: str) -> None:
    """What another program does to the database."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute(statement)
    else:
        execute(url, statement)


def test_it_keeps_what_it_was_given(url: str) -> None:
    """The very bytes and facts, after it was closed and opened again."""
    every_byte = bytes(range(256))
    with TargetStore(url) as store:
        registration, _ = store.register(FAN_0, rows(b"one", b"two", every_byte))
    with TargetStore(url) as store:
        assert state(store).in_force == (registration,)
        assert store.audio(registration) == [b"one", b"two", every_byte]
        assert store.withdraw(FAN_0)[0]
        assert not store.withdraw(FAN_0)[0]
        assert state(store).in_force == ()
        assert store.register(FAN_0, rows(b"four"))[0].version == 2


def test_every_change_is_counted_and_returns_the_state_after_it(url: str) -> None:
    """So that an instance knows at once what it did, and by one number whether another did something."""
    with TargetStore(url) as ours, TargetStore(url) as theirs:
        first, after_first = ours.register(PUMP, rows(b"one"))
        second, after_second = theirs.register(FAN_1, rows(b"two"))
        assert 0 < after_first.changes < after_second.changes
        assert after_second.in_force == (second, first)
        assert state(ours) == after_second
        assert ours.state(unless=after_second.changes) is None
        assert ours.state(unless=after_first.changes) == after_second
        withdrawn, after_third = theirs.withdraw(PUMP)
        assert withdrawn
        assert after_third == State(after_third.changes, (second,))
        assert after_third.changes > after_second.changes


def test_a_clock_that_goes_back_does_not_take_the_count_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that stands still give two changes one number."""
    with TargetStore(url) as store:
        before = store.register(FAN_0, rows(b"one"))[1].changes
        monkeypatch.setattr("time.time_ns", lambda: 10**9)
        assert [store.register(FAN_0, rows(b"one"))[1].changes for _ in range(2)] == [before + 1, before + 2]


def test_a_count_that_a_backup_took_back_does_not_come_to_where_it_was(url: str) -> None:
    """Or an instance would take other registrations for those it knows."""
    with TargetStore(url) as store:
        store.register(FAN_0, rows(b"one"))
        known = store.register(FAN_0, rows(b"two"))[1]
        change(url, f"UPDATE changes SET number = {known.changes - 1}")
        store.register(FAN_0, rows(b"three"))
        assert store.state(unless=known.changes) is not None


def test_it_gives_each_of_many_writers_a_version(url: str) -> None:
    """From several threads of two instances at once, none lost and none twice."""
    with TargetStore(url, PATIENCE_S) as ours, TargetStore(url, PATIENCE_S) as theirs, ThreadPoolExecutor(8) as pool:
        stores = [ours, theirs] * 12
        written = pool.map(lambda n: stores[n].register(FAN_0, rows(bytes([n])))[0].version, range(24))
        assert sorted(written) == list(range(1, 25))
        assert [one.version for one in state(ours).in_force] == [24]


def test_a_reader_sees_one_moment(url: str) -> None:
    """A registration is whole in every state that is read while others replace it."""
    seen: set[int] = set()
    until = time.monotonic() + PATIENCE_S

    def replace(store: TargetStore) -> None:
        """Forty times, and until the reader has seen two."""
        for n in itertools.count():
            if n >= 40 and (len(seen) > 1 or time.monotonic() > until):
                return
            store.register(FAN_0, rows(bytes([n % 256]), b"2", b"3"))

    with TargetStore(url) as ours, TargetStore(url) as theirs, ThreadPoolExecutor(1) as pool:
        ours.register(FAN_0, rows(b"1", b"2", b"3"))
        writing = pool.submit(replace, theirs)
        while not writing.done():
            (one,) = state(ours).in_force
            assert len(one.samples) == 3
            assert one.standing is Standing.IN_FORCE
            seen.add(one.version)
        writing.result()
        assert len(seen) > 1


def test_it_knows_its_idempotency_keys(url: str) -> None:
    """Across a restart too, of registrations and of what was restored."""
    with TargetStore(url) as store:
        first, _ = store.register(FAN_0, rows(b"one"), idempotency=Idempotency("key", "a"))
    with TargetStore(url) as store:
        assert store.replayed(Idempotency("other", "a")) is None
        assert store.register(FAN_0, rows(b"one"), idempotency=Idempotency("key", "a"))[0] == first
        assert store.replayed(Idempotency("key", "a")) == first
        with pytest.raises(IdempotencyConflict, match="'key'"):
            store.register(FAN_1, rows(b"one"), idempotency=Idempotency("key", "b"))
        assert state(store).in_force == (first,)
        restored, _ = store.restore(FAN_0, 1, idempotency=Idempotency("again", "c"))
        assert store.restore(FAN_0, 1, idempotency=Idempotency("again", "c"))[0] == restored


def test_it_keeps_as_many_versions_of_a_section_as_it_should(url: str) -> None:
    """The newest, and what a repeated request asks for; the count goes on, and other sections lose nothing."""
    with TargetStore(url) as store:
        for content in (b"1", b"2", b"3", b"4"):
            store.register(FAN_0, rows(content))
        store.register(FAN_1, rows(b"other"), idempotency=Idempotency("key", "a"))
        store.register(FAN_1, rows(b"another"))
    with TargetStore(url, retention=Retention(versions=2)) as store:
        assert len(store.versions(FAN_0)) == 4
        gone = store.versions(FAN_0)[1]
        restored, _ = store.restore(FAN_0, 1)
        assert [one.version for one in store.versions(FAN_0)] == [5, 4]
        assert store.audio(restored) == [b"1"]
        with pytest.raises(UnknownTargetVersion, match=r"version 1. There are 4, 5"):
            store.restore(FAN_0, 1)
        with pytest.raises(StoreError, match=r"version 3 of fan 00 is no longer kept.*again"):
            store.audio(gone)
        store.withdraw(FAN_0)
        assert store.register(FAN_0, rows(b"6"))[0].version == 6
        assert [one.version for one in store.versions(FAN_0)] == [6, 5]
        store.register(FAN_1, rows(b"third"))
        assert [one.version for one in store.versions(FAN_1)] == [3, 2, 1]
        assert store.replayed(Idempotency("key", "a")) == store.version(FAN_1, 1)
        with store._database.reading() as connection:
            assert connection.scalar(text("SELECT count(*) FROM clips")) == 5


def test_thousands_of_versions_go_a_few_at_a_time(url: str) -> None:
    """The oldest first, twenty with each registration, so that none waits for all of them."""
    with TargetStore(url) as store:
        for number in range(30):
            store.register(FAN_0, rows(b"%d" % number))
    with TargetStore(url, retention=Retention(versions=1)) as store:
        store.register(FAN_0, rows(b"new"))
        assert [one.version for one in store.versions(FAN_0)] == list(range(31, 20, -1))
        store.register(FAN_0, rows(b"newer"))
        assert [one.version for one in store.versions(FAN_0)] == [32]


def test_what_is_in_force_is_kept_however_old_it_is(url: str) -> None:
    """Also where it is not the newest."""
    with TargetStore(url, retention=Retention(versions=1)) as store:
        old, _ = store.register(FAN_0, rows(b"1"), idempotency=Idempotency("key", "a"))
        store.register(FAN_0, rows(b"2"))
        change(url, f"UPDATE in_force SET registration_id = {old.id}")
        change(url, "DELETE FROM idempotency_keys")
        with store._database.writing() as connection:
            store._retention.forget_versions(connection, {"machine_type": "fan", "section": "00", "domain": "target"})
        assert [one.version for one in store.versions(FAN_0)] == [2, 1]
        assert store.audio(old) == [b"1"]


def test_an_idempotency_key_is_known_for_so_long(url: str) -> None:
    """Then it may be used for another request, and the version that it made goes with the others."""
    with TargetStore(url, retention=Retention(versions=1, keys_s=3600.0)) as store:
        for minutes, known in ((59, True), (61, False)):
            store.register(FAN_0, rows(b"one"), idempotency=Idempotency("key", "a"))
            at = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()
            change(url, f"UPDATE registrations SET registered_at = '{at}'")
            assert (store.replayed(Idempotency("key", "a")) is not None) == known
        assert store.register(FAN_1, rows(b"one"), idempotency=Idempotency("key", "b"))[0].version == 1
        assert store.register(FAN_0, rows(b"two"))[0].version == 2
        assert [one.version for one in store.versions(FAN_0)] == [2]


def test_settings_say_what_a_store_keeps_by_itself() -> None:
    """In one place more, which must agree: settings are read by commands that need no database."""
    settings = Settings()
    assert Retention(settings.versions_kept, settings.idempotency_keys_s) == RETENTION


def test_a_version_that_is_known_to_have_been_is_not_given_again(url: str) -> None:
    """A backup took the database's place under an instance that goes on: it knows what it has answered."""

    async def scenario(store: TargetStore) -> None:
        with closing(await Registered(store).open()) as registered:
            for content in (b"one", b"two", b"three"):
                await registered.register(FAN_0, rows(content), idempotency=None)
            first = store.version(FAN_0, 1)
            change(url, f"UPDATE in_force SET registration_id = {first.id}")
            change(url, f"DELETE FROM clips WHERE registration_id > {first.id}")
            change(url, f"DELETE FROM registrations WHERE id > {first.id}")
            change(url, "UPDATE changes SET number = 1")
            await registered.refresh()
            assert [one.version for one in registered.all] == [1]
            assert (await registered.register(FAN_0, rows(b"four"), idempotency=None)).version == 4
            assert (await registered.restore(FAN_0, 1, idempotency=None)).version == 5

    with TargetStore(url) as store:
        asyncio.run(scenario(store))


def test_it_knows_what_became_of_a_registration(url: str) -> None:
    """In force, superseded, withdrawn; another section does not matter."""
    with TargetStore(url) as store:

        def standing() -> Standing:
            registration = store.replayed(Idempotency("key", "a"))
            assert registration is not None
            return registration.standing

        first, _ = store.register(FAN_0, rows(b"one"), idempotency=Idempotency("key", "a"))
        assert first.standing is Standing.IN_FORCE
        store.register(FAN_1, rows(b"other"))
        assert standing() is Standing.IN_FORCE
        store.register(FAN_0, rows(b"two"))
        assert standing() is Standing.SUPERSEDED
        store.withdraw(FAN_0)
        assert standing() is Standing.WITHDRAWN
        assert [one.key for one in state(store).in_force] == [FAN_1]


def test_an_earlier_version_is_restored_as_a_new_one(url: str) -> None:
    """With the old clips, and a note of where they came from; what there was stays listed, the newest first."""
    with TargetStore(url) as store:
        store.register(FAN_0, rows(b"one", b"two"))
        store.register(FAN_0, rows(b"three"))
        restored, after = store.restore(FAN_0, 1)
        assert (restored.version, restored.restored_from, restored.standing) == (3, 1, Standing.IN_FORCE)
        assert after.in_force == (restored,)
        assert store.audio(restored) == [b"one", b"two"]
        versions = store.versions(FAN_0)
        assert [(one.version, one.restored_from, one.standing) for one in versions] == [
            (3, 1, Standing.IN_FORCE),
            (2, None, Standing.SUPERSEDED),
            (1, None, Standing.SUPERSEDED),
        ]
        assert versions[0].samples == versions[2].samples == store.version(FAN_0, 1).samples
        for key, version in ((FAN_0, 4), (FAN_0, 0), (FAN_1, 1)):
            with pytest.raises(UnknownTargetVersion, match=f"no registration of version {version}"):
                store.restore(key, version)
        assert state(store) == after


def test_a_damaged_clip_is_not_used(url: str) -> None:
    """Its digest is checked when it is read."""
    with TargetStore(url) as store:
        registration, _ = store.register(FAN_0, rows(b"one", b"two"))
        change(url, f"UPDATE clips SET audio = {'x' if url.startswith('sqlite') else ''}'74766f' WHERE position = 2")
        with pytest.raises(TargetClipsUnusable, match="clip 2 of fan 00, version 1, is damaged"):
            store.audio(registration)


def test_a_database_of_another_program_or_of_a_later_release_is_left_alone(url: str) -> None:
    """And named, with what to do."""
    change(url, "CREATE TABLE theirs (id INTEGER)")
    with pytest.raises(StoreError, match=r"revision unknown.*EARWITNESS_DATABASE"):
        TargetStore(url)
    change(url, "DROP TABLE theirs")
    TargetStore(url).close()
    change(url, "UPDATE alembic_version SET version_num = '9'")
    with pytest.raises(StoreError, match=rf"revision 9; this service knows those up to {REVISION}"):
        TargetStore(url)


def test_instances_that_start_at_once_make_one_schema(url: str) -> None:
    """Neither fails because the other was faster."""

    def opened_and_written(n: int) -> int:
        with TargetStore(url) as store:
            return store.register(FAN_0, rows(bytes([n])))[0].version

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(opened_and_written, range(4))) == [1, 2, 3, 4]


def test_the_migrations_make_the_tables_that_are_used(url: str) -> None:
    """No column more or less; their newest revision is the one that needs no migration."""
    with TargetStore(url) as store, store._database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == REVISION
    folder = Path(service.databases.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_heads() == [REVISION]


def test_a_database_of_the_first_release_is_taken_over(tmp_path: Path) -> None:
    """With all that it holds; the first release, which would not count its changes, is kept out of it then."""
    file = tmp_path / "targets.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(FIRST_RELEASE.read_text())
    for _ in range(2):
        with TargetStore(f"sqlite:///{file}", retention=Retention(keys_s=1e9)) as store:
            fan, pump = SectionKey("fan", "00"), SectionKey("pump", "00")
            (current,) = state(store).in_force
            assert (current.key, current.version, current.registered_at.isoformat()[:10]) == (fan, 2, "2026-11-24")
            versions = [*store.versions(fan), *store.versions(pump)]
            assert [(one.version, one.standing.value) for one in versions] == [
                (2, "in_force"),
                (1, "superseded"),
                (1, "withdrawn"),
            ]
            audio = [store.audio(one) for one in versions]
            assert audio == [[b"four", b"five", b"six"], [b"one", b"two", b"three"], [b"seven", b"eight", b"nine"]]
            assert versions[0].samples[0].level_dbfs == -20.5
            assert store.replayed(Idempotency("monday", "a" * 64)) == versions[1]
    with TargetStore(f"sqlite:///{file}") as store:
        assert store.register(pump, rows(b"ten"))[0].version == 2
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_database_of_the_release_before_is_taken_over_while_that_goes_on(url: str) -> None:
    """What it holds stays, and an instance of that release may go on counting changes until it is replaced too."""
    with TargetStore(url) as store:
        before = store.register(FAN_0, rows(b"one"))[1]
    change(url, "ALTER TABLE changes DROP COLUMN version_floor")
    change(url, "UPDATE alembic_version SET version_num = '2'")
    with TargetStore(url) as store:
        assert state(store) == before
        change(url, "UPDATE changes SET number = number + 1")
        assert store.state(unless=before.changes) is not None
        assert store.register(FAN_0, rows(b"two"))[0].version == 2


def test_a_migration_that_is_interrupted_leaves_the_old_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one transaction: the next start begins it again."""
    file = tmp_path / "targets.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(FIRST_RELEASE.read_text())
    with monkeypatch.context() as interrupted:
        interrupted.setattr("alembic.operations.Operations.add_column", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            TargetStore(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"registrations", "clips", "in_force", "idempotency_keys"}
    with TargetStore(f"sqlite:///{file}") as store:
        assert len(state(store).in_force) == 1


def test_a_start_without_migration_does_not_import_alembic(url: str) -> None:
    """It would make every start slower for nothing."""
    TargetStore(url).close()
    code = (
        "import sys; from service.targets import TargetStore; TargetStore(sys.argv[1]); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, url], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("version", [1, 7])
def test_a_marked_file_without_our_tables_is_refused(tmp_path: Path, version: int) -> None:
    """user_version says that it is some program's."""
    change(f"sqlite:///{tmp_path / 'targets.db'}", f"PRAGMA user_version={version}")
    with pytest.raises(StoreError, match="EARWITNESS_DATABASE"):
        TargetStore(f"sqlite:///{tmp_path / 'targets.db'}")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """One that is no database, and a folder that is a file."""
    (tmp_path / "text").write_text("this is no database, but long enough to be read as one" * 50)
    for path in (tmp_path / "text", tmp_path / "text" / "below"):
        with pytest.raises(StoreError, match=r"text.*EARWITNESS_DATABASE"):
            TargetStore(f"sqlite:///{path}")
    assert not exists(f"sqlite:///{tmp_path / 'nothing'}")


def test_a_file_that_was_replaced_is_not_written(tmp_path: Path) -> None:
    """What went into the old file, which nobody will open again, would be lost."""
    with TargetStore(f"sqlite:///{tmp_path / 'targets.db'}") as store:
        store.register(FAN_0, rows(b"one"))
        (tmp_path / "targets.db").rename(tmp_path / "old.db")
        with pytest.raises(StoreError, match=r"targets\.db"):
            store.register(FAN_0, rows(b"two"))
        (tmp_path / "targets.db").write_bytes(b"")
        with pytest.raises(StoreError, match="replaced"):
            store.state()


@pytest.mark.parametrize(
    ("pragma", "said"), [("max_page_count = {}", "disk is full"), ("query_only = ON", "readonly database")]
)
def test_a_disk_that_is_full_or_read_only_leaves_what_was_there(tmp_path: Path, pragma: str, said: str) -> None:
    """A sentence, nothing half written, and it goes on when there is space again."""
    with TargetStore(f"sqlite:///{tmp_path / 'targets.db'}") as store:
        store.register(FAN_0, rows(b"one"))
        before = state(store)
        engine = store._database.engine
        with engine.connect() as connection:  # the pool's only one
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA {pragma.format(pages + 10)}")
        for _ in range(2):
            with pytest.raises(StoreError, match=rf"{said}.*space on its disk") as refused:
                store.register(FAN_0, rows(b"two", bytes(100_000)))
            assert not refused.value.in_doubt
        assert state(store) == before
        assert [len(one.samples) for one in store.versions(FAN_0)] == [1]
        engine.dispose()
        assert store.register(FAN_0, rows(b"two", bytes(100_000)))[0].version == 2


def test_commits_are_durable(tmp_path: Path) -> None:
    """Write-ahead log, synced at each commit."""
    with (
        TargetStore(f"sqlite:///{tmp_path / 'targets.db'}") as store,
        store._database.engine.connect() as connection,
    ):
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    """Neither the one in the user's place nor the one among the parameters."""
    url = f"postgresql+psycopg://me:secret@/plant?host={tmp_path}&password=secret2"
    with pytest.raises(StoreError, match=r"me:\*\*\*@/plant.*EARWITNESS_DATABASE") as refused:
        TargetStore(url)
    assert "secret" not in str(refused.value)
    assert exists(url)


def test_a_writer_does_not_wait_for_another_programs_lock_for_ever(postgres: Postgres) -> None:
    """It says that the database cannot be used, and can be used again afterwards."""
    url = postgres.new_database()
    TargetStore(url).close()  # the tables are made with more patience
    with TargetStore(url, 0.2) as store, TargetStore(url) as other:
        with other._database.writing() as connection:
            connection.exec_driver_sql("UPDATE changes SET number = number")
            with pytest.raises(StoreError, match="lock timeout"):
                store.register(FAN_0, rows(b"one"))
        assert store.register(FAN_0, rows(b"one"))[0].version == 1


@pytest.mark.parametrize(
    ("configured", "used"), [("off", "on"), ("on", "on"), ("local", "local"), ("remote_apply", "remote_apply")]
)
def test_a_commit_waits_for_the_disk_whatever_the_server_would_do(
    postgres: Postgres, configured: str, used: str
) -> None:
    """A server that would answer before is told not to; one that waits for more is left alone. So with isolation."""
    url = postgres.new_database()
    for setting in (f"synchronous_commit = {configured}", "default_transaction_isolation = serializable"):
        execute(url, f"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {setting}', current_database()); END $$")
    with TargetStore(url) as store, store._database.writing() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == used
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"


@pytest.mark.parametrize("dies", [True, False])
def test_a_commit_that_the_server_dies_of_is_in_doubt(postgres: Postgres, dies: bool) -> None:
    """Nobody knows whether it was done, and the error says so; one that the server refuses was not."""
    url = postgres.new_database()
    with TargetStore(url) as store:
        end = "PERFORM pg_terminate_backend(pg_backend_pid())" if dies else "RAISE 'no'"
        execute(
            url, f"CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {end}; RETURN NULL; END $$"
        )
        execute(
            url,
            "CREATE CONSTRAINT TRIGGER at_the_commit AFTER INSERT ON clips DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
            "EXECUTE FUNCTION finish()",
        )
        with pytest.raises(StoreError) as refused:
            store.register(FAN_0, rows(b"one"))
        assert refused.value.in_doubt == dies
        assert ("repeat it with the same Idempotency-Key" in str(refused.value)) == dies
        assert state(store).in_force == ()


def test_a_server_that_comes_back_is_used_again(postgres: Postgres) -> None:
    """Stopped, it is an error with its name; started, the same store goes on with all that was registered."""
    with TargetStore(postgres.new_database()) as store:
        before = store.register(FAN_0, rows(b"one"))[1]
        postgres.stop()
        try:
            for use in (store.state, lambda: store.register(FAN_0, rows(b"two"))):
                with pytest.raises(StoreError, match="cannot be used"):
                    use()
        finally:
            postgres.start()
        assert state(store) == before
        assert store.register(FAN_0, rows(b"two"))[0].version == 2
