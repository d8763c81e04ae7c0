"""Registering target clips: at once, durably, all or nothing."""

import asyncio
import hashlib
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import event

from models.bundle import Bundle
from models.detector import Detector
from models.encoder import Device
from models.systems import Features
from models.vocabulary import Domain, SectionKey
from service.adaptation import Adaptation
from service.detection import Detection
from service.errors import IdempotencyConflict, StoreError, TargetClipsUnusable
from service.targets import Idempotency, Registration, Sample, Standing, TargetStore
from tests.service.bundles import FAN_0, FAN_1, PUMP, make_bundle, sound, wav
from tests.service.servers import PATIENCE_S, Server

FAR = 1e9


def target_clips(key: SectionKey, first: int, count: int = 3) -> list[bytes]:
    return [wav(sound(key, seed, target=True)) for seed in range(first, first + count)]


def register(server: Server, key: SectionKey, clips: list[bytes], idempotency_key: str | None = None) -> httpx.Response:
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    return server.client.post(
        "/target-samples",
        data={"machine_type": key.machine_type, "section": key.section},
        files=[("audio", (f"{n}.wav", clip)) for n, clip in enumerate(clips)],
        headers=headers,
    )


def score(server: Server, key: SectionKey, audio: bytes) -> httpx.Response:
    fields = {"machine_type": key.machine_type, "section": key.section, "domain": "target"}
    return server.client.post("/score", data=fields, files={"audio": ("clip.wav", audio)})


def one(server: Server, key: SectionKey, method: str = "GET") -> dict[str, Any]:
    answer = server.client.request(method, f"/target-samples/{key.machine_type}/{key.section}")
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def test_three_clips_adapt_a_section_at_once(server: Server, bundle: Bundle) -> None:
    """409 before, a score after, the same as the offline detector's with the same three clips; DELETE takes it back."""
    audio = wav(sound(FAN_1, 30, target=True))
    assert score(server, FAN_1, audio).status_code == 409
    assert one(server, FAN_1)["version"] is None
    clips = target_clips(FAN_1, 10)
    answer = register(server, FAN_1, clips)
    assert answer.status_code == 201, answer.text
    registered = answer.json()
    assert registered["version"] == 1
    assert registered["state"] == "in_force"
    assert registered["calibration_clips"] == 3
    assert [set(sample) for sample in registered["samples"]] == [{"sha256", "duration_s", "quality"}] * 3
    assert set(registered["samples"][0]["quality"]) == {"level_dbfs", "clipped_share"}
    age_s = (datetime.now(UTC) - datetime.fromisoformat(registered["registered_at"])).total_seconds()
    assert 0.0 <= age_s < 60.0

    detector = Detector(bundle, device=Device.CPU, threads=1)
    heard = [detector.decode(clip) for clip in clips]
    features = Features.joined([detector.analyse(clip) for clip in heard])
    embeddings = detector.encode(detector.inputs(features), "fan")
    model = detector.fit_target(FAN_1, features, embeddings, [clip.level_dbfs for clip in heard])
    offline = detector.score(detector.decode(audio), "fan", "01", Domain.TARGET, target=model)
    scored = score(server, FAN_1, audio).json()
    assert scored["anomaly_score"] == pytest.approx(offline.anomaly_score, rel=1e-4)
    assert scored["decision"] == offline.decision
    assert registered["threshold"] == pytest.approx(scored["threshold"])
    assert (scored["target_version"], scored["target_state"]) == (1, "current")

    sections = {
        (each["machine_type"], each["section"]): each for each in server.client.get("/sections").json()["sections"]
    }
    assert sections["fan", "01"]["target_version"] == 1
    assert sections["fan", "01"]["domains"]["target"]["threshold"] == registered["threshold"]
    assert one(server, FAN_1, "DELETE")["version"] is None
    assert score(server, FAN_1, audio).status_code == 409


def test_versions_count_up_and_delete_restores_the_bundles_own(server: Server) -> None:
    """0 is what the bundle was trained with; a number is never used twice."""
    audio = wav(sound(FAN_0, 31, target=True))
    trained = score(server, FAN_0, audio).json()
    assert trained["target_version"] == 0
    for version in (1, 2):
        assert register(server, FAN_0, target_clips(FAN_0, 10 * version)).json()["version"] == version
    replaced = score(server, FAN_0, audio).json()
    assert replaced["target_version"] == 2
    assert replaced["anomaly_score"] != pytest.approx(trained["anomaly_score"], rel=1e-4)
    restored = one(server, FAN_0, "DELETE")
    assert (restored["version"], restored["samples"]) == (0, [])
    assert score(server, FAN_0, audio).json()["anomaly_score"] == pytest.approx(trained["anomaly_score"], rel=1e-6)
    assert one(server, FAN_0, "DELETE")["version"] == 0
    assert register(server, FAN_0, target_clips(FAN_0, 40)).json()["version"] == 3
    one(server, FAN_0, "DELETE")


