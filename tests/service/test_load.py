"""Under load, with bundles that come and go: no request fails, each is answered by one bundle, memory stays flat."""

import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import Bundle
from models.detector import Detector
from models.encoder import Device
from models.systems import Features
from models.vocabulary import Domain
from tests.service.bundles import FAN_1, sound, wav
from tests.service.memory import resident_mib
from tests.service.servers import PATIENCE_S, Server

CLIPS = [wav(sound(FAN_1, seed, target=True)) for seed in range(700, 704)]
TARGETS = [[wav(sound(FAN_1, seed + first, target=True)) for seed in range(3)] for first in (800, 810)]
FIELDS = {"machine_type": "fan", "section": "01"}

Key = tuple[str, str, int | None, int]
"""Bundle id, domain, which of the target clips, which clip."""


def scores(bundles: Iterable[Bundle]) -> dict[Key, float]:
    """What each bundle makes of each clip, by the offline detector."""
    found: dict[Key, float] = {}
    for bundle in bundles:
        detector = Detector(bundle, device=Device.CPU, threads=1)
        models = []
        for clips in TARGETS:
            heard = [detector.decode(clip) for clip in clips]
            features = Features.joined([detector.analyse(clip) for clip in heard])
            embeddings = detector.encode(detector.inputs(features), "fan")
            models.append(detector.fit_target(FAN_1, features, embeddings, [clip.level_dbfs for clip in heard]))
        for number, audio in enumerate(CLIPS):
            clip = detector.decode(audio)
            score = detector.score(clip, "fan", "01", Domain.SOURCE).anomaly_score
            found[detector.bundle.id, "source", None, number] = score
            for which, target in enumerate(models):
                score = detector.score(clip, "fan", "01", Domain.TARGET, target=target).anomaly_score
                found[detector.bundle.id, "target", which, number] = score
    return found


class Load:
    """Clients that score, one that registers and one that reloads, until they are told to stop."""

    def __init__(self, server: Server, expected: dict[Key, float]) -> None:
        self._server = server
        self._expected = expected
        self._over = threading.Event()
        self._versions = 0
        self._names = itertools.cycle(("second", "other-scores", "first"))
        self._reloads = 0
        self.answers: list[tuple[str, int]] = []
        self.bundles: set[str] = set()
        self.wrong: list[Any] = []

    def run(self, seconds: float, reload_every_s: float) -> None:
        """Run it for so long, and until each of the three was reloaded; whatever a client raises is raised here."""
        self._over.clear()
        enough = self._reloads + 3
        with ThreadPoolExecutor(5) as pool:
            clients = [pool.submit(self._score, domain, at) for at, domain in enumerate(("source", "target", "source"))]
            clients += [pool.submit(self._register), pool.submit(self._reload, reload_every_s)]
            time.sleep(seconds)
            while self._reloads < enough and not any(client.done() for client in clients):
                time.sleep(0.05)
            self._over.set()
            for client in clients:
                client.result(PATIENCE_S)

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._server.url, timeout=PATIENCE_S, trust_env=False)

    def _score(self, domain: str, first: int) -> None:
        with self._client() as client:
            for number in itertools.islice(itertools.cycle(range(len(CLIPS))), first, None):
                if self._over.is_set():
                    return
                answer = client.post("/score", data={**FIELDS, "domain": domain}, files={"audio": ("c", CLIPS[number])})
                self.answers.append(("score", answer.status_code))
                if answer.status_code == 200:
                    self._check(answer.json(), domain, number)

    def _check(self, told: dict[str, Any], domain: str, number: int) -> None:
        version = told["target_version"]
        which = None if version is None else (version - 1) % 2
        self.bundles.add(told["bundle"])
        right = self._expected[told["bundle"], domain, which, number]
        if abs(told["anomaly_score"] - right) > 1e-4 * abs(right):
            self.wrong.append((told["bundle"], version, number, told["anomaly_score"], right))

    def register(self, which: int) -> None:
        """Register the one or the other target clips."""
        files = [("audio", (f"{n}.wav", clip)) for n, clip in enumerate(TARGETS[which])]
        answer = self._server.client.post("/target-samples", data=FIELDS, files=files)
        self.answers.append(("register", answer.status_code))
        self._versions += 1

    def _register(self) -> None:
        """Versions go up by one and the clips alternate, so that a version says which they are."""
        while not self._over.wait(0.3):
            self.register(self._versions % 2)

    def _reload(self, every_s: float) -> None:
        """One in three is broken."""
        with self._client() as client:
            while not self._over.wait(every_s):
                name = next(self._names)
                answer = client.post("/bundle/reload", json={"bundle": name})
                self.answers.append((name, answer.status_code))
                self._reloads += 1


