"""Keys and scopes: who is answered, and who is not."""

import asyncio
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.commands import shell_line
from models.encoder import Device
from models.errors import InvalidName
from service.access import Access, Gate, KeyFile, Scope, is_loopback
from service.cli import main
from service.errors import Forbidden, KeysError, Unauthorized
from service.settings import Settings
from tests.service.apps import running_app
from tests.service.bundles import FAN_0, sound, wav
from tests.service.servers import PATIENCE_S, REPOSITORY, Server, free_port

REQUESTS: dict[tuple[str, str], set[Scope | None]] = {
    ("POST", "/score"): {Scope.SCORE},
    ("GET", "/sections"): {Scope.SCORE, Scope.REGISTER, Scope.ADMIN},
    ("GET", "/bundle"): {Scope.SCORE, Scope.REGISTER, Scope.ADMIN},
    ("POST", "/target-samples"): {Scope.REGISTER},
    ("GET", "/target-samples"): {Scope.REGISTER},
    ("GET", "/target-samples/fan/01"): {Scope.REGISTER},
    ("DELETE", "/target-samples/fan/01"): {Scope.REGISTER},
    ("GET", "/target-samples/fan/01/versions"): {Scope.REGISTER},
    ("POST", "/target-samples/fan/01/restore"): {Scope.REGISTER},
    ("POST", "/bundle/reload"): {Scope.ADMIN},
    ("POST", "/bundle/rollback"): {Scope.ADMIN},
    ("GET", "/metrics"): {Scope.METRICS},
    ("GET", "/livez"): {*Scope, None},
    ("GET", "/readyz"): {*Scope, None},
    ("GET", "/docs"): {*Scope, None},
    ("GET", "/openapi.json"): {*Scope, None},
}


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "data" / "keys.json")


@pytest.fixture
def secrets(keys: KeyFile) -> dict[Scope | None, str]:
    """A key for each scope, and one that is not known."""
    return {None: "ew_unknown", **{scope: keys.create(f"{scope}-key", [scope]) for scope in Scope}}


def guarded(bundle_folder: Path, tmp_path: Path) -> Settings:
    return Settings(
        bundle=bundle_folder,
        database=str(tmp_path / "db"),
        keys=tmp_path / "data" / "keys.json",
        access=Access.KEYS,
        device=Device.CPU,
        threads=1,
    )


def test_a_key_opens_what_its_scope_says_and_nothing_else(
    bundle_folder: Path, tmp_path: Path, secrets: dict[Scope | None, str]
) -> None:
    """Every path, with every scope, without a key and with an unknown one; and no path was forgotten."""

    async def scenario() -> None:
        async with running_app(guarded(bundle_folder, tmp_path)) as (client, app):
            served = {(method.upper(), path) for path, one in app.openapi()["paths"].items() for method in one}
            templates = {(method, path.replace("fan/01", "{machine_type}/{section}")) for method, path in REQUESTS}
            assert served <= templates
            for (method, path), opening in REQUESTS.items():
                for scope, secret in secrets.items():
                    answer = await client.request(method, path, headers={"Authorization": f"Bearer {secret}"})
                    opened = answer.status_code not in (401, 403)
                    assert opened == (scope in opening), (method, path, scope, answer.text)
                    if not opened:
                        assert answer.status_code == (401 if scope is None else 403)
                        assert answer.headers["Content-Type"] == "application/problem+json"
                for header in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer "}):
                    answer = await client.request(method, path, headers=header)
                    assert (answer.status_code == 401) == (None not in opening)
                    if answer.status_code == 401:
                        assert answer.headers["WWW-Authenticate"] == "Bearer"

    asyncio.run(scenario())