def test_long_clips_give_their_first_ten_seconds(server: Server) -> None:
    """Two clips that differ only after them are duplicates."""
    start = sound(PUMP, 50, target=True)
    clips = [start, sound(PUMP, 51, target=True), sound(PUMP, 52, target=True)]
    longer = [wav(np.concatenate([clip, sound(PUMP, 60 + n)])) for n, clip in enumerate(clips)]
    alone = register(server, PUMP, [wav(clip) for clip in clips]).json()
    together = register(server, PUMP, longer).json()
    assert together["threshold"] == pytest.approx(alone["threshold"], rel=1e-4)
    assert together["samples"][0]["duration_s"] == 20.0
    assert register(server, PUMP, [*longer, wav(start)]).status_code == 422
    one(server, PUMP, "DELETE")


def test_a_repeated_request_is_one_registration(server: Server) -> None:
    """Also when both arrive at once; another request under the same key is refused."""
    clips = target_clips(PUMP, 70)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: register(server, PUMP, clips, "monday-1"), range(4)))
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.json()["version"] for answer in answers}) == 1
    version = answers[0].json()["version"]
    assert register(server, PUMP, clips, "monday-2").json()["version"] == version + 1
    repeated = register(server, PUMP, clips, "monday-1").json()
    assert repeated["version"] == version
    assert repeated["threshold"] == pytest.approx(answers[0].json()["threshold"])
    for key, others in ((PUMP, target_clips(PUMP, 80)), (FAN_1, clips)):
        conflict = register(server, key, others, "monday-1")
        assert conflict.status_code == 409
        assert conflict.json()["type"].endswith(":idempotency-conflict")
    assert register(server, PUMP, clips, "x" * 256).status_code == 400
    assert one(server, PUMP)["version"] == version + 1
    one(server, PUMP, "DELETE")


def test_a_repeated_request_says_what_became_of_its_registration(server: Server) -> None:
    """It registers nothing again, whatever has happened since, and never claims to be in force when it is not."""
    clips, audio = target_clips(FAN_1, 75), wav(sound(FAN_1, 34, target=True))
    first = register(server, FAN_1, clips, "tuesday-1").json()
    assert register(server, FAN_1, clips, "tuesday-1").json()["state"] == first["state"] == "in_force"
    later = register(server, FAN_1, target_clips(FAN_1, 85), "tuesday-2").json()
    for state in ("superseded", "withdrawn"):
        repeated = register(server, FAN_1, clips, "tuesday-1")
        assert repeated.status_code == 201
        assert repeated.json()["state"] == state
        for name in ("version", "threshold", "samples", "registered_at"):
            expected = pytest.approx(first[name]) if name == "threshold" else first[name]
            assert repeated.json()[name] == expected
        current = one(server, FAN_1)
        assert (current["version"], current["state"]) == (
            (later["version"], "in_force") if state == "superseded" else (None, "none")
        )
        one(server, FAN_1, "DELETE")
    assert score(server, FAN_1, audio).status_code == 409
    again = register(server, FAN_1, clips, "tuesday-3").json()
    assert (again["version"], again["state"]) == (later["version"] + 1, "in_force")
    one(server, FAN_1, "DELETE")


def test_registrations_outlive_a_restart_and_a_bundle(bundle_folder: Path, tmp_path: Path) -> None:
    """In force after a restart; dormant under a bundle without the section; in force again with one that has it."""
    database, log = tmp_path / "data" / "targets.db", tmp_path / "log"
    audio = wav(sound(FAN_1, 32, target=True))
    with Server(bundle_folder, database, log) as first:
        threshold = register(first, FAN_1, target_clips(FAN_1, 90)).json()["threshold"]
        before = score(first, FAN_1, audio).json()
        register(first, PUMP, target_clips(PUMP, 90))
    assert str(database) in log.read_text()

    smaller = make_bundle(tmp_path / "smaller", [FAN_0, FAN_1], name="smaller")
    assert smaller.folder is not None
    link = tmp_path / "current"
    link.symlink_to(smaller.folder)
    with Server(link, database, log) as second:
        listed = {each["machine_type"]: each for each in second.client.get("/target-samples").json()["target_samples"]}
        assert (listed["fan"]["state"], listed["fan"]["version"]) == ("in_force", 1)
        assert (listed["pump"]["state"], listed["pump"]["version"]) == ("dormant", 1)
        assert listed["pump"]["threshold"] is None
        assert len(listed["pump"]["samples"]) == 3
        assert one(second, PUMP)["state"] == "dormant"
        assert score(second, FAN_1, audio).json()["target_version"] == 1
        assert score(second, PUMP, audio).status_code == 404
        assert "dormant" in log.read_text()

    with Server(bundle_folder, database, log) as third:
        after = score(third, FAN_1, audio).json()
        assert after["target_version"] == 1
        assert after["anomaly_score"] == pytest.approx(before["anomaly_score"], rel=1e-6)
        assert one(third, FAN_1)["threshold"] == pytest.approx(threshold, rel=1e-6)
        assert one(third, PUMP)["state"] == "in_force"


