"""A real service in a process of its own, on a free port."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import httpx

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 180.0
"""How long a machine that has much else to do may take over anything."""


WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS


def free_port() -> int:
    """A port that nothing listens on, and that no other process of pytest is given."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
        if port // 2 % WORKERS == WORKER:  # Linux gives either even ports or odd ones
            return port


class Server:
    """``python -m service serve`` (or of another ``module``) over a bundle and a database, by its file or URL."""

    def __init__(
        self, bundle: Path, database: Path | str, log: Path, module: str = "service", /, **settings: Any
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.database = database
        self.environment = {
            **os.environ,
            "EARWITNESS_DATABASE": str(database),
            "EARWITNESS_DEVICE": "cpu",
            "EARWITNESS_THREADS": "2",
            **{f"EARWITNESS_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.command = [sys.executable, "-m", module, "serve", "--bundle", str(bundle), "--port", str(self.port)]
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False)

    def begin(self) -> None:
        """Start the process."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=REPOSITORY, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def start(self) -> Self:
        """Start the process and wait until it is ready."""
        self.begin()
        assert self.process is not None
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.client.get("/readyz").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log.read_text()}")

    def kill(self) -> None:
        """End the process without a word to it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """Ask the process to end; its exit status."""
        self.client.close()
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Upload:
    """A raw ``POST /score`` that the service has taken on, and whose body comes as we please."""

    def __init__(self, server: Server, fields: dict[str, str], size: int, *headers: str) -> None:
        self._connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
        head = (
            f"POST /score?{urlencode(fields)} HTTP/1.1",
            *("Host: localhost", "Content-Type: audio/wav", f"Content-Length: {size}", "Expect: 100-continue"),
            *headers,
        )
        self.send("\r\n".join([*head, "", ""]).encode())
        begun = b""
        while not begun.endswith(b"\r\n\r\n"):  # it is sent when the body is first asked for
            begun += self._connection.recv(1)
        assert begun.startswith(b"HTTP/1.1 100 ")

    def send(self, content: bytes) -> None:
        """Send a part of the body."""
        self._connection.sendall(content)

    def answer(self) -> httpx.Response:
        """What the service answers."""
        return answer_on(self._connection)

    def close(self) -> None:
        """Leave."""
        self._connection.close()


def answer_on(connection: socket.socket) -> httpx.Response:
    """The answer that comes on a connection."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return httpx.Response(answer.status, headers=httpx.Headers(answer.getheaders()), content=answer.read())
