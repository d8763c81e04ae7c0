"""Who asks without a key: programs, and pages of the service's own; and from where nobody is let in without one."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

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


class Apps:
    """Apps that have not loaded: 503 `not-ready` is what whom they let in is answered."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(
            database=str(folder / "db"), keys=folder / "keys.json", known_hosts=frozenset({"earwitness.plant"})
        )
        self.secrets = {scope: KeyFile(self.settings.keys).create(str(scope), [scope]) for scope in Scope}
        self.loopback = create_app(self.settings)
        self.metrics = metrics_app(self.loopback.state.resources)
        self.keys = create_app(self.settings.model_copy(update={"access": Access.KEYS}))
        self.everybody = create_app(self.settings.model_copy(update={"access": Access.OPEN, "host": "0.0.0.0"}))

    def key(self, scope: Scope) -> dict[str, str]:
        """The header of who has a key with this scope."""
        return {"Authorization": f"Bearer {self.secrets[scope]}"}


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Apps:
    return Apps(tmp_path_factory.mktemp("origins"))


def ask(
    app: FastAPI, method: str, path: str, headers: Mapping[str, str] | None = None, base: str = BASE
) -> httpx.Response:
    """What an app answers."""

    async def scenario() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(scenario())


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_programs_and_own_pages_may_change_things(apps: Apps, headers: dict[str, str]) -> None:
    """Swagger among them, also behind a proxy that asks under another name."""
    assert ask(apps.loopback, "POST", "/bundle/rollback", headers).json()["type"].endswith(":not-ready")


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_pages_of_others_may_not(apps: Apps, headers: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """403, in the audit log too; where a key is needed it is the key that counts, and asking changes nothing."""
    caplog.set_level(logging.INFO, "service.audit")
    refused = ask(apps.loopback, "POST", "/bundle/rollback", headers)
    assert refused.status_code == 403
    assert refused.json()["type"] == "urn:earwitness:problem:foreign-origin"
    assert refused.headers["Connection"] == "close"
    assert "POST /bundle/rollback 403" in caplog.text
    assert ask(apps.loopback, "GET", "/metrics", headers).status_code == 200
    answer = ask(apps.keys, "POST", "/bundle/rollback", {**headers, **apps.key(Scope.ADMIN)})
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
def test_who_comes_over_the_loopback_must_name_this_machine(apps: Apps, host: str, known: bool) -> None:
    """Or a page whose own name points here could read the answers; on every path, the metrics' own port too."""
    asked = [ask(apps.loopback, "GET", path, {"Host": host}) for path in ("/livez", "/docs", "/metrics", "/nowhere")]
    for answer in (*asked, ask(apps.metrics, "GET", "/metrics", {"Host": host})):
        assert (answer.status_code == 403) == (not known)
        if not known:
            assert answer.json()["type"] == "urn:earwitness:problem:foreign-host"
    assert ask(apps.keys, "GET", "/livez", {"Host": host}).status_code == 200


def test_where_everybody_is_let_in_every_name_will_do(apps: Apps) -> None:
    """Prometheus asks a container for `service:8000`, by an address that is not the loopback's."""
    answer = ask(apps.everybody, "GET", "/metrics", {"Host": "service:8000"}, "http://172.18.0.2:8000")
    assert answer.status_code == 200


def test_another_server_that_runs_the_app_opens_it_to_nobody(apps: Apps) -> None:
    """The settings say 127.0.0.1 where `uvicorn --host 0.0.0.0` listens: the connection tells, and a key is needed."""
    beyond = "http://192.168.0.7:8000"
    assert ask(apps.loopback, "GET", "/metrics").status_code == 200
    assert ask(apps.loopback, "GET", "/metrics", base=beyond).status_code == 401
    assert ask(apps.loopback, "POST", "/bundle/rollback", base=beyond).status_code == 401
    assert ask(apps.loopback, "GET", "/metrics", apps.key(Scope.METRICS), beyond).status_code == 200
    assert ask(apps.loopback, "GET", "/livez", base=beyond).status_code == 200


def test_questions_have_places_of_their_own(apps: Apps) -> None:
    """429 where all are taken; health and metrics need none, and clips have others."""

    async def scenario() -> None:
        app = create_app(apps.settings.model_copy(update={"queue_capacity": 1}))
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