def test_a_key_file_keeps_digests_that_only_its_owner_reads(keys: KeyFile, tmp_path: Path) -> None:
    """A key is told once; what is revoked is refused at once, by who has read the file before too."""
    file = tmp_path / "data" / "keys.json"
    reader = KeyFile(file)
    assert reader.find("ew_any") is None
    secret = keys.create("line-3", [Scope.SCORE, Scope.REGISTER])
    assert len(secret) > 40
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = reader.find(secret)
    assert found is not None
    assert (found.name, set(found.scopes)) == ("line-3", {Scope.SCORE, Scope.REGISTER})
    assert reader.find(secret[:-1]) is None
    with pytest.raises(KeysError, match="line-3"):
        keys.create("line-3", [Scope.SCORE])
    with pytest.raises(InvalidName):
        keys.create("line 3", [Scope.SCORE])
    keys.create("other", [Scope.METRICS])
    with pytest.raises(KeysError, match="line-3, other"):
        keys.revoke("nobody")
    keys.revoke("line-3")
    assert reader.find(secret) is None
    assert [key.name for key in reader.read()] == ["other"]


def test_keys_that_are_made_at_once_are_all_kept(
    keys: KeyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By several processes, while another revokes: none is lost, and none comes back."""
    file = tmp_path / "data" / "keys.json"
    monkeypatch.setattr("service.access._PATIENCE_S", PATIENCE_S)
    for number in range(8):
        keys.create(f"old-{number}", [Scope.SCORE])
    make = (
        f"import sys; from pathlib import Path; from service import access; access._PATIENCE_S = {PATIENCE_S}; "
        "sys.stdin.read(); keys = access.KeyFile(Path(sys.argv[1])); "
        "[keys.create(f'{sys.argv[2]}-{n}', [access.Scope.SCORE]) for n in range(8)]"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", make, str(file), str(n)], cwd=REPOSITORY, stdin=subprocess.PIPE)
        for n in range(3)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()  # all begin now
    for number in range(8):
        keys.revoke(f"old-{number}")
    assert [writer.wait(PATIENCE_S) for writer in writers] == [0, 0, 0]
    assert {key.name for key in keys.read()} == {f"{writer}-{n}" for writer in range(3) for n in range(8)}


def test_keys_that_cannot_be_read_let_nobody_in(keys: KeyFile, tmp_path: Path) -> None:
    """Neither those that were known before."""
    gate = Gate(keys, required=True)
    secret = keys.create("line-3", [Scope.SCORE])
    assert gate.admit(f"Bearer {secret}", [Scope.SCORE]) == "line-3"
    assert gate.admit(f"bearer {secret}", [Scope.ADMIN, Scope.SCORE]) == "line-3"
    with pytest.raises(Forbidden, match="'line-3' has the scope score; admin is needed"):
        gate.admit(f"Bearer {secret}", [Scope.ADMIN])
    with pytest.raises(Unauthorized):
        gate.admit(secret, [Scope.SCORE])
    (tmp_path / "data" / "keys.json").write_text("{")
    for _ in range(2):
        with pytest.raises(KeysError, match=r"keys\.json"):
            gate.admit(f"Bearer {secret}", [Scope.SCORE])
    (tmp_path / "data" / "keys.json").unlink()
    with pytest.raises(Unauthorized):
        gate.admit(f"Bearer {secret}", [Scope.SCORE])


@pytest.mark.parametrize(
    ("host", "access", "required"),
    [
        ("127.0.0.1", None, False),
        ("127.8.0.1", None, False),
        ("::1", None, False),
        ("localhost", None, False),
        ("0.0.0.0", None, True),
        ("::", None, True),
        ("10.0.0.7", None, True),
        ("plant.example", None, True),
        ("0.0.0.0", Access.OPEN, False),
        ("127.0.0.1", Access.KEYS, True),
    ],
)
def test_keys_are_needed_where_others_reach_the_service(host: str, access: Access | None, required: bool) -> None:
    """Unless a setting says otherwise, in either way."""
    settings = Settings(host=host, access=access)
    assert settings.keys_required == required
    assert access is not None or is_loopback(host) != required


def run(*arguments: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        check=False,
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_the_command_line_makes_lists_and_revokes_keys(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service that others reach does not start without one; that, and an empty list, say what to do in a sentence."""
    monkeypatch.setenv("EARWITNESS_KEYS", str(tmp_path / "keys.json"))
    monkeypatch.setenv("EARWITNESS_DATABASE", str(tmp_path / "db"))

    def command(*arguments: str) -> tuple[int, str, str]:
        return main(arguments), *capsys.readouterr()

    status, _, said = command("serve", "--host", "0.0.0.0", "--bundle", str(bundle_folder))
    assert status == 2
    assert said.splitlines()[-1].startswith("error: On 0.0.0.0 the service answers only who has a key")
    create = shell_line("service keys create NAME --scope score")
    none = f"There are no keys in {tmp_path / 'keys.json'}. Make one with {create}.\n"
    assert command("keys", "list") == (0, "", none)
    status, secret, said = command("keys", "create", "line-3", "--scope", "score", "--scope", "metrics")
    assert status == 0, said
    assert KeyFile(tmp_path / "keys.json").find(secret.strip()) is not None
    _, listed, said = command("keys", "list")
    assert not said
    assert listed.split("\t")[:2] == ["line-3", "metrics,score"]
    assert secret.strip() not in listed
    assert command("keys", "revoke", "line-3")[0] == 0
    assert command("keys", "revoke", "line-3") == (2, "", "error: There is no key 'line-3'. There are: none.\n")


def test_metrics_may_have_a_port_of_their_own(bundle_folder: Path, tmp_path: Path, keys: KeyFile) -> None:
    """With the same keys, and nothing else on it; it ends with the service. `score --url` sends its key."""
    secrets = {scope: keys.create(str(scope), [scope]) for scope in Scope}
    port = free_port()
    options: dict[str, Any] = {"access": "keys", "keys": tmp_path / "data" / "keys.json", "metrics_port": port}
    with Server(bundle_folder, tmp_path / "db", tmp_path / "log", **options) as server:
        metrics = f"http://127.0.0.1:{port}/metrics"
        key = {"Authorization": f"Bearer {secrets[Scope.METRICS]}"}
        assert server.client.get(metrics).status_code == 401
        answer = server.client.get(metrics, headers=key)
        assert "earwitness_ready 1.0" in answer.text
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert server.client.get("/metrics", headers=key).status_code == 404
        assert server.client.get(f"http://127.0.0.1:{port}/bundle", headers=key).status_code == 404
        (tmp_path / "clip.wav").write_bytes(wav(sound(FAN_0, 2)))
        command = ("score", str(tmp_path / "clip.wav"), "--machine-type", "fan", "--url", server.url)
        assert run(*command, environment={"EARWITNESS_API_KEY": secrets[Scope.SCORE]}).returncode == 0
        for unfit in ({}, {"EARWITNESS_API_KEY": "ew_unknown"}, {"EARWITNESS_API_KEY": secrets[Scope.ADMIN]}):
            refused = run(*command, environment=unfit)
            assert (refused.returncode, refused.stdout) == (2, "")
            said = refused.stderr.splitlines()[-1]
            assert said.startswith(f"error: The service at {server.url} answers only who has a key: ")
            assert "Set EARWITNESS_API_KEY to a key of scope score" in said
        taken = run("serve", "--port", "0", environment={**options_of(options), "EARWITNESS_ACCESS": "open"})
        assert taken.returncode == 2
        assert taken.stderr.splitlines()[-1].startswith(f"error: 127.0.0.1, port {port} is in use: ")
        assert server.stop() == 0


def options_of(options: dict[str, Any]) -> dict[str, str]:
    return {f"EARWITNESS_{name.upper()}": str(value) for name, value in options.items()}


def test_answers_are_not_to_be_kept_framed_or_guessed_at(bundle_folder: Path, tmp_path: Path) -> None:
    """Security headers on every answer; the documentation's page may run its own script, and no other."""

    async def scenario() -> None:
        async with running_app(guarded(bundle_folder, tmp_path)) as (client, _):
            for path in ("/livez", "/score", "/nowhere", "/docs"):
                headers = (await client.get(path)).headers
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Referrer-Policy"] == "no-referrer"
                assert headers["Cache-Control"] == "no-store"
                assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
                assert ("default-src 'none'" in headers["Content-Security-Policy"]) == (path != "/docs")

    asyncio.run(scenario())
