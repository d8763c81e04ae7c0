"""Registering target clips: at once, durably, all or nothing."""

import asyncio
import hashlib
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import event

from models.appraisal import LEAST_SIMILARITY
from models.bundle import Bundle
from models.detector import Detector
from models.encoder import Device
from models.systems import Features
from models.vocabulary import Domain
from service.adaptation import Adaptation
from service.detection import Detection
from service.registered import Registered
from service.targets import Registration, State, TargetStore
from tests.service.asking import metrics, one, register, score, target_clips
from tests.service.bundles import FAN_0, FAN_1, PUMP, make_bundle, sound, wav
from tests.service.servers import PATIENCE_S, Server

FAR = 1e9


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
    assert [set(sample) for sample in registered["samples"]] == [{"sha256", "duration_s", "quality", "warnings"}] * 3
    measured = {"level_dbfs", "clipped_share", "silent_share", "similarity", "source_distance"}
    assert set(registered["samples"][0]["quality"]) == measured
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
    """Deleted while the service runs: nothing is accepted that would be lost; clips are scored by the last known."""
    database = tmp_path / "targets.db"
    source = {"machine_type": "fan", "section": "00", "domain": "source"}
    with Server(bundle_folder, database, tmp_path / "log") as server:
        clips = target_clips(FAN_0, 140)
        assert register(server, FAN_0, clips).status_code == 201
        for path in tmp_path.glob("targets.db*"):
            path.unlink()
        refused = register(server, FAN_0, clips)
        assert refused.status_code == 503
        assert refused.json()["type"].endswith(":target-clips-unavailable")
        assert "targets.db" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) > 0
        until = time.monotonic() + PATIENCE_S
        while score(server, FAN_0, clips[0]).json()["target_state"] == "current":
            assert time.monotonic() < until
        scored = score(server, FAN_0, clips[0]).json()
        assert (scored["target_version"], scored["target_state"]) == (1, "stale")
        assert server.client.get("/sections").json()["sections"][0]["target_state"] == "stale"
        assert 'earwitness_target_state{domain="target",machine_type="fan",section="00"} 0.0' in metrics(server)
        answer = server.client.post("/score", data=source, files={"audio": ("clip.wav", clips[0])}).json()
        assert (answer["target_version"], answer["target_state"]) == (None, None)
        assert "Traceback" not in server.log.read_text()


@asynccontextmanager
async def adapting(
    bundle: Bundle, store: TargetStore, *, following: bool = True
) -> AsyncIterator[tuple[Detection, Adaptation]]:
    """Registrations in this process, with one thread for clips; other instances' are followed, or not."""
    detector = Detector(bundle, device=Device.CPU, threads=1)
    detection = Detection(detector, threads=1, capacity=99, max_batch=32, max_clip_s=60.0)
    detection.batcher.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            with closing(await Registered(store).open()) as registered:
                adaptation = Adaptation(detection, registered)
                if not following:
                    yield detection, adaptation
                    return
                task = asyncio.create_task(registered.follow(lambda: adaptation.warm(FAR)))
                yield detection, adaptation
                task.cancel()
    finally:
        await detection.close(PATIENCE_S)


def test_writers_that_wait_for_another_programs_lock_hold_nothing_up(bundle: Bundle, tmp_path: Path) -> None:
    """However many: clips are scored in both domains meanwhile, and what waited is registered in the end."""
    clips, writers = target_clips(FAN_0, 150), 34  # more than the most threads that asyncio keeps
    waiting = threading.Event()

    class Store(TargetStore):
        def register(self, *arguments: Any, **options: Any) -> tuple[Registration, State]:
            waiting.set()
            return super().register(*arguments, **options)

    async def scenario() -> None:
        with Store(f"sqlite:///{tmp_path / 'targets.db'}", PATIENCE_S) as store:
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
                target, version, state = await adaptation.scoring_target(FAN_0, FAR)
                assert (version, state) == (1, "current")
                for domain, model in ((Domain.SOURCE, None), (Domain.TARGET, target)):
                    await detection.score(clips[0], FAN_0, domain, target=model, deadline=FAR)
                assert not any(one.done() for one in registering)
                other.execute("ROLLBACK")
                other.close()
                versions = {one.version for one in await asyncio.gather(*registering)}
                assert versions == set(range(2, writers + 2))

    asyncio.run(scenario())