def test_a_registration_killed_at_any_moment_is_the_old_or_the_new(
    bundle_folder: Path, tmp_path: Path, soak: bool
) -> None:
    """SIGKILL while one registration follows another: whole when it comes back, and none that was answered is lost."""
    database = tmp_path / "targets.db"
    sets = [target_clips(FAN_1, first) for first in (110, 120)]
    rng = random.Random(7)
    confirmed = 0
    for _ in range(100 if soak else 5):
        server = Server(bundle_folder, database, tmp_path / "log").start()
        current = one(server, FAN_1)
        assert (current["version"] or 0) >= confirmed
        assert len(current["samples"]) in {0, 3}
        before, one_more = confirmed, threading.Event()

        def keep_registering(server: Server = server, one_more: threading.Event = one_more) -> None:
            nonlocal confirmed
            try:
                while True:
                    confirmed = register(server, FAN_1, sets[confirmed % 2]).json()["version"]
                    one_more.set()
            except httpx.TransportError:
                return

        worker = threading.Thread(target=keep_registering)
        worker.start()
        assert one_more.wait(PATIENCE_S)
        time.sleep(rng.uniform(0.0, 0.35))
        server.kill()
        worker.join(PATIENCE_S)
        assert not worker.is_alive()
        assert confirmed > before
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counts = connection.execute("SELECT count(*) FROM clips GROUP BY registration_id").fetchall()
        registrations = connection.execute("SELECT count(*) FROM registrations").fetchone()
    assert set(counts) == {(3,)}
    assert len(counts) == registrations[0] >= confirmed
    connection.close()


SILENCE = wav(np.zeros(160_000, np.float32))


@pytest.mark.parametrize(
    ("audio", "sha256", "said"),
    [
        (b"", "0" * 64, "clip 2 of fan 00, version 1, is damaged"),
        (SILENCE, hashlib.sha256(SILENCE).hexdigest(), "cannot be used with this bundle"),
    ],
    ids=["damaged", "unusable"],
)
def test_clips_that_cannot_score_hide_nothing_and_can_be_withdrawn(
    bundle_folder: Path, tmp_path: Path, audio: bytes, sha256: str, said: str
) -> None:
    """Their registration is dormant; a score is refused for good, not for five seconds; DELETE ends it."""
    database = tmp_path / "targets.db"
    clip = wav(sound(FAN_0, 33, target=True))
    with Server(bundle_folder, database, tmp_path / "log") as first:
        assert register(first, FAN_0, target_clips(FAN_0, 130)).status_code == 201
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE clips SET audio = ?, sha256 = ? WHERE position = 2", (audio, sha256))
    connection.close()
    with Server(bundle_folder, database, tmp_path / "log") as second:
        assert said in second.log.read_text()
        assert (one(second, FAN_0)["state"], one(second, FAN_0)["version"]) == ("dormant", 1)
        (listed,) = second.client.get("/target-samples").json()["target_samples"]
        assert listed["state"] == "dormant"
        sections = second.client.get("/sections").json()["sections"]
        assert set(sections[0]["domains"]) == {"source"}
        refused = score(second, FAN_0, clip)
        assert refused.status_code == 409
        assert refused.json()["type"].endswith(":target-clips-unusable")
        assert said in refused.json()["detail"]
        assert "Register" in refused.json()["detail"]
        assert "Retry-After" not in refused.headers
        assert one(second, FAN_0, "DELETE")["version"] == 0
        assert score(second, FAN_0, clip).json()["target_version"] == 0


