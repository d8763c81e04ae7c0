"""Another bundle takes over while the service runs: no request is dropped, and a bad bundle changes nothing."""

import asyncio
import errno
import gc
import json
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import Bundle
from models.detector import Detector
from models.encoder import Device
from models.vocabulary import Domain, SectionKey
from service.audit import user_name
from service.errors import StoreError
from service.loading import load_bundle
from service.promotion import PromotionFile
from service.resources import Loaded, Resources
from service.settings import Settings
from tests.service.apps import running_app
from tests.service.bundles import FAN_0, FAN_1, PUMP, sound, wav
from tests.service.holding import Held
from tests.service.postgres import Postgres
from tests.service.servers import PATIENCE_S, Server

FIELDS = {"machine_type": "fan", "section": "00", "domain": "source"}
CLIP = wav(sound(FAN_0, 600))


@pytest.fixture
def settings(bundles: dict[str, Bundle], tmp_path: Path) -> Settings:
    """Settings of a small service that starts with `first`."""
    first = bundles["first"].folder
    assert first is not None
    return Settings(
        bundle=first, bundles_dir=first.parent, database=str(tmp_path / "db"), device=Device.CPU, threads=1, drain_s=5
    )


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Resources]]:
    """An app that has loaded, and a client of it."""
    async with running_app(settings) as (client, app):
        yield client, app.state.resources


async def score(client: httpx.AsyncClient, key: SectionKey = FAN_0, domain: str = "source") -> httpx.Response:
    fields = {"machine_type": key.machine_type, "section": key.section, "domain": domain}
    return await client.post("/score", params=fields, content=CLIP, headers={"Content-Type": "audio/wav"})


async def reload(client: httpx.AsyncClient, name: str) -> httpx.Response:
    return await client.post("/bundle/reload", json={"bundle": name})


async def register(client: httpx.AsyncClient, key: SectionKey) -> None:
    files = [("audio", (f"{n}.wav", wav(sound(key, n, target=True)))) for n in range(3)]
    data = {"machine_type": key.machine_type, "section": key.section}
    assert (await client.post("/target-samples", data=data, files=files)).status_code == 201


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def expected(bundle: Bundle) -> float:
    """The clip's score by the offline detector."""
    detector = Detector(bundle, device=Device.CPU, threads=1)
    return detector.score(detector.decode(CLIP), "fan", "00", Domain.SOURCE).anomaly_score


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = answer.json()
    assert content["type"] == f"urn:earwitness:problem:{slug}"
    return content


def test_a_reload_changes_what_answers(settings: Settings, bundles: dict[str, Bundle]) -> None:
    """The scores are the new bundle's, the registrations adapt it too, and those it cannot use are listed and kept."""

    async def scenario() -> None:
        async with running(settings) as (client, _):
            before = (await score(client)).json()
            assert before["bundle"] == bundles["first"].id
            await register(client, FAN_1)
            await register(client, PUMP)
            answer = await reload(client, "no-pump")
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert (told["bundle"], told["name"]) == (bundles["no-pump"].id, "no-pump")
            assert told["replaced"] == bundles["first"].id
            assert told["dormant"] == [{"machine_type": "pump", "section": "00", "version": 1}]
            after = (await score(client)).json()
            assert after["bundle"] == bundles["no-pump"].id
            assert after["anomaly_score"] == pytest.approx(expected(bundles["no-pump"]), abs=1e-3)
            assert abs(after["anomaly_score"] - before["anomaly_score"]) > 1.0
            assert (await score(client, FAN_1, "target")).json()["target_version"] == 1
            assert (await score(client, PUMP, "target")).status_code == 404
            states = {one["machine_type"]: one["state"] for one in await listed(client)}
            assert states == {"fan": "in_force", "pump": "dormant"}
            described = (await client.get("/bundle")).json()
            assert described["path"] == str(settings.bundles_dir / "no-pump")
            left = {"earwitness_target_samples_age_seconds", "earwitness_target_state"}  # its registration is there
            async with asyncio.timeout(PATIENCE_S):
                while await series_of_pump(client) != left:  # until the one before is closed
                    await asyncio.sleep(0.01)
            metrics = (await client.get("/metrics")).text
            assert f'earwitness_bundle_info{{bundle="{bundles["no-pump"].id}",demonstration="true"}} 1.0' in metrics
            assert metrics.count("earwitness_bundle_info{") == 1
            assert 'earwitness_reloads_total{outcome="promoted"} 1.0' in metrics
            assert (await reload(client, "first")).json()["dormant"] == []
            assert (await score(client, PUMP, "target")).json()["target_version"] == 1

    asyncio.run(scenario())