def test_sections_are_told_without_the_database_and_wait_for_no_clip(bundle: Bundle, url: str) -> None:
    """Not a statement, while the thread of the clips has long to do."""
    statements: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def keep_the_thread() -> None:
        begun.set()
        go_on.wait(PATIENCE_S)

    async def scenario() -> None:
        with TargetStore(url) as store:
            async with adapting(bundle, store, following=False) as (detection, adaptation):
                for key in (FAN_0, FAN_1, PUMP):
                    await adaptation.register(key, target_clips(key, 160), idempotency_key=None, deadline=FAR)
                event.listen(store._database.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
                busy = asyncio.create_task(detection.in_thread(keep_the_thread))
                while not begun.is_set():
                    await asyncio.sleep(0.001)
                targets = await adaptation.sections(FAR)
                assert not busy.done()
                go_on.set()
        assert [(one.key, one.version) for one in targets] == [(FAN_0, 1), (FAN_1, 1), (PUMP, 1)]
        assert statements == []

    asyncio.run(scenario())


def test_clips_that_do_not_stand_for_the_condition_are_warned_about(server: Server) -> None:
    """One of a fault, one clipped and one with a gap; all are registered, and told with what they measure."""
    whole = [sound(PUMP, seed, target=True) for seed in (300, 301)]
    fault = sound(PUMP, 302, target=True, fault=True)
    loud, gap = np.clip(6.0 * sound(PUMP, 303, target=True), -1.0, 1.0), sound(PUMP, 304, target=True)
    gap[:32_000] = 0.0

    def registered(*others: NDArray[np.float32]) -> list[dict[str, Any]]:
        answer = register(server, PUMP, [wav(clip) for clip in (*whole, *others)])
        assert answer.status_code == 201, answer.text
        samples: list[dict[str, Any]] = answer.json()["samples"]
        return samples

    def codes(sample: dict[str, Any]) -> set[str]:
        return {warning["code"] for warning in sample["warnings"]}

    good = registered(sound(PUMP, 305, target=True))
    assert [codes(sample) for sample in good] == [set()] * 3
    assert all(sample["quality"]["similarity"] > LEAST_SIMILARITY for sample in good)
    assert all(sample["quality"]["source_distance"] > 5.0 for sample in good)
    assert all(sample["quality"]["silent_share"] == 0.0 for sample in good)

    with_fault = registered(fault)
    assert [codes(sample) for sample in with_fault] == [set(), set(), {"unlike_the_others"}]
    assert with_fault[2]["quality"]["similarity"] < LEAST_SIMILARITY
    assert "Listen to it" in with_fault[2]["warnings"][0]["detail"]
    assert "clipped" in codes(registered(loud)[2])
    with_gap = registered(gap)[2]
    assert "partly_silent" in codes(with_gap)
    assert with_gap["quality"]["silent_share"] == pytest.approx(0.2)
    assert one(server, PUMP)["samples"][2] == with_gap
    one(server, PUMP, "DELETE")


def test_a_preview_registers_nothing(server: Server) -> None:
    """It says what the registration says that follows it, and refuses what that would refuse."""
    clips = target_clips(FAN_1, 320)
    before = one(server, FAN_1)
    previewed = register(server, FAN_1, clips, preview=True)
    assert previewed.status_code == 200, previewed.text
    preview = previewed.json()
    assert (preview["state"], preview["version"], preview["registered_at"]) == ("preview", None, None)
    assert {**one(server, FAN_1), "request_id": ""} == {**before, "request_id": ""}
    registered = register(server, FAN_1, clips).json()
    for name in ("threshold", "threshold_rule", "calibration_clips", "samples"):
        assert preview[name] == registered[name]
    assert register(server, FAN_1, clips[:2], preview=True).status_code == 422
    for query in ("preview=perhaps", "preview=true&preview=true", "dry=true"):
        assert server.client.post(f"/target-samples?{query}").status_code == 400
    one(server, FAN_1, "DELETE")


def test_an_earlier_version_comes_back_as_a_new_one(server: Server) -> None:
    """Its scores are those it gave before; a repeat under one key is one restore; what is no version is 404."""
    path, audio = "/target-samples/fan/01", wav(sound(FAN_1, 37, target=True))

    def restore(body: Any, key: str | None = None) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return server.client.post(f"{path}/restore", json=body, headers=headers)

    first = register(server, FAN_1, target_clips(FAN_1, 330)).json()
    before = score(server, FAN_1, audio).json()
    second = register(server, FAN_1, target_clips(FAN_1, 340)).json()
    assert score(server, FAN_1, audio).json()["anomaly_score"] != pytest.approx(before["anomaly_score"], rel=1e-4)
    restored = restore({"version": first["version"]}, "back-1")
    assert restored.status_code == 201, restored.text
    answer = restored.json()
    assert (answer["version"], answer["restored_from"]) == (second["version"] + 1, first["version"])
    assert (answer["samples"], answer["threshold"]) == (first["samples"], first["threshold"])
    after = score(server, FAN_1, audio).json()
    assert after["target_version"] == answer["version"]
    assert after["anomaly_score"] == pytest.approx(before["anomaly_score"], rel=1e-6)
    assert restore({"version": first["version"]}, "back-1").json()["version"] == answer["version"]
    assert restore({"version": second["version"]}, "back-1").status_code == 409

    listed = {each["version"]: each for each in server.client.get(f"{path}/versions").json()["versions"]}
    for same in (first, answer):  # the clips in force, told as when they were registered
        assert listed[same["version"]]["samples"] == first["samples"]
    for past, told in zip(listed[second["version"]]["samples"], second["samples"], strict=True):
        stored = ("level_dbfs", "clipped_share")
        quality = {name: told["quality"][name] if name in stored else None for name in told["quality"]}
        assert past == {**told, "quality": quality, "warnings": []}

    one(server, FAN_1, "DELETE")
    listed = server.client.get(f"{path}/versions").json()["versions"]
    versions = [each["version"] for each in listed]
    assert versions == list(range(answer["version"], 0, -1))
    assert {each["state"] for each in listed} == {"withdrawn"}
    assert listed[0]["restored_from"] == first["version"]
    assert [sample["sha256"] for sample in listed[0]["samples"]] == [sample["sha256"] for sample in first["samples"]]

    unknown = restore({"version": 999})
    assert unknown.status_code == 404
    assert unknown.json()["type"].endswith(":unknown-target-version")
    assert unknown.json()["known"] == versions[::-1]
    for wrong in ({"version": 0}, {"version": "one"}, {"version": 1, "more": 2}, {}, [1]):
        assert restore(wrong).status_code == 400, wrong
    long, json = b"{" + b" " * 100_000, {"Content-Type": "application/json"}
    assert server.client.post(f"{path}/restore", content=long, headers=json).status_code == 413
    assert server.client.post(f"{path}/restore", content=b'{"version": 1}').status_code == 415
    assert server.client.post("/target-samples/fan/77/restore", json={"version": 1}).status_code == 404
    assert server.client.get("/target-samples/fan/77/versions").status_code == 404
