"""What a connection may take: its time, its place among the others, and what it leaves unread."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import pytest

from tests.service.servers import PATIENCE_S, Server, Upload, answer_on

HEAD_S = 2.0
NOISE_S = 10.0
"""How much longer a machine that has much else to do may take."""
MOST = 6
FIELDS = {"machine_type": "fan", "section": "00", "domain": "source"}


@pytest.fixture(scope="module")
def server(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that is soon impatient."""
    folder = tmp_path_factory.mktemp("connections")
    settings = {"head_timeout_s": HEAD_S, "max_connections": MOST, "request_timeout_s": PATIENCE_S}
    with Server(bundle_folder, folder / "db", folder / "log", **settings) as running:
        running.client.close()  # it would hold a connection of its own
        yield running


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)


def dribble(connection: socket.socket, what: bytes) -> float:
    """Send ``what`` over and over, a byte every tenth of a second, until the other side has closed; for how long."""
    begun = time.monotonic()
    connection.settimeout(0.1)
    with suppress(ConnectionError):
        while time.monotonic() - begun < HEAD_S + NOISE_S:
            for byte in what:
                connection.sendall(bytes([byte]))
                with suppress(TimeoutError):
                    if connection.recv(1, socket.MSG_PEEK):
                        return time.monotonic() - begun
                    raise ConnectionResetError
    return time.monotonic() - begun


def say_nothing(server: Server) -> float:
    """Open a connection, and leave it at that; how long it stays."""
    begun = time.monotonic()
    with closing(connect(server)) as connection:
        assert connection.recv(1) == b""
    return time.monotonic() - begun


def begin_a_head(server: Server) -> httpx.Response:
    """Go on with a head for ever; what is answered."""
    with closing(connect(server)) as connection:
        connection.sendall(b"GET /sections HTTP/1.1\r\nHost: localhost\r\n")
        assert dribble(connection, b"X-One: b\r\n") < HEAD_S + NOISE_S
        connection.settimeout(PATIENCE_S)
        return answer_on(connection)


def go_on_with_a_body(server: Server) -> float:
    """Go on with a body that nobody reads; how long that lasts once the answer is there."""
    with closing(connect(server)) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n")
        assert answer_on(connection).status_code == 200
        return dribble(connection, b"body")


def test_nobody_is_waited_for_who_does_not_come_to_an_end(server: Server) -> None:
    """Whoever says nothing, or goes on however steadily; a head that was begun is answered 408, counted and logged."""
    with ThreadPoolExecutor(3) as pool:
        silence, head = pool.submit(say_nothing, server), pool.submit(begin_a_head, server)
        body = pool.submit(go_on_with_a_body, server)
    assert HEAD_S * 0.9 < silence.result() < HEAD_S + NOISE_S
    assert body.result() < HEAD_S + NOISE_S
    answer = head.result()
    assert answer.status_code == 408
    assert answer.headers["Connection"] == "close"
    problem = answer.json()
    assert problem["type"] == "urn:earwitness:problem:request-too-slow"
    assert "2 s" in problem["detail"]
    assert httpx.get(f"{server.url}/livez", timeout=PATIENCE_S, trust_env=False).status_code == 200  # logged by now
    assert problem["request_id"] in server.log.read_text()


def held(server: Server, connection: socket.socket) -> bool:
    """Whether the service keeps its end of a connection open; the other end hears nothing before it reads."""
    ends = [f":{port:04X}" for port in (server.port, connection.getsockname()[1])]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state = line.split()[:4]
        if [local[-5:], remote[-5:]] == ends:
            return state == "01"  # ESTABLISHED
    return False


def test_who_does_not_read_its_answers_is_not_waited_for(server: Server) -> None:
    """They fill what the kernel keeps, and then no memory of the service for longer than it may."""
    asked = 40
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * asked)
        until = time.monotonic() + PATIENCE_S
        while held(server, connection):
            assert time.monotonic() < until
            time.sleep(0.05)
        answered = 0
        with suppress(ConnectionError):
            while content := connection.recv(1 << 20):
                answered += content.count(b"HTTP/1.1 200")
    assert answered < asked / 2


def test_silent_connections_keep_a_probe_out_for_a_moment_only(server: Server) -> None:
    """Whoever comes too late has a second to speak; of those for whom there is no room even so the log tells, once."""
    unheard = "others are closed unheard"
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(closing(Upload(server, FIELDS, 99_999)))
        slow = stack.enter_context(closing(connect(server)))
        slow.sendall(b"GET /livez HTTP/1.1\r\n")
        while unheard not in server.log.read_text():
            silent = stack.enter_context(closing(connect(server)))
        with suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        problem = answer_on(slow).json()
        assert problem["type"] == "urn:earwitness:problem:request-too-slow"
        assert "not whole after 1 s" in problem["detail"]
        until = time.monotonic() + PATIENCE_S
        while True:
            with closing(connect(server)) as probe, suppress(ConnectionError):
                probe.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if answer_on(probe).status_code == 200:
                    break
            assert time.monotonic() < until
    assert server.log.read_text().count(unheard) == 1


def test_a_request_that_is_answered_is_heard_out_before_the_next_is_refused(server: Server) -> None:
    """Over the limit too: the second on its connection never gets its 503 in the first one's place."""
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(closing(Upload(server, FIELDS, 99_999)))
        watching = stack.enter_context(closing(connect(server)))
        watching.sendall(
            b"".join(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in (b"/livez", b"/docs"))
        )
        answer = answer_on(watching)
        assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
        assert watching.recv(1) == b""


def test_over_the_limit_only_who_watches_is_answered(server: Server) -> None:
    """503 for everybody else, until somebody has left."""
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(closing(Upload(server, FIELDS, 99_999)))
        for path, status in (("livez", 200), ("readyz", 200), ("metrics", 200), ("sections", 503), ("docs", 503)):
            with closing(connect(server)) as connection:
                connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                answer = answer_on(connection)
            assert answer.status_code == status
            assert answer.headers["Connection"] == "close"
        assert answer.json()["type"] == "urn:earwitness:problem:too-many-connections"
        assert int(answer.headers["Retry-After"]) > 0
    until = time.monotonic() + PATIENCE_S
    while True:
        with closing(connect(server)) as connection:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
            status = answer_on(connection).status_code
        if status == 415:
            return
        assert (status, time.monotonic() < until) == (503, True)
