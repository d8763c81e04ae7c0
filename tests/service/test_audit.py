"""The audit log: who changed what, on which section, with what outcome, by whichever way it came."""

import asyncio
import io
import json
import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle
from models.encoder import Device
from service import audit, logs
from service.access import Access, KeyFile, Scope
from service.audit import Change, Outcome, attempt_by, user_name
from service.cli import main
from service.errors import StoreError
from service.logs import LogFormat, formatter
from service.settings import Settings
from service.targets import TargetStore
from tests.service.apps import running_app
from tests.service.asking import target_clips
from tests.service.bundles import FAN_0, FAN_1, sound, wav
from tests.service.holding import Held
from tests.service.servers import PATIENCE_S, Server
from tests.service.test_target_store import rows

FILES = [("audio", (f"{n}.wav", clip)) for n, clip in enumerate(target_clips(FAN_1, 0))]
SECTION = {"machine_type": "fan", "section": "01"}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged from warnings on, and the audit log, which has a level of its own."""
    caplog.set_level(logging.WARNING)
    caplog.handler.setLevel(logging.NOTSET)
    return caplog


def audited(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == "service.audit"]


@pytest.fixture
def settings(bundles: dict[str, Bundle], tmp_path: Path) -> Settings:
    """Of a service that asks for keys."""
    first = bundles["first"].folder
    assert first is not None
    return Settings(
        bundle=first,
        bundles_dir=first.parent,
        database=str(tmp_path / "db"),
        keys=tmp_path / "keys.json",
        access=Access.KEYS,
        device=Device.CPU,
        threads=1,
    )


@pytest.fixture
def headers(settings: Settings) -> dict[Scope, dict[str, str]]:
    """A key for each scope, as a header."""
    keys = KeyFile(settings.keys)
    return {scope: {"Authorization": f"Bearer {keys.create(f'{scope}-key', [scope])}"} for scope in Scope}


def test_requests_are_audited_with_their_key_and_outcome(
    settings: Settings,
    bundles: dict[str, Bundle],
    headers: dict[Scope, dict[str, str]],
    log: pytest.LogCaptureFixture,
) -> None:
    """What changed something, what did not, who was refused; scores and questions are not, and no secret ever is."""
    register, admin, score = (headers[scope] for scope in (Scope.REGISTER, Scope.ADMIN, Scope.SCORE))
    once = {**register, "Idempotency-Key": "once"}
    section, one = "/target-samples/fan/01", "{machine_type}/{section}"

    async def scenario() -> None:
        async with running_app(settings) as (client, _):

            async def post(path: str, headers: dict[str, str], **body: Any) -> int:
                return (await client.post(path, headers=headers, **body)).status_code

            assert await post("/target-samples", register, data=SECTION, files=FILES, params={"preview": "1"}) == 200
            for _ in range(2):
                assert await post("/target-samples", once, data=SECTION, files=FILES) == 201
            assert await post("/target-samples", register, data=SECTION, files=FILES[:2]) == 422
            assert await post(f"{section}/restore", register, json={"version": 1}) == 201
            for _ in range(2):
                assert (await client.delete(section, headers=register)).is_success
            assert (await client.delete(section, headers=score)).status_code == 403
            assert (await client.delete(section)).status_code == 401
            assert await post("/bundle/reload", admin, json={"bundle": "no\nline" + "-" * 900}) == 400
            assert await post("/bundle/reload", admin, json={"bundle": "second"}) == 200
            assert await post("/bundle/rollback", admin) == 200
            assert (await client.get("/sections", headers=score)).is_success
            clip = {"audio": ("c", wav(sound(FAN_0, 1)))}
            assert await post("/score", score, data={**SECTION, "domain": "source"}, files=clip) == 200

    asyncio.run(scenario())
    ids = {name: bundles[name].id for name in ("first", "second")}
    by, fan = "client=127.0.0.1", "machine_type=fan section=01"
    assert audited(log) == [
        f"POST /target-samples 200 key=register-key {by} {fan} preview=True outcome=unchanged",
        f"POST /target-samples 201 key=register-key {by} {fan} version=1 outcome=changed",
        f"POST /target-samples 201 key=register-key {by} {fan} version=1 outcome=unchanged",
        f"POST /target-samples 422 key=register-key {by} {fan} outcome=unchanged",
        f"POST /target-samples/{one}/restore 201 key=register-key {by} restored_from=1 version=2 {fan} outcome=changed",
        f"DELETE /target-samples/{one} 200 key=register-key {by} {fan} outcome=changed",
        f"DELETE /target-samples/{one} 200 key=register-key {by} {fan} outcome=unchanged",
        f"DELETE /target-samples/{one} 403 key=score-key {by} {fan} outcome=unchanged",
        f"DELETE /target-samples/{one} 401 key=- {by} {fan} outcome=unchanged",
        f"POST /bundle/reload 400 key=admin-key {by} bundle=no%0Aline{'-' * 193} outcome=unchanged",
        f"POST /bundle/reload 200 key=admin-key {by} bundle=second folder={settings.bundles_dir / 'second'} "
        f"bundle_id={ids['second']} replaced={ids['first']} outcome=changed",
        f"POST /bundle/rollback 200 key=admin-key {by} folder={settings.bundle} "
        f"bundle_id={ids['first']} replaced={ids['second']} outcome=changed",
    ]
    assert not any(one["Authorization"].partition(" ")[2] in log.text for one in headers.values())


@pytest.mark.parametrize("committed", [True, False])
def test_a_registration_whose_time_is_up_is_told_to_its_end(
    settings: Settings,
    headers: dict[Scope, dict[str, str]],
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    committed: bool,
) -> None:
    """Unknown at the answer, on which section all the same, and a line once it is known; then it is in force."""
    kept = io.StringIO()
    handler = logging.StreamHandler(kept)
    handler.setFormatter(formatter(LogFormat.JSON))
    monkeypatch.setattr(audit.LOG, "handlers", [handler])

    def full(*arguments: Any, **options: Any) -> None:
        raise StoreError("The disk is full.")

    if not committed:
        monkeypatch.setattr(TargetStore, "register", full)
    registering = Held(monkeypatch, TargetStore, "register")

    async def scenario() -> None:
        async with running_app(settings) as (client, app):
            headers[Scope.REGISTER]["X-Request-Id"] = "late-4711"
            posting = asyncio.create_task(
                client.post("/target-samples", data=SECTION, files=FILES, headers=headers[Scope.REGISTER])
            )
            await registering.called()
            for limit in app.state.resources.admission._limits:
                limit.reschedule(0.0)
            assert (await posting).status_code == 504
            assert len(audited(log)) == 1
            registering.may_end.set()
            while len(audited(log)) < 2:
                await asyncio.sleep(0.005)
            version = None
            while version is None and committed:
                answer = await client.get("/target-samples/fan/01", headers=headers[Scope.REGISTER])
                version = answer.json()["version"]

    asyncio.run(scenario())
    answered = "POST /target-samples 504 key=register-key client=127.0.0.1 machine_type=fan section=01"
    ended = f"{answered} version=1 outcome=changed" if committed else f"{answered} outcome=unchanged"
    assert audited(log) == [f"{answered} outcome=unknown", ended]
    assert [json.loads(line)["request_id"] for line in kept.getvalue().splitlines()] == ["late-4711"] * 2


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that commands keep the audit log in."""
    file = tmp_path / "logs" / "audit.jsonl"
    for name, value in {"AUDIT": file, "DATABASE": tmp_path / "db", "KEYS": tmp_path / "keys.json"}.items():
        monkeypatch.setenv(f"EARWITNESS_{name}", str(value))
    return file