async def series_of_pump(client: httpx.AsyncClient) -> set[str]:
    lines = (await client.get("/metrics")).text.splitlines()
    return {line.split("{")[0] for line in lines if 'machine_type="pump"' in line}


async def listed(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = (await client.get("/target-samples")).json()["target_samples"]
    return content


@pytest.mark.parametrize(
    ("name", "status", "slug", "said"),
    [
        ("altered", 422, "bundle-refused", "calibration.npz"),
        ("other-scores", 422, "bundle-refused", "canary"),
        ("empty", 404, "unknown-bundle", "no bundle"),
        ("nowhere", 404, "unknown-bundle", "nowhere"),
        ("../first", 400, "invalid-name", "not a valid bundle"),
        ("/etc", 400, "invalid-name", "not a valid bundle"),
        ("", 400, "invalid-name", "not a valid bundle"),
    ],
)
def test_a_bad_bundle_changes_nothing(
    settings: Settings, bundles: dict[str, Bundle], name: str, status: int, slug: str, said: str
) -> None:
    """The answer says why, the one before serves on, nothing of the bad one is left running, a restart is the same."""

    async def scenario() -> None:
        async with running(settings) as (client, resources):
            await score(client)
            threads = own_threads(resources)
            told = problem(await reload(client, name), status, slug)
            assert said in told["detail"]
            if slug == "unknown-bundle":
                assert told["known"] == ["altered", "first", "no-pump", "other-scores", "second"]
            assert (await score(client)).json()["bundle"] == bundles["first"].id
            await until(lambda: own_threads(resources) <= threads)
            problem(await client.post("/bundle/rollback"), 409, "no-previous-bundle")
            assert 'outcome="promoted"} 0.0' in (await client.get("/metrics")).text

    asyncio.run(scenario())
    assert not settings.promotion_file.exists()


def own_threads(resources: Resources) -> int:
    """How many there are beside the event loop's and those for batches of what serves, which come when they like."""
    batches = resources.loaded.detection.batcher._threads._threads
    return sum(not one.name.startswith("asyncio_") and one not in batches for one in threading.enumerate())


def test_what_loads_in_an_unforeseen_way_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the bundle's fault, not the request's or the service's; the log has the trace."""

    async def scenario() -> None:
        async with running(settings) as (client, _):
            monkeypatch.setattr(Detector, "check_canary", lambda _: 1 / 0)
            told = problem(await reload(client, "second"), 422, "bundle-refused")
            assert "ZeroDivisionError" in told["detail"]
            assert (await client.get("/readyz")).status_code == 200

    asyncio.run(scenario())


def test_a_body_that_is_none_is_refused(settings: Settings) -> None:
    """As everywhere."""

    async def scenario() -> None:
        async with running(settings) as (client, _):
            for content in (b"", b"{", b"[]", b'{"bundle": 3}', b'{"bundle": "second", "force": true}', b'"second"'):
                answer = await client.post(
                    "/bundle/reload", content=content, headers={"Content-Type": "application/json"}
                )
                problem(answer, 400, "malformed-request")
            problem(
                await client.post("/bundle/reload", content=b'{"bundle": "second"}'), 415, "unsupported-content-type"
            )
            problem(await client.post("/bundle/reload", json={"bundle": "x" * 5000}), 413, "body-too-large")

    asyncio.run(scenario())


def test_one_reload_at_a_time(settings: Settings, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is 409, a rollback too; the service scores meanwhile; it is done though who asked has left."""

    async def scenario() -> None:
        async with running(settings) as (client, resources):
            loading = Held(monkeypatch, Detector, "load")
            first = asyncio.create_task(
                client.post("/bundle/reload", json={"bundle": "second"}, headers={"X-Request-Timeout-Ms": "500"})
            )
            problem(await first, 504, "deadline-passed")
            await loading.called()
            problem(await reload(client, "no-pump"), 409, "reload-in-progress")
            problem(await client.post("/bundle/rollback"), 409, "reload-in-progress")
            assert (await score(client)).json()["bundle"] == bundles["first"].id
            loading.may_end.set()
            await until(lambda: resources.loaded.bundle_id == bundles["second"].id)
            assert (await score(client)).json()["bundle"] == bundles["second"].id

    asyncio.run(scenario())


@pytest.mark.parametrize("moment", [(Detector, "load"), (PromotionFile, "write")], ids=["unloaded", "warm"])
def test_what_is_registered_during_a_reload_is_in_force_after_it(
    settings: Settings, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch, moment: tuple[type, str]
) -> None:
    """Before the new bundle has made models of what is registered, and after it."""

    async def scenario() -> None:
        async with running(settings) as (client, _):
            await register(client, FAN_1)
            reloading = Held(monkeypatch, *moment)
            loading = asyncio.create_task(reload(client, "second"))
            await reloading.called()
            await register(client, FAN_1)
            await register(client, PUMP)
            reloading.may_end.set()
            assert (await loading).status_code == 200
            for key, version in ((FAN_1, 2), (PUMP, 1)):
                answer = (await score(client, key, "target")).json()
                assert (answer["bundle"], answer["target_version"]) == (bundles["second"].id, version)
                assert answer["target_state"] == "current"

    asyncio.run(scenario())


def test_the_old_one_serves_until_the_last_of_its_requests_is_done(
    settings: Settings, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that began before a reload is answered by the old bundle; then it is closed, and its memory is free."""

    async def scenario() -> None:
        async with running(settings) as (client, resources):
            old = weakref.ref(resources.loaded)
            going_on, arrived, clip = asyncio.Event(), asyncio.Event(), CLIP

            async def body() -> AsyncIterator[bytes]:
                yield clip[:1000]
                arrived.set()
                await going_on.wait()
                yield clip[1000:]

            early = asyncio.create_task(
                client.post("/score", params=FIELDS, content=body(), headers={"Content-Type": "audio/wav"})
            )
            await arrived.wait()
            assert (await reload(client, "second")).status_code == 200
            assert (await score(client)).json()["bundle"] == bundles["second"].id
            assert still_runs(old)
            going_on.set()
            answer = (await early).json()
            assert answer["bundle"] == bundles["first"].id
            assert answer["anomaly_score"] == pytest.approx(expected(bundles["first"]), abs=1e-3)
            del early
            await until(lambda: not still_runs(old))
            await until(lambda: gc.collect() >= 0 and old() is None)

    asyncio.run(scenario())


def still_runs(reference: "weakref.ref[Loaded]") -> bool:
    loaded = reference()
    return loaded is not None and loaded.detection.batcher.running


def test_a_rollback_goes_back_and_forth(settings: Settings, bundles: dict[str, Bundle]) -> None:
    """To the bundle of the settings too, and across restarts; another bundle in the settings is followed again."""

    async def scenario() -> list[str]:
        async with running(settings) as (client, _):
            served = [(await client.get("/bundle")).json()["bundle"]]
            for path in ("/bundle/rollback", "/bundle/rollback"):
                answer = await client.post(path)
                assert answer.status_code == 200, answer.text
                served.append(answer.json()["bundle"])
            return served

    async def promote() -> None:
        async with running(settings) as (client, _):
            assert (await reload(client, "second")).status_code == 200

    asyncio.run(promote())
    first, second = bundles["first"].id, bundles["second"].id
    assert asyncio.run(scenario()) == [second, first, second]
    assert asyncio.run(scenario()) == [second, first, second]
    other = settings.model_copy(update={"bundle": settings.bundles_dir / "no-pump"})

    async def restart(settings: Settings) -> str:
        async with running(settings) as (client, _):
            return str((await client.get("/bundle")).json()["bundle"])

    assert asyncio.run(restart(other)) == bundles["no-pump"].id
    assert asyncio.run(restart(settings)) == second


def test_a_promotion_that_cannot_be_kept_or_read_is_told(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, and the bundle is not changed; at the start the service refuses rather than serve another bundle."""
    nowhere = settings.model_copy(update={"promotion": Path("/dev/null/promoted.json")})
    damaged = settings.model_copy(update={"promotion": tmp_path / "damaged.json"})
    (tmp_path / "damaged.json").write_text('{"bundle": ')

    async def scenario() -> None:
        async with running(nowhere) as (client, _):
            told = problem(await client.get("/readyz"), 503, "not-ready")
            assert "/dev/null/promoted.json" in told["detail"]
        async with running(damaged) as (client, _):
            told = problem(await client.get("/readyz"), 503, "not-ready")
            assert "damaged.json" in told["detail"]
            assert "remove it" in told["detail"]
        async with running(settings) as (client, resources):
            settings.promotion_file.mkdir()  # a file cannot be put there
            told = problem(await reload(client, "second"), 503, "promotion-not-kept")
            assert "EARWITNESS_PROMOTION" in told["detail"]
            assert "second" not in str(resources.loaded.folder)
            settings.promotion_file.rmdir()
            with monkeypatch.context() as failing:
                failing.setattr("models.folders.sync_folder", no_sync)
                told = problem(await reload(client, "second"), 503, "promotion-not-kept")
            assert "the bundle was not changed" in told["detail"]
            assert not settings.promotion_file.exists()  # or a restart would change it
            assert (await reload(client, "second")).status_code == 200

    asyncio.run(scenario())


def no_sync(_folder: Path) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_promotion_is_kept_where_the_database_is_no_file(
    settings: Settings, bundles: dict[str, Bundle], postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In data/promoted.json of the folder that the service is started in."""
    monkeypatch.chdir(tmp_path)
    url = postgres.new_database()
    with_server = Settings(**{**settings.model_dump(), "database": url})
    assert with_server.promotion_file == tmp_path / "data" / "promoted.json"

    async def scenario() -> None:
        async with running(with_server) as (client, _):
            assert (await reload(client, "second")).status_code == 200
        async with running(with_server) as (_, resources):
            assert resources.loaded.bundle_id == bundles["second"].id

    asyncio.run(scenario())
    assert json.loads((tmp_path / "data" / "promoted.json").read_bytes())["bundle"] == "second"


@pytest.fixture
def link(bundles: dict[str, Bundle], tmp_path: Path) -> Path:
    """A symbolic link to `first`."""
    link = tmp_path / "current"
    assert bundles["first"].folder is not None
    link.symlink_to(bundles["first"].folder)
    return link


def point(link: Path, to: Path) -> None:
    """As ``ln -sfn`` followed by ``mv -T``: the link is always there."""
    other = link.with_name("other")
    other.symlink_to(to)
    other.replace(link)


def test_a_watched_link_is_followed(
    settings: Settings,
    bundles: dict[str, Bundle],
    link: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To a good bundle; past a bad one, and past none at all; and it alone says what serves. Each time is audited.

    What serves is told by its own folder, not by the link.
    """
    monkeypatch.setattr("service.serving.LOOK_S", 0.02)
    watching = settings.model_copy(update={"bundle": link, "watch": True})
    folder = settings.bundles_dir

    async def scenario() -> None:
        async with running(watching) as (client, resources):
            problem(await reload(client, "second"), 409, "bundle-watched")
            problem(await client.post("/bundle/rollback"), 409, "bundle-watched")
            assert (await client.get("/bundle")).json()["path"] == str(bundles["first"].folder)
            for bad in ("other-scores", "nowhere", "altered"):
                refused = await refusals(client)
                point(link, folder / bad)
                async with asyncio.timeout(PATIENCE_S):
                    while await refusals(client) == refused:
                        await asyncio.sleep(0.01)
                assert (await score(client)).json()["bundle"] == bundles["first"].id
            point(link, folder / "second")
            await until(lambda: resources.loaded.bundle_id == bundles["second"].id)
            assert (await score(client)).json()["bundle"] == bundles["second"].id
            assert (await client.get("/bundle")).json()["path"] == str(folder / "second")

    asyncio.run(scenario())
    assert not watching.promotion_file.exists()
    swaps = [record.getMessage() for record in caplog.records if record.name == "service.audit"][2:]
    begin = f"serve --watch user={user_name()} folder={link} "
    ids = {name: bundles[name].id for name in ("first", "second")}
    assert swaps == [
        *[f"{begin}outcome=unchanged"] * 3,
        f"{begin}bundle_id={ids['second']} replaced={ids['first']} outcome=changed",
    ]


async def refusals(client: httpx.AsyncClient) -> str:
    lines = (await client.get("/metrics")).text.splitlines()
    return next(line for line in lines if line.startswith('earwitness_reloads_total{outcome="refused"}'))


def test_a_watched_link_is_followed_once_the_database_is_back(
    settings: Settings, bundles: dict[str, Bundle], link: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kept a bundle from serving for a moment does not keep it from serving for good."""
    monkeypatch.setattr("service.serving.LOOK_S", 0.02)
    asked, load = 0, load_bundle

    async def away_at_first(*arguments: Any) -> Loaded:
        nonlocal asked
        asked += 1
        if asked == 2:  # the first is that of the start
            raise StoreError("The database is away.")
        return await load(*arguments)

    monkeypatch.setattr("service.serving.load_bundle", away_at_first)

    async def scenario() -> None:
        async with running(settings.model_copy(update={"bundle": link, "watch": True})) as (_, resources):
            point(link, settings.bundles_dir / "second")
            await until(lambda: resources.loaded.bundle_id == bundles["second"].id)

    asyncio.run(scenario())
    assert asked == 3


def test_only_a_link_can_be_watched(settings: Settings) -> None:
    """A folder never changes, and so the service says that it would wait in vain."""

    async def scenario() -> None:
        async with running(settings.model_copy(update={"watch": True})) as (client, _):
            assert "no symbolic link" in problem(await client.get("/readyz"), 503, "not-ready")["detail"]

    asyncio.run(scenario())


@pytest.mark.parametrize("at_once", [True, False], ids=["killed", "stopped"])
def test_what_was_promoted_is_served_after_a_restart(bundles: dict[str, Bundle], tmp_path: Path, at_once: bool) -> None:
    """After kill -9 in the moment of the answer too."""
    folder = bundles["first"].folder
    assert folder is not None
    options = {"bundles_dir": folder.parent}
    first = Server(folder, tmp_path / "db", tmp_path / "log", **options).start()
    assert first.client.post("/bundle/reload", json={"bundle": "second"}).status_code == 200
    if at_once:
        first.kill()
    assert first.stop() == (-9 if at_once else 0)
    with Server(folder, tmp_path / "db", tmp_path / "log", **options) as second:
        assert second.client.get("/bundle").json()["bundle"] == bundles["second"].id
    assert json.loads((tmp_path / "db.promoted.json").read_bytes())["bundle"] == "second"
