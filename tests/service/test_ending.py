"""The end of the process comes in time, whatever hangs."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

import service.server
from service.app import create_app, metrics_app
from service.ending import AFTER_DRAIN_S, Ending
from service.protocol import Protocol
from service.settings import Settings
from tests.service.asking import target_clips
from tests.service.bundles import FAN_1
from tests.service.collectors import Collector
from tests.service.postgres import Postgres
from tests.service.servers import PATIENCE_S, REPOSITORY, Server, free_port

DRAIN_S = 0.5
BOUND_S = DRAIN_S + AFTER_DRAIN_S + 2.0
"""With its last words; what README states."""
NOISE_S = 4.0
"""How long a machine that has much else to do may take over what takes no time."""


@contextmanager
def loading_for_ever(server: Server, key: Path) -> Iterator[None]:
    """A service that has begun to load, and waits for a key that never comes."""
    os.mkfifo(key)
    server.begin()
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            writer = os.open(key, os.O_WRONLY | os.O_NONBLOCK)  # refused until somebody reads
            break
        except OSError:
            assert time.monotonic() < until, server.log.read_text()
            time.sleep(0.05)
    try:
        yield
    finally:
        os.close(writer)


def told_to_end(server: Server) -> int:
    """The exit status of a service that is told to end, which comes in time."""
    assert server.process is not None
    server.client.close()
    server.process.terminate()
    try:
        return server.process.wait(BOUND_S + NOISE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        raise AssertionError(f"it did not end: {server.log.read_text()}") from None


@pytest.mark.alone
def test_a_load_that_hangs_does_not_keep_the_process_up(
    bundle_folder: Path, tmp_path: Path, collector: Collector
) -> None:
    """It ends in time, with status 0; the log says which thread hung, and no line or span is lost."""
    key = tmp_path / "key.pub"
    settings = {"drain_s": DRAIN_S, "traces_endpoint": collector.endpoint, "public_key": key}
    server = Server(bundle_folder, tmp_path / "db", tmp_path / "log", **settings)
    with loading_for_ever(server, key):
        assert server.client.post("/bundle/rollback").status_code == 503
        assert told_to_end(server) == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (said,) = (line["event"] for line in lines if line["level"] == "critical")
    assert said.startswith("the thread ")
    assert "(models/signing.py:" in said
    assert any(line["logger"] == "service.audit" and line["route"] == "/bundle/rollback" for line in lines)
    assert "POST /bundle/rollback" in {span.name for span in collector.spans}


@pytest.mark.alone
def test_a_frozen_database_does_not_keep_the_process_up(
    bundle_folder: Path, tmp_path: Path, postgres: Postgres
) -> None:
    """Neither the thread that asks it all the time, nor one that writes a registration; who waits for it hears so."""
    server = Server(bundle_folder, postgres.new_database(), tmp_path / "log", drain_s=DRAIN_S).start()
    files = [("audio", (f"{n}.wav", clip)) for n, clip in enumerate(target_clips(FAN_1, 20))]
    section = {"machine_type": FAN_1.machine_type, "section": FAN_1.section}
    with postgres.frozen():
        answer = server.client.post("/target-samples", data=section, files=files)
        assert answer.json()["type"] == "urn:earwitness:problem:target-clips-unavailable"
        with pytest.raises(httpx.TimeoutException):
            server.client.post("/target-samples", data=section, files=files, timeout=0.5)
        assert told_to_end(server) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.fixture
def two_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> service.server.Server:
    """A server in this process, which it does not end, with the metrics on a port of their own."""
    monkeypatch.setattr(Ending, "within", lambda *_: None)
    app = create_app(Settings(database=str(tmp_path / "db")))
    resources = app.state.resources
    server = service.server.Server(
        uvicorn.Config(app, port=0, http=Protocol, lifespan="off", log_config=None), resources
    )
    server.beside(metrics_app(resources), free_port())
    return server


async def serve(server: service.server.Server, until: Callable[[], object]) -> None:
    """Serve until something is so, and end."""
    async with asyncio.timeout(PATIENCE_S):
        serving = asyncio.create_task(server.serve())
        while not (server.started and until()):
            await asyncio.sleep(0.01)
        server.should_exit = True
        await serving


def test_both_ports_are_shut_at_once(two_ports: service.server.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left after the drain is enough for the last answers of each, but not of one after the other."""
    both, shut = asyncio.Barrier(2), uvicorn.Server.shutdown

    async def shutdown(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await shut(server, sockets)
        async with asyncio.timeout(PATIENCE_S):
            await both.wait()

    monkeypatch.setattr(uvicorn.Server, "shutdown", shutdown)
    asyncio.run(serve(two_ports, lambda: True))


def test_a_metrics_port_that_dies_is_told(
    two_ports: service.server.Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, with the trace; the service goes on, and ends as it should."""
    ticks = uvicorn.Server.on_tick

    async def on_tick(server: uvicorn.Server, counter: int) -> bool:
        if server is not two_ports:
            raise ZeroDivisionError("nobody foresaw this")
        return await ticks(server, counter)

    monkeypatch.setattr(uvicorn.Server, "on_tick", on_tick)
    asyncio.run(serve(two_ports, lambda: "GET /metrics is served no more" in caplog.text))
    assert "nobody foresaw this" in caplog.text


PROGRAM = """
import atexit, sys, threading
from service.ending import Ending
atexit.register(print, "ended by itself")
ending = Ending(lambda: print("flushed"))
ending.status = 130
ending.within(60.0)
{rest}
"""


def test_an_end_that_does_not_hang_is_not_hurried() -> None:
    """Python's own end, with what runs then, and with the status that the program gives."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(rest="sys.exit(3)")],
        check=False,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "ended by itself\n", "")


def test_a_log_that_nobody_reads_does_not_keep_the_process_up() -> None:
    """It ends with its status though its last words never get out."""
    full = """
import os
os.set_blocking(2, False)
try:
    while True: os.write(2, bytes(4096))
except BlockingIOError:
    os.set_blocking(2, True)
threading.Thread(target=threading.Event().wait).start()
ending.within(0.1)
"""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(rest=full)], cwd=REPOSITORY, stderr=subprocess.PIPE
    ) as process:
        assert process.wait(PATIENCE_S) == 130