def test_a_database_that_goes_away_takes_only_target_clips_with_it(bundle_folder: Path, tmp_path: Path) -> None:
    """Deleted while the service runs: nothing is accepted that would be lost, and clips are scored."""
    database = tmp_path / "targets.db"
    source = {"machine_type": "fan", "section": "00", "domain": "source"}
    with Server(bundle_folder, database, tmp_path / "log") as server:
        clips = target_clips(FAN_0, 140)
        assert register(server, FAN_0, clips).status_code == 201
        for path in tmp_path.glob("targets.db*"):
            path.unlink()
        for refused in (register(server, FAN_0, clips), score(server, FAN_0, clips[0]), server.client.get("/sections")):
            assert refused.status_code == 503
            assert refused.json()["type"].endswith(":target-clips-unavailable")
            assert "targets.db" in refused.json()["detail"]
            assert int(refused.headers["Retry-After"]) > 0
        answer = server.client.post("/score", data=source, files={"audio": ("clip.wav", clips[0])})
        assert answer.status_code == 200
        assert "Traceback" not in server.log.read_text()


class Silent:
    """An observer that tells nobody."""

    def observe_stage(self, stage: str, seconds: float) -> None: ...

    def observe_batch(self, size: int) -> None: ...


@asynccontextmanager
async def adapting(bundle: Bundle, store: TargetStore) -> AsyncIterator[tuple[Detection, Adaptation]]:
    """Registrations in this process, with one thread for clips."""
    detector = Detector(bundle, device=Device.CPU, threads=1)
    detection = Detection(detector, threads=1, capacity=99, max_batch=32, max_clip_s=60.0, observer=Silent())
    detection.batcher.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield detection, Adaptation(detection, store)
    finally:
        await detection.close(PATIENCE_S)


def test_writers_that_wait_for_another_programs_lock_hold_nothing_up(bundle: Bundle, url: str, tmp_path: Path) -> None:
    """However many: clips are scored in both domains meanwhile, and what waited is registered in the end."""
    clips, writers = target_clips(FAN_0, 150), 34  # more than the most threads that asyncio keeps
    waiting = threading.Event()

    class Store(TargetStore):
        def register(self, *arguments: Any, **options: Any) -> Registration:
            waiting.set()
            return super().register(*arguments, **options)

    async def scenario() -> None:
        with Store(url, busy_timeout_s=PATIENCE_S) as store:
            async with adapting(bundle, store) as (detection, adaptation):
                await adaptation.register(FAN_0, clips, idempotency_key=None, deadline=FAR)
                waiting.clear()
                other = sqlite3.connect(tmp_path / "targets.db", isolation_level=None)
                other.execute("BEGIN IMMEDIATE")
                registering = [
                    asyncio.create_task(adaptation.register(FAN_0, clips, idempotency_key=None, deadline=FAR))
                    for _ in range(writers)
                ]
                while not waiting.is_set():
                    await asyncio.sleep(0.01)
                target, version = await adaptation.scoring_target(FAN_0, FAR)
                assert version == 1
                for domain, model in ((Domain.SOURCE, None), (Domain.TARGET, target)):
                    await detection.score(clips[0], FAN_0, domain, target=model, deadline=FAR)
                assert not any(one.done() for one in registering)
                other.execute("ROLLBACK")
                other.close()
                versions = {one.version for one in await asyncio.gather(*registering)}
                assert versions == set(range(2, writers + 2))

    asyncio.run(scenario())


def test_sections_are_read_at_once_and_wait_for_no_clip(bundle: Bundle, url: str) -> None:
    """As many statements for three sections as for none, while the thread of the clips has long to do."""
    statements: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def keep_the_thread() -> None:
        begun.set()
        go_on.wait(PATIENCE_S)

    async def scenario() -> None:
        with TargetStore(url) as store:
            async with adapting(bundle, store) as (detection, adaptation):
                for key in (FAN_0, FAN_1, PUMP):
                    await adaptation.register(key, target_clips(key, 160), idempotency_key=None, deadline=FAR)
                event.listen(store._engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
                busy = asyncio.create_task(detection.in_thread(keep_the_thread))
                while not begun.is_set():
                    await asyncio.sleep(0.001)
                targets = await adaptation.sections(FAR)
                assert not busy.done()
                go_on.set()
        assert [(one.key, one.version) for one in targets] == [(FAN_0, 1), (FAN_1, 1), (PUMP, 1)]
        assert len([one for one in statements if one.startswith("SELECT")]) == 2

    asyncio.run(scenario())


def rows(*contents: bytes) -> list[tuple[Sample, bytes]]:
    return [(Sample(hashlib.sha256(content).hexdigest(), 10.0, -20.0, 0.0), content) for content in contents]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'targets.db'}"


