"""Who asks without a key: programs, and pages of the service's own; and from where nobody is let in without one."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest

from service.access import Access, KeyFile, Scope
from service.app import create_app, metrics_app
from service.settings import Settings

BASE = "http://localhost:8000"
OWN: list[dict[str, str]] = [
    {},
    {"Origin": BASE},
    {"Origin": BASE, "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://earwitness.plant", "Host": "localhost", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://earwitness.plant:8443"},
    {"Sec-Fetch-Site": "none"},
]
FOREIGN: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
    {"Origin": "http://127.0.0.1:8000"},
    {"Origin": "null"},
    {"Origin": "null", "Host": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": BASE, "Sec-Fetch-Site": "cross-site"},
]


def ask(settings: Settings, method: str, path: str, headers: dict[str, str], base: str = BASE) -> httpx.Response:
    """What an app answers that has not loaded: 503 `not-ready` to whom it lets in."""

    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(settings))
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(scenario())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        database=str(tmp_path / "db"), keys=tmp_path / "keys.json", known_hosts=frozenset({"earwitness.plant"})
    )


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_programs_and_own_pages_may_change_things(settings: Settings, headers: dict[str, str]) -> None:
    """Swagger among them, also behind a proxy that asks under another name."""
    assert ask(settings, "POST", "/bundle/rollback", headers).json()["type"].endswith(":not-ready")


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_pages_of_others_may_not(settings: Settings, headers: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """403, in the audit log too; where a key is needed it is the key that counts, and asking changes nothing."""
    caplog.set_level(logging.INFO, "service.audit")
    refused = ask(settings, "POST", "/bundle/rollback", headers)
    assert refused.status_code == 403
    assert refused.json()["type"] == "urn:earwitness:problem:foreign-origin"
    assert refused.headers["Connection"] == "close"
    assert "POST /bundle/rollback 403" in caplog.text
    assert ask(settings, "GET", "/metrics", headers).status_code == 200
    keyed = settings.model_copy(update={"access": Access.KEYS})
    secret = KeyFile(settings.keys).create("admin", [Scope.ADMIN])
    answer = ask(keyed, "POST", "/bundle/rollback", {**headers, "Authorization": f"Bearer {secret}"})
    assert answer.json()["type"].endswith(":not-ready")


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("127.0.0.1:8000", True),
        ("127.8.8.8", True),
        ("[::1]:8000", True),
        ("earwitness.plant:80", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("192.168.0.7:8000", False),
    ],
)
def test_who_comes_over_the_loopback_must_name_this_machine(settings: Settings, host: str, known: bool) -> None:
    """Or a page whose own name points here could read the answers; on every path, the metrics' own port too."""
    for path in ("/livez", "/docs", "/metrics", "/nowhere"):
        answer = ask(settings, "GET", path, {"Host": host})
        assert (answer.status_code == 403) == (not known)
        if not known:
            assert answer.json()["type"] == "urn:earwitness:problem:foreign-host"

    async def metrics() -> httpx.Response:
        transport = httpx.ASGITransport(metrics_app(create_app(settings).state.resources))
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await client.get("/metrics", headers={"Host": host})

    assert asyncio.run(metrics()).status_code == (200 if known else 403)
    keyed = settings.model_copy(update={"access": Access.KEYS})
    assert ask(keyed, "GET", "/livez", {"Host": host}).status_code == 200


def test_where_everybody_is_let_in_every_name_will_do(settings: Settings) -> None:
    """Prometheus asks a container for `service:8000`, by an address that is not the loopback's."""
    opened = settings.model_copy(update={"access": Access.OPEN, "host": "0.0.0.0"})
    answer = ask(opened, "GET", "/metrics", {"Host": "service:8000"}, "http://172.18.0.2:8000")
    assert answer.status_code == 200


def test_another_server_that_runs_the_app_opens_it_to_nobody(settings: Settings) -> None:
    """The settings say 127.0.0.1 where `uvicorn --host 0.0.0.0` listens: the connection tells, and a key is needed."""
    secret = KeyFile(settings.keys).create("metrics", [Scope.METRICS])
    beyond = "http://192.168.0.7:8000"
    assert ask(settings, "GET", "/metrics", {}).status_code == 200
    assert ask(settings, "GET", "/metrics", {}, beyond).status_code == 401
    assert ask(settings, "POST", "/bundle/rollback", {}, beyond).status_code == 401
    assert ask(settings, "GET", "/metrics", {"Authorization": f"Bearer {secret}"}, beyond).status_code == 200
    assert ask(settings, "GET", "/livez", {}, beyond).status_code == 200
    assert ask(settings.model_copy(update={"access": Access.OPEN}), "GET", "/metrics", {}, beyond).status_code == 200


def test_questions_have_places_of_their_own(settings: Settings) -> None:
    """429 where all are taken; health and metrics need none, and clips have others."""

    async def scenario() -> None:
        app = create_app(settings.model_copy(update={"queue_capacity": 1}))
        resources = app.state.resources
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as client:
            with resources.questions.place():
                for method, path in (
                    ("GET", "/sections"),
                    ("GET", "/bundle"),
                    ("GET", "/target-samples"),
                    ("GET", "/target-samples/fan/00"),
                    ("GET", "/target-samples/fan/00/versions"),
                    ("DELETE", "/target-samples/fan/00"),
                ):
                    answer = await client.request(method, path)
                    assert answer.json()["type"] == "urn:earwitness:problem:queue-full", (method, path)
                    assert int(answer.headers["Retry-After"]) > 0
                for path in ("/livez", "/metrics"):
                    assert (await client.get(path)).status_code == 200
                with resources.admission.place():
                    assert (await client.get("/readyz")).json()["type"].endswith(":not-ready")
            for _ in range(2):  # a place is given back
                assert (await client.get("/sections")).json()["type"].endswith(":not-ready")

    asyncio.run(scenario())
