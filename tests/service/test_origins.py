"""Who asks without a key: programs, and pages of the service's own; and from where nobody is let in without one."""

import asyncio
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
import yaml
from fastapi import FastAPI

from service.access import Access, KeyFile, Scope, is_loopback
from service.app import create_app, metrics_app
from service.settings import Settings
from tests.service.servers import REPOSITORY

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
        ("localhost.", True),
        ("plant-pc:8000", True),
        ("192.168.0.7:8000", True),
        ("earwitness.plant.", True),
        ("earwitness.plant:80", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_who_comes_over_the_loopback_must_not_ask_for_anybody_elses_name(apps: Apps, host: str, known: bool) -> None:
    """Or a page whose own name points here could read the answers, those of the metrics' own port too; health is all's.

    Nobody can have an address or a name without a dot in public: a machine's own name, which Debian lets point at
    127.0.1.1, is no page's.
    """
    assert ask(apps.loopback, "GET", "/livez", {"Host": host}).status_code == 200
    assert ask(apps.loopback, "GET", "/readyz", {"Host": host}).json()["type"].endswith(":not-ready")
    asked = [ask(apps.loopback, "GET", path, {"Host": host}) for path in ("/sections", "/docs", "/metrics", "/nowhere")]
    for answer in (*asked, ask(apps.metrics, "GET", "/metrics", {"Host": host})):
        assert (answer.status_code == 403) == (not known)
        if not known:
            assert answer.json()["type"] == "urn:earwitness:problem:foreign-host"
    assert ask(apps.keys, "GET", "/docs", {"Host": host}).status_code == 200


def test_a_service_that_is_open_to_a_network_answers_there_to_every_name(apps: Apps) -> None:
    """Until it is told one: which names the network has for it, nobody else knows."""
    open_to_all = apps.settings.model_copy(
        update={"access": Access.OPEN, "host": "0.0.0.0", "known_hosts": frozenset()}
    )
    app = create_app(open_to_all)
    assert ask(app, "GET", "/metrics", {"Host": "line-3.plant"}, "http://192.168.0.7:8000").status_code == 200
    assert ask(app, "GET", "/metrics", {"Host": "plant-pc:8000"}, "http://127.0.1.1:8000").status_code == 200
    assert ask(app, "GET", "/metrics", {"Host": "line-3.plant"}, "http://127.0.0.1:8000").status_code == 403


def composed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> FastAPI:
    """The app with what `docker compose up` gives it where nothing is set."""
    service = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]["service"]
    for name, value in service["environment"].items():
        if value is not None:
            monkeypatch.setenv(name, re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value))
    return create_app(Settings(host="0.0.0.0", database=str(folder / "db")))


@pytest.mark.parametrize("host", ["evil.example:8000", "localhost.evil.example:8000"])
def test_no_name_may_be_let_point_at_a_published_port(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine hands what comes to 127.0.0.1 on to the container's own address; its page is then of our origin."""
    app, container = composed(monkeypatch, tmp_path), "http://172.18.0.2:8000"
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    for method, path in (("POST", "/bundle/rollback"), ("GET", "/sections"), ("GET", "/metrics")):
        answer = ask(app, method, path, headers, container)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:earwitness:problem:foreign-host")


def test_whom_the_containers_serve_they_go_on_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus asks for `service:8000`, the health check for 127.0.0.1, and we for the port that is published."""
    app, container = composed(monkeypatch, tmp_path), "http://172.18.0.2:8000"
    assert ask(app, "GET", "/metrics", {"Host": "service:8000"}, container).status_code == 200
    assert ask(app, "GET", "/livez", {"Host": "127.0.0.1:8000"}, "http://127.0.0.1:8000").status_code == 200
    for host in ("localhost:8123", "127.0.0.1:8123"):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        answer = ask(app, "POST", "/bundle/rollback", headers, container)
        assert answer.json()["type"].endswith(":not-ready")


@pytest.mark.parametrize(
    "written", ["earwitness.plant", "Earwitness.plant:8443", "earwitness.plant.", "[fd00::17]:8443", "fd00::17"]
)
def test_a_name_is_known_however_it_is_written(written: str, tmp_path: Path) -> None:
    """With a port, a last dot, capitals or an address' brackets: they are no part of what is compared."""
    app = create_app(Settings(database=str(tmp_path / "db"), known_hosts=frozenset({written})))
    place = "[fd00::17]:8443" if "fd00" in written else "earwitness.plant:8443"
    assert ask(app, "GET", "/metrics", {"Host": place}).status_code == 200
    answer = ask(app, "POST", "/bundle/rollback", {"Origin": f"https://{place}"})
    assert answer.json()["type"].endswith(":not-ready")


def test_a_loopback_that_is_written_as_ipv6_is_one() -> None:
    """As a socket that serves both has it; Python 3.11 itself does not say so."""
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("::ffff:192.168.0.7")


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