@pytest.mark.alone
def test_reloads_under_load(bundles: dict[str, Bundle], tmp_path: Path, soak: bool) -> None:
    """Not one 5xx or refusal but the broken bundles', every answer from one whole bundle, and memory is flat."""
    seconds, every_s = (60.0, 2.0) if soak else (10.0, 1.0)
    first, second = bundles["first"], bundles["second"]
    expected = scores((first, second))
    assert first.folder is not None
    assert len(set(expected.values())) == len(expected)
    with Server(first.folder, tmp_path / "db", tmp_path / "log", bundles_dir=first.folder.parent) as server:
        assert server.process is not None
        load = Load(server, expected)
        load.register(0)
        load.run(seconds / 2, every_s)
        before = resident_mib(server.process.pid)
        load.run(seconds / 2, every_s)
        after = resident_mib(server.process.pid)
    assert "Traceback" not in server.log.read_text()
    statuses: dict[str, Counter[int]] = defaultdict(Counter)
    for kind, status in load.answers:
        statuses[kind][status] += 1
    print(f"{seconds:g} s: { {kind: dict(one) for kind, one in statuses.items()} }, {before:.0f} then {after:.0f} MiB")
    only = {kind: set(one) for kind, one in statuses.items()}
    assert only == {"score": {200}, "register": {201}, "first": {200}, "second": {200}, "other-scores": {422}}
    assert load.wrong == []
    assert load.bundles == {first.id, second.id}
    assert after - before < 25.0


def grown_mib(server: Server, clip: bytes, clips: int, callers: int = 1) -> float:
    """How much more memory a service holds after twice so many clips than after the first half of them."""

    def score(count: int) -> None:
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as client:
            for _ in range(count):
                answer = client.post("/score", data={**FIELDS, "domain": "source"}, files={"audio": ("c", clip)})
                assert answer.status_code == 200

    def score_all() -> float:
        assert server.process is not None
        with ThreadPoolExecutor(callers) as pool:
            for scoring in [pool.submit(score, clips // callers) for _ in range(callers)]:
                scoring.result()
        return resident_mib(server.process.pid)

    return -score_all() + score_all()


@pytest.mark.alone
def test_memory_is_flat_and_a_leak_is_noticed(bundle_folder: Path, tmp_path: Path, soak: bool) -> None:
    """The same measure of the service, and of one that never lets go of its clips: 40 clips have 37 MiB."""
    clip = wav(sound(FAN_1, 720, seconds=30.0))
    with Server(bundle_folder, tmp_path / "db", tmp_path / "log") as server:
        healthy = grown_mib(server, clip, 40)
        of_many = grown_mib(server, wav(sound(FAN_1, 720)), 50_000, callers=4) if soak else 0.0
    with Server(bundle_folder, tmp_path / "db", tmp_path / "log", "tests.service.memory") as server:
        leaking = grown_mib(server, clip, 40)
    print(f"grown by {healthy:.1f} MiB, with a leak by {leaking:.1f} MiB" + f", in soak by {of_many:.1f} MiB" * soak)
    assert healthy < 15.0 < leaking
    assert of_many < 15.0