def run(*arguments: str) -> int:
    """The exit status of a command, after which its handler goes, as with its process."""
    before = list(audit.LOG.handlers)
    try:
        return main(arguments)
    finally:
        for handler in audit.LOG.handlers[len(before) :]:
            audit.LOG.removeHandler(handler)
            handler.close()


def last(file: Path) -> dict[str, Any]:
    """What the last line says."""
    facts = json.loads(file.read_text().splitlines()[-1])
    return {name: value for name, value in facts.items() if name not in {"event", "level", "logger", "timestamp"}}


def test_commands_are_audited(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys made and revoked and target clips taken in, by whom and whether it worked; in a file that may be rotated."""
    keys = {"user": user_name(), "key_name": "line-3", "file": str(tmp_path / "keys.json")}
    created = {"command": "keys create", **keys, "scopes": "metrics,score"}
    create = ("keys", "create", "line-3", "--scope", "score", "--scope", "metrics")
    assert (run(*create), last(kept)) == (0, {**created, "outcome": "changed"})
    secret = capsys.readouterr().out.strip()
    assert (run(*create), last(kept)) == (2, {**created, "outcome": "unchanged"})
    kept.rename(tmp_path / "rotated")
    assert secret not in (tmp_path / "rotated").read_text()
    assert run("keys", "revoke", "line-3") == 0
    assert last(kept) == {"command": "keys revoke", **keys, "outcome": "changed"}

    backup = tmp_path / "backup"
    with TargetStore(f"sqlite:///{tmp_path / 'source.db'}") as store:
        store.register(FAN_0, rows(b"one", b"two"))
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("EARWITNESS_DATABASE", str(tmp_path / "source.db"))
        assert run("targets", "export", str(backup)) == 0
    assert last(kept)["command"] == "keys revoke"  # an export changes nothing
    imported = {"user": user_name(), "folder": str(backup), "database": str(tmp_path / "db")}
    assert run("targets", "import", str(backup)) == 0
    counts = {"registrations": 1, "clips": 2}
    assert last(kept) == {"command": "targets import", **imported, **counts, "outcome": "changed"}
    assert run("targets", "import", str(backup)) == 2
    assert last(kept) == {"command": "targets import", **imported, "outcome": "unchanged"}
    assert len(kept.read_text().splitlines()) == 3


def test_a_file_that_is_rotated_is_begun_anew_while_the_service_runs(bundle_folder: Path, tmp_path: Path) -> None:
    """Each line is in the file that had the name when it was written, without a signal or a restart."""
    file = tmp_path / "audit.jsonl"
    with Server(bundle_folder, tmp_path / "db", tmp_path / "log", audit=file) as server:
        for number in (1, 2, 3):
            headers = {"X-Request-Id": f"delete-{number}"}
            assert server.client.delete("/target-samples/fan/00", headers=headers).status_code == 200
            until = time.monotonic() + PATIENCE_S
            while not (file.exists() and file.read_text().endswith("\n")):  # the line may follow the answer
                assert time.monotonic() < until
                time.sleep(0.01)
            file.rename(tmp_path / f"audit.jsonl.{number}")
    for number in (1, 2, 3):
        (line,) = (tmp_path / f"audit.jsonl.{number}").read_text().splitlines()
        assert json.loads(line)["request_id"] == f"delete-{number}"
    assert not file.exists()


def test_an_audit_log_that_cannot_be_kept_is_an_error(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is changed then, and a sentence says why."""
    kept.mkdir(parents=True)
    assert run("keys", "create", "line-3", "--scope", "score") == 2
    assert f"error: {kept}: the audit log cannot be kept there (Is a directory)" in capsys.readouterr().err
    assert not (tmp_path / "keys.json").exists()


def test_an_audit_file_that_goes_away_stops_nothing(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The change is made, its secret printed, its outcome told on standard error; the file goes on when it may."""

    def keep_and_lose(file: Path) -> None:
        logs.keep_audit(file)
        shutil.rmtree(file.parent)
        file.parent.touch()  # and no folder can be made there

    with monkeypatch.context() as losing:
        losing.setattr("service.cli.keep_audit", keep_and_lose)
        losing.setattr(audit.LOG, "handlers", [logging.StreamHandler(sys.stderr)])
        assert run("keys", "create", "line-3", "--scope", "score") == 0
    said = capsys.readouterr()
    assert said.out.strip()
    assert "keys create user=" in said.err
    assert "outcome=changed" in said.err
    assert "NotADirectoryError" in said.err
    assert [key.name for key in KeyFile(tmp_path / "keys.json").read()] == ["line-3"]

    kept.parent.unlink()
    logs.keep_audit(kept)
    (handler,) = audit.LOG.handlers
    try:
        shutil.rmtree(kept.parent)
        with attempt_by("test", "me"), Change() as audited:
            audited.made()
        kept.parent.mkdir()
        with attempt_by("test", "again"), Change() as audited:
            audited.made()
    finally:
        audit.LOG.removeHandler(handler)
        handler.close()
    assert "FileNotFoundError" in capsys.readouterr().err
    assert [json.loads(line)["user"] for line in kept.read_text().splitlines()] == ["again"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoreError("It is away."), Outcome.UNCHANGED),
        (StoreError("It was lost.", in_doubt=True), Outcome.UNKNOWN),
        (RuntimeError("Nobody foresaw this."), Outcome.UNKNOWN),
        (asyncio.CancelledError(), Outcome.UNKNOWN),
    ],
)
def test_an_error_says_what_it_knows(error: BaseException, outcome: Outcome, log: pytest.LogCaptureFixture) -> None:
    """Ours say that nothing was changed, or that nobody knows; any other may have come after the change."""
    with pytest.raises(type(error)), attempt_by("test", "me"), Change():
        raise error
    assert audited(log) == [f"test user=me outcome={outcome}"]