def test_the_store_keeps_what_it_was_given(url: str) -> None:
    """The very bytes and facts, after it was closed and opened again."""
    with TargetStore(url) as store:
        registration = store.register(FAN_0, rows(b"one", b"two", b"three"))
    with TargetStore(url) as store:
        assert store.in_force(FAN_0) == registration
        assert store.audio(registration) == [b"one", b"two", b"three"]
        assert store.in_force(FAN_1) is None
        assert store.all_in_force() == [registration]
        assert store.withdraw(FAN_0)
        assert not store.withdraw(FAN_0)
        assert store.all_in_force() == []
        assert store.register(FAN_0, rows(b"four")).version == 2


def test_the_store_gives_each_of_many_writers_a_version(url: str) -> None:
    """From several threads at once, none lost and none twice."""
    with TargetStore(url) as store, ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda n: store.register(FAN_0, rows(bytes([n]))).version, range(24)))
        assert sorted(written) == list(range(1, 25))
        latest = store.in_force(FAN_0)
        assert latest is not None
        assert latest.version == 24


def test_the_store_knows_its_idempotency_keys(url: str) -> None:
    """Across a restart too."""
    with TargetStore(url) as store:
        first = store.register(FAN_0, rows(b"one"), idempotency=Idempotency("key", "a"))
    with TargetStore(url) as store:
        assert store.replayed(Idempotency("other", "a")) is None
        assert store.register(FAN_0, rows(b"one"), idempotency=Idempotency("key", "a")) == first
        assert store.replayed(Idempotency("key", "a")) == first
        with pytest.raises(IdempotencyConflict, match="'key'"):
            store.register(FAN_1, rows(b"one"), idempotency=Idempotency("key", "b"))
        assert store.in_force(FAN_1) is None


def test_the_store_knows_what_became_of_a_registration(url: str) -> None:
    """In force, superseded, withdrawn; another section does not matter."""
    with TargetStore(url) as store:

        def standing() -> Standing:
            registration = store.replayed(Idempotency("key", "a"))
            assert registration is not None
            return registration.standing

        assert store.register(FAN_0, rows(b"one"), idempotency=Idempotency("key", "a")).standing is Standing.IN_FORCE
        store.register(FAN_1, rows(b"other"))
        assert standing() is Standing.IN_FORCE
        store.register(FAN_0, rows(b"two"))
        assert standing() is Standing.SUPERSEDED
        store.withdraw(FAN_0)
        assert standing() is Standing.WITHDRAWN
        assert [one.key for one in store.all_in_force()] == [FAN_1]


def test_a_damaged_clip_is_not_used(url: str, tmp_path: Path) -> None:
    """Its digest is checked when it is read."""
    with TargetStore(url) as store:
        registration = store.register(FAN_0, rows(b"one", b"two"))
        with sqlite3.connect(tmp_path / "targets.db") as connection:
            connection.execute("UPDATE clips SET audio = x'74766f' WHERE position = 2")
        connection.close()
        with pytest.raises(TargetClipsUnusable, match="clip 2 of fan 00, version 1, is damaged"):
            store.audio(registration)


@pytest.mark.parametrize("statement", ["PRAGMA user_version=2", "CREATE TABLE theirs (id INTEGER)"])
def test_another_database_is_refused(url: str, tmp_path: Path, statement: str) -> None:
    """One of a later version, or of another program, is left as it is."""
    with sqlite3.connect(tmp_path / "targets.db") as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(StoreError, match="EARWITNESS_DATABASE"):
        TargetStore(url)


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """A file that is none, and a folder that is a file."""
    (tmp_path / "text").write_text("this is no database, but long enough to be read as one" * 50)
    for path in (tmp_path / "text", tmp_path / "text" / "below"):
        with pytest.raises(StoreError, match=r"text.*EARWITNESS_DATABASE"):
            TargetStore(f"sqlite:///{path}")


def test_a_database_that_was_replaced_is_not_written(url: str, tmp_path: Path) -> None:
    """What went into the old file, which nobody will open again, would be lost."""
    with TargetStore(url) as store:
        store.register(FAN_0, rows(b"one"))
        (tmp_path / "targets.db").rename(tmp_path / "old.db")
        with pytest.raises(StoreError, match=r"targets\.db"):
            store.register(FAN_0, rows(b"two"))
        (tmp_path / "targets.db").write_bytes(b"")
        with pytest.raises(StoreError, match="replaced"):
            store.in_force(FAN_0)


def test_commits_are_durable(url: str) -> None:
    """Write-ahead log, synced at each commit."""
    with TargetStore(url) as store, store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
