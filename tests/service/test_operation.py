"""Starting, watching and stopping: readiness, refusals, metrics, settings."""

import asyncio
import dataclasses
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from models.bundle import Bundle, write_bundle
from models.detector import Detector
from models.encoder import Device
from models.vocabulary import Domain
from service.alarms import alarm_share
from service.app import create_app
from service.promotion import Promotion, PromotionFile
from service.settings import Settings, unknown_variables
from tests.service.bundles import FAN_0, FAN_1, sound, wav
from tests.service.servers import PATIENCE_S, REPOSITORY, Server, Upload

FIELDS = {"machine_type": "fan", "section": "00", "domain": "source"}


@pytest.fixture
def small(bundle_folder: Path, tmp_path: Path) -> Settings:
    """Settings of a small service of its own."""
    return Settings(bundle=bundle_folder, database=str(tmp_path / "targets.db"), device=Device.CPU, threads=1)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """An app that begins to load, and a client of it."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


async def loading_ends(client: httpx.AsyncClient) -> None:
    """Wait until the app is ready, or has refused to be."""
    async with asyncio.timeout(PATIENCE_S):
        while "still loading" in (await client.get("/readyz")).text:
            await asyncio.sleep(0.01)


def visit(settings: Settings, *paths: str) -> list[httpx.Response]:
    """Ask an app for ``paths`` after it has loaded or refused to."""

    async def scenario() -> list[httpx.Response]:
        async with running(settings) as client:
            await loading_ends(client)
            return [await client.get(path) for path in paths]

    return asyncio.run(scenario())


def test_alive_at_once_and_ready_when_loaded(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the canary is reproduced, all but /livez, /metrics and the documentation is 503 with Retry-After."""
    load, may_load = Detector.load, threading.Event()

    def load_when_it_may(*arguments: Any, **options: Any) -> Detector:
        assert may_load.wait(PATIENCE_S)
        return load(*arguments, **options)

    monkeypatch.setattr(Detector, "load", load_when_it_may)

    async def scenario() -> None:
        async with running(small) as client:
            for path in ("/livez", "/metrics", "/docs"):
                assert (await client.get(path)).status_code == 200
            assert "earwitness_ready 0.0" in (await client.get("/metrics")).text
            for path in ("/readyz", "/sections"):
                answer = await client.get(path)
                assert answer.status_code == 503
                assert answer.json()["type"] == "urn:earwitness:problem:not-ready"
                assert int(answer.headers["Retry-After"]) > 0
            may_load.set()
            await loading_ends(client)
            assert (await client.get("/readyz")).status_code == 200
            assert "earwitness_ready 1.0" in (await client.get("/metrics")).text

    asyncio.run(scenario())


