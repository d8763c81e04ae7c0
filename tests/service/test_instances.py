"""Several instances on one database, a database that goes away, and instances that are killed."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.vocabulary import SectionKey
from service.retention import RETENTION
from service.targets import TargetStore
from tests.service.asking import metrics, one, register, score, target_clips
from tests.service.bundles import FAN_0, FAN_1, sound, wav
from tests.service.postgres import Postgres
from tests.service.servers import PATIENCE_S, Server

WITHIN_S = 1.0
"""How soon a registration on one instance is in force on another."""


def in_force(server: Server, audio: bytes, version: int) -> tuple[float, dict[str, Any]]:
    """After how many seconds from now a score is asked for that is by ``version``, and what it answers."""
    begun = time.monotonic()
    while True:
        asked_s = time.monotonic() - begun
        answer: dict[str, Any] = score(server, FAN_0, audio).json()
        if answer["target_version"] == version:
            return asked_s, answer
        assert asked_s < PATIENCE_S, answer
        time.sleep(0.02)


@pytest.mark.alone
def test_a_registration_on_one_instance_is_in_force_on_the_other(
    bundle_folder: Path, tmp_path: Path, postgres: Postgres
) -> None:
    """From the first score after the POST where it was made, within a second elsewhere; DELETE too, the other way.

    The best of three is measured, for the machine may have much else to do.
    """
    url, audio = postgres.new_database(), wav(sound(FAN_0, 35, target=True))
    waits: dict[str, list[float]] = {"registered": [], "replaced": [], "withdrawn": []}
    with ExitStack() as stack:
        here, there = (
            stack.enter_context(Server(bundle_folder, url, tmp_path / name)) for name in ("here.log", "there.log")
        )
        for first in (1, 3, 5):
            for what, version in (("registered", first), ("replaced", first + 1)):
                registered = register(here, FAN_0, target_clips(FAN_0, 10 * version)).json()
                assert registered["version"] == version
                own = score(here, FAN_0, audio).json()
                waited_s, other = in_force(there, audio, version)
                waits[what].append(waited_s)
                for answer in (own, other):
                    assert (answer["target_version"], answer["target_state"]) == (version, "current")
                    assert answer["threshold"] == pytest.approx(registered["threshold"], rel=1e-6)
            assert one(there, FAN_0, "DELETE")["version"] == 0
            assert score(there, FAN_0, audio).json()["target_version"] == 0
            waits["withdrawn"].append(in_force(here, audio, 0)[0])
    assert all(min(seconds) < WITHIN_S for seconds in waits.values()), waits


@contextmanager
def load(server: Server, key: SectionKey, audio: bytes) -> Iterator[list[dict[str, Any]]]:
    """Scores in the target domain, one after the other for as long as the block runs; the list fills with answers."""
    answers: list[dict[str, Any]] = []
    over = threading.Event()

    def keep_scoring() -> None:
        while not over.is_set():
            answer = score(server, key, audio)
            answers.append({"status": answer.status_code, **answer.json()})

    worker = threading.Thread(target=keep_scoring)
    worker.start()
    try:
        yield answers
    finally:
        over.set()
        worker.join(PATIENCE_S)
    assert not worker.is_alive()


def wait_for(answers: list[dict[str, Any]], name: str, value: Any) -> None:
    """Until an answer that comes from now on has ``value``."""
    begun, until = len(answers), time.monotonic() + PATIENCE_S
    while not any(answer[name] == value for answer in answers[begun:]):
        assert time.monotonic() < until, answers[-1:]
        time.sleep(0.02)


def test_scores_go_on_while_the_database_is_away(
    bundle_folder: Path, tmp_path: Path, postgres: Postgres, soak: bool
) -> None:
    """By the last known clips, and marked so; registrations are refused until it is back, and nothing is lost."""
    audio, away_s = wav(sound(FAN_1, 36, target=True)), 10.0 if soak else 2.0
    clips = target_clips(FAN_1, 200)
    gauge = 'earwitness_target_state{domain="target",machine_type="fan",section="01"}'
    with Server(bundle_folder, postgres.new_database(), tmp_path / "log") as server:
        assert register(server, FAN_1, clips).json()["version"] == 1
        with load(server, FAN_1, audio) as answers:
            wait_for(answers, "target_state", "current")
            assert f"{gauge} 1.0" in metrics(server)
            postgres.stop()
            try:
                wait_for(answers, "target_state", "stale")
                assert f"{gauge} 0.0" in metrics(server)
                assert one(server, FAN_1)["target_state"] == "stale"
                refused = register(server, FAN_1, target_clips(FAN_1, 210))
                assert refused.status_code == 503
                assert refused.json()["type"].endswith(":target-clips-unavailable")
                assert int(refused.headers["Retry-After"]) > 0
                assert server.client.get("/readyz").status_code == 200
                before = len(answers)
                time.sleep(away_s)
                assert len(answers) > before
            finally:
                postgres.start()
            wait_for(answers, "target_state", "current")
            assert f"{gauge} 1.0" in metrics(server)
            assert register(server, FAN_1, target_clips(FAN_1, 220)).json()["version"] == 2
            wait_for(answers, "target_version", 2)
        assert {answer["status"] for answer in answers} == {200}
        versions = [answer["target_version"] for answer in answers]
        assert versions == sorted(versions)
        assert set(versions) == {1, 2}
        assert "Traceback" not in server.log.read_text()


def test_a_registration_killed_at_any_moment_is_the_old_or_the_new(
    bundle_folder: Path, tmp_path: Path, url: str, soak: bool
) -> None:
    """SIGKILL while one registration follows another: whole when it comes back, and none that was answered is lost."""
    sets = [target_clips(FAN_1, first) for first in (110, 120)]
    rng = random.Random(7)
    confirmed = 0
    for _ in range(100 if soak else 5):
        server = Server(bundle_folder, url, tmp_path / "log").start()
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
    with TargetStore(url) as store:
        versions = store.versions(FAN_1)
        newest = versions[0].version
        assert newest >= confirmed
        assert [one.version for one in versions] == list(range(newest, max(0, newest - RETENTION.versions), -1))
        for version in versions:
            assert sorted(store.audio(version)) in [sorted(clips) for clips in sets]