def test_a_canary_that_is_not_reproduced_is_never_ready(bundle: Bundle, small: Settings, tmp_path: Path) -> None:
    """An intact bundle with other scores than this machine gives."""
    assert bundle.canary is not None
    canary = dataclasses.replace(bundle.canary, expected=bundle.canary.expected + 10.0)
    write_bundle(tmp_path / "wrong", dataclasses.replace(bundle, canary=canary))
    settings = small.model_copy(update={"bundle": tmp_path / "wrong"})
    alive, ready = visit(settings, "/livez", "/readyz")
    assert alive.status_code == 200
    assert ready.status_code == 503
    assert "canary" in ready.json()["detail"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("gone", "gone: there is no bundle here"), ("damaged", "manifest.json: this is no bundle's manifest")],
)
def test_a_promoted_bundle_that_cannot_serve_is_named_with_what_asks_for_it(
    name: str, said: str, small: Settings, tmp_path: Path
) -> None:
    """Nobody named it at this start: what is wrong is told, and the file that asks for it, and what serves without."""
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text("{")
    settings = small.model_copy(update={"bundles_dir": tmp_path})
    PromotionFile(settings.promotion_file, settings.bundle).write(Promotion(name, previous=None))
    (ready,) = visit(settings, "/readyz")
    assert ready.status_code == 503
    assert said in ready.json()["detail"]
    assert ready.json()["detail"].endswith(
        " That bundle was promoted while the service ran: put one there that can serve, or remove "
        f"{settings.promotion_file} to serve {settings.bundle}."
    )


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"EARWITNESS_BUNDLE": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"EARWITNESS_DATABASE": "/dev/null/targets.db"}, "/dev/null"),
        ({"EARWITNESS_PORT": "ninety"}, "EARWITNESS_PORT"),
        ({"EARWITNESS_HOST": "192.0.2.1", "EARWITNESS_ACCESS": "open"}, "cannot listen on 192.0.2.1, port 0"),
        ({"EARWITNESS_KNOWN_HOSTS": "plant.local"}, "EARWITNESS_KNOWN_HOSTS: it must be JSON"),
    ],
)
def test_what_cannot_be_served_ends_with_a_sentence(
    bundle_folder: Path, tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    """Exit status 2 and no stack trace."""
    settings = {
        "EARWITNESS_BUNDLE": str(bundle_folder),
        "EARWITNESS_DATABASE": str(tmp_path / "db"),
        "EARWITNESS_PORT": "0",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        check=False,
        cwd=REPOSITORY,
        env=settings,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_ends_with_a_sentence(bundle_folder: Path, tmp_path: Path) -> None:
    """Exit status 2, as for everything else that cannot be served; the last line names address, reason and remedy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "service", "serve", "--port", port, "--bundle", str(bundle_folder)],
            check=False,
            cwd=REPOSITORY,
            env={"EARWITNESS_DATABASE": str(tmp_path / "db")},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"error: 127.0.0.1, port {port} is in use: this service, or another program, listens there already. "
        "Stop it, or choose another port with --port (make run PORT=...) or another address with --host."
    )
    assert "Traceback" not in done.stderr


def test_cuda_is_refused_where_it_cannot_run(small: Settings) -> None:
    """And never silently replaced by the CPU."""
    (ready,) = visit(small.model_copy(update={"device": Device.CUDA}), "/readyz")
    if ready.status_code == 200:
        pytest.skip("this machine has a GPU")
    assert "device=cpu" in ready.json()["detail"]


def begin_to_stop(server: Server) -> None:
    """Tell the service to stop, and wait until it says that it drains."""
    assert server.process is not None
    server.process.terminate()
    until = time.monotonic() + PATIENCE_S
    while (answer := server.client.get("/readyz")).status_code == 200:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:earwitness:problem:draining"


def test_sigterm_finishes_what_is_in_hand(bundle_folder: Path, tmp_path: Path) -> None:
    """A clip that is being sent gets its score; meanwhile the service lives, is not ready and takes on no other."""
    patient = {"drain_s": PATIENCE_S, "request_timeout_s": PATIENCE_S}
    server = Server(bundle_folder, tmp_path / "db", tmp_path / "log", **patient).start()
    audio = wav(sound(FAN_0, 500))
    with closing(Upload(server, FIELDS, len(audio))) as upload:
        upload.send(audio[:1000])
        begin_to_stop(server)
        assert server.client.get("/livez").status_code == 200
        assert "earwitness_ready 0.0" in server.client.get("/metrics").text
        for answer in (
            server.client.post("/score", params=FIELDS, content=audio, headers={"Content-Type": "audio/wav"}),
            server.client.get("/sections"),
        ):
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:earwitness:problem:draining"
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.headers["Connection"] == "close"
        upload.send(audio[1000:])
        assert upload.answer().json()["decision"] == "normal"
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()
    assert "hangs" not in server.log.read_text()  # it was its own end


def test_a_drain_that_runs_out_of_time_tells_who_waits(bundle_folder: Path, tmp_path: Path) -> None:
    """503 with Retry-After for a body that does not go on, then the end, with exit status 0 and no stack trace."""
    server = Server(bundle_folder, tmp_path / "db", tmp_path / "log", drain_s=0.5, request_timeout_s=3600).start()
    with closing(Upload(server, FIELDS, 99_999)) as upload:
        upload.send(bytes(1000))
        assert server.process is not None
        server.process.terminate()
        answer = upload.answer()
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:earwitness:problem:draining"
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    assert int(answer.headers["Retry-After"]) > 0
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def samples(server: Server) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of /metrics by its name and labels."""
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_metrics_are_there_from_the_start_and_count(server: Server) -> None:
    """Known series at zero before the first clip; afterwards one more of each that it touched."""
    fan = {"machine_type": "fan", "section": "00", "domain": "source"}
    before = samples(server)
    for decision in ("normal", "anomalous"):
        for domain in Domain:
            assert before[labelled("earwitness_decisions_total", **{**fan, "domain": domain}, decision=decision)] == 0
    assert before[labelled("earwitness_requests_total", route="/score", outcome="failed")] == 0
    assert before[labelled("earwitness_p_value_count", **fan)] == 0
    assert before[labelled("earwitness_false_alarm_rate", **fan)] == pytest.approx(0.1)
    assert before[labelled("earwitness_queue_capacity")] == 64
    assert before[labelled("earwitness_queue_depth")] == 0
    assert before[labelled("earwitness_ready")] == 1
    names = {name for name, _ in before}
    assert {"earwitness_bundle_info", "earwitness_device_info"} <= names
    assert labelled("earwitness_deviation", **fan) not in before

    for fault in (False, True):
        audio = wav(sound(FAN_0, 501, fault=fault))
        assert server.client.post("/score", data=FIELDS, files={"audio": ("clip.wav", audio)}).status_code == 200
    server.client.post("/score", data=FIELDS, files={"audio": ("clip.wav", b"none")})
    after = samples(server)
    for decision in ("normal", "anomalous"):
        assert after[labelled("earwitness_decisions_total", **fan, decision=decision)] == 1
    assert after[labelled("earwitness_requests_total", route="/score", outcome="ok")] == 2
    assert after[labelled("earwitness_requests_total", route="/score", outcome="rejected")] == 1
    assert after[labelled("earwitness_request_seconds_count", route="/score")] == 3
    assert after[labelled("earwitness_p_value_bucket", **fan, le="1.0")] == 2
    assert after[labelled("earwitness_p_value_bucket", **fan, le="0.1")] == 1
    assert after[labelled("earwitness_deviation", **fan)] > 10
    assert -30 < after[labelled("earwitness_level_dbfs", **fan)] < 0
    assert after[labelled("earwitness_level_below_normal", **fan)] == 0
    assert time.time() - after[labelled("earwitness_last_clip_timestamp_seconds", **fan)] < 60
    for stage in ("decode", "features", "queue", "encode", "score"):
        assert after[labelled("earwitness_stage_seconds_count", stage=stage)] == 2
    assert after[labelled("earwitness_batch_size_count")] == 2


def test_a_quiet_clip_is_exported_as_such(server: Server) -> None:
    """1 where the answer has the warning, until a clip has its usual level again."""
    quiet = labelled("earwitness_level_below_normal", **FIELDS)
    for gain, exported in ((0.01, 1), (1.0, 0)):
        audio = wav(gain * sound(FAN_0, 502))
        answer = server.client.post("/score", data=FIELDS, files={"audio": ("clip.wav", audio)}).json()
        assert ("level_below_normal" in {warning["code"] for warning in answer["warnings"]}) == bool(exported)
        assert samples(server)[quiet] == exported


def test_paths_that_clients_invent_are_no_labels(server: Server) -> None:
    """However many there are."""
    for path in ("/wp-admin", "/score/../etc", "/target-samples/a/b/c"):
        assert server.client.get(path).status_code == 404
    routes = {dict(labels)["route"] for name, labels in samples(server) if name == "earwitness_requests_total"}
    assert routes == {
        *("/score", "/target-samples", "/target-samples/{machine_type}/{section}", "/sections", "/bundle"),
        *("/target-samples/{machine_type}/{section}/versions", "/target-samples/{machine_type}/{section}/restore"),
        *("/bundle/reload", "/bundle/rollback"),
        *("/livez", "/readyz", "/metrics", "unknown"),
    }


def test_what_is_registered_is_exported(server: Server) -> None:
    """Its age, and which share of target clips is an alarm by its number of clips, until it is withdrawn."""
    target = {"machine_type": "fan", "section": "01", "domain": "target"}
    age = labelled("earwitness_target_samples_age_seconds", **target)
    rate = labelled("earwitness_false_alarm_rate", **target)
    shares = {window: labelled("earwitness_alarm_share", **target, window=window) for window in ("1h", "24h")}
    assert not samples(server).keys() & {age, rate, *shares.values()}
    answer = server.client.post(
        "/target-samples",
        data={"machine_type": "fan", "section": "01"},
        files=[("audio", (f"{n}.wav", wav(sound(FAN_1, n, target=True)))) for n in range(3)],
    )
    assert answer.status_code == 201
    exported = samples(server)
    assert 0 <= exported[age] < 60
    assert exported[rate] == pytest.approx(0.1)
    for window, name in shares.items():
        assert exported[name] == pytest.approx(alarm_share(3, 0.1, window))
        source = {**target, "domain": "source"}
        assert exported[labelled("earwitness_alarm_share", **source, window=window)] < exported[name]
    server.client.delete("/target-samples/fan/01")
    assert not samples(server).keys() & {age, rate, *shares.values()}


def test_every_setting_is_described() -> None:
    """In the docstring under its field."""
    undescribed = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undescribed == []


@pytest.mark.parametrize(
    "wrong",
    [{"port": 70_000}, {"device": "tpu"}, {"threads": 0}, {"database": "mysql://x/y"}, {"queue_length": 3}],
    ids=str,
)
def test_a_wrong_setting_is_refused(wrong: dict[str, Any]) -> None:
    """Unknown names too."""
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Settings(**wrong)


def test_the_defaults_are_those_of_the_design(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The database is absolute, whichever folder the service was started in; what is misspelt is noticed."""
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert (settings.host, settings.port, settings.max_clip_s) == ("127.0.0.1", 8000, 60.0)
    assert settings.bundle.parts[-3:] == ("models", "bundles", "demonstration")
    assert settings.bundle.is_absolute()
    assert settings.database == f"sqlite:///{tmp_path / 'data' / 'earwitness.db'}"
    assert Settings(database="postgresql://me@there/plant").database == "postgresql+psycopg://me@there/plant"
    monkeypatch.setenv("EARWITNESS_PROT", "8010")
    monkeypatch.setenv("EARWITNESS_PORT", "8010")
    assert unknown_variables() == ["EARWITNESS_PROT"]
    monkeypatch.setenv("EARWITNESS_PUBLIC_KEY", "")  # as a compose file hands on what nobody set
    monkeypatch.setenv("EARWITNESS_FALSE_ALARM_RATES", '{"fann": 0.05, "fan": 0.05, "fan/01": 0.02, "fan/07": 0.02}')
    settings = Settings()
    assert settings.public_key is None
    assert settings.unheard_rates([FAN_0, FAN_1]) == ["fan/07", "fann"]
    assert Settings().port == 8010
