"""One file from a real server: cut, refused, changed, wrong, and whole in the end or said not to be."""

import asyncio
import hashlib
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from models.errors import DownloadError, ServerUnreachable
from tests.training.zenodo import Asked, Cut, Instead, Refuse, Trouble, Zenodo, noise
from training.download import patience, transfer
from training.download.places import Place
from training.download.records import RemoteFile
from training.download.transfer import Server

NAME, CONTENT = "dev_data_fan.zip", noise(400_000, "file")


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that are asked for; none is waited."""
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(patience.asyncio, "sleep", sleep)  # type: ignore[attr-defined]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return asked


@pytest.fixture
def zenodo() -> Iterator[Zenodo]:
    with Zenodo({5: {NAME: CONTENT}}) as server:
        yield server


def fetch(zenodo: Zenodo, out: Path, *, url: str | None = None, size: int = len(CONTENT)) -> int:
    """Fetch the file to ``out``; the bytes that the bar was moved by."""
    url = url or f"{zenodo.api}/records/5/files/{NAME}/content"
    moved: list[int] = []

    async def run() -> None:
        async with Server(zenodo.api) as server:
            file = RemoteFile(NAME, size, hashlib.md5(CONTENT).hexdigest(), url)
            await server.fetch(file, Place(out, 5, NAME), moved.append)

    asyncio.run(run())
    return sum(moved)


def files_in(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


WHOLE = {f"archives/5/{NAME}": CONTENT}


def test_a_file_is_fetched_once(zenodo: Zenodo, tmp_path: Path) -> None:
    """Nothing is left beside it, and the next run asks for nothing."""
    assert fetch(zenodo, tmp_path) == len(CONTENT)
    assert files_in(tmp_path) == WHOLE
    assert fetch(zenodo, tmp_path) == 0
    assert zenodo.asked == [Asked(NAME, None, None)]


@pytest.mark.parametrize("etags", [True, False])
def test_a_connection_cut_five_times_ends_whole(tmp_path: Path, waits: list[float], etags: bool) -> None:
    """Each request asks for what is missing; progress keeps the waits short."""
    with Zenodo({5: {NAME: CONTENT}}, etags=etags) as zenodo:
        zenodo.troubles[NAME] = [Cut(70_000) for _ in range(5)]
        assert fetch(zenodo, tmp_path) == len(CONTENT)
    assert files_in(tmp_path) == WHOLE
    assert zenodo.starts == [None, 70_000, 140_000, 210_000, 280_000, 350_000]
    tag = f'"md5:{hashlib.md5(CONTENT).hexdigest()}"' if etags else None
    assert {asked.if_range for asked in zenodo.asked[1:]} == {tag}
    assert waits == [1.0] * 5


def test_a_server_that_ignores_ranges_starts_the_file_again(tmp_path: Path) -> None:
    """What had come is not put before it, and the bar goes back."""
    with Zenodo({5: {NAME: CONTENT}}, ranges=False) as zenodo:
        zenodo.troubles[NAME] = [Cut(100_000), Cut(350_000)]
        assert fetch(zenodo, tmp_path) == len(CONTENT)
    assert files_in(tmp_path) == WHOLE
    assert zenodo.starts == [None, 100_000, 350_000]


@pytest.mark.parametrize("answered", [f"bytes 5-9/{len(CONTENT)}", "none that can be read"])
def test_another_range_than_asked_for_is_not_put_together(zenodo: Zenodo, tmp_path: Path, answered: str) -> None:
    """The file starts again."""
    zenodo.troubles[NAME] = [Cut(100_000), Refuse(206, {"Content-Range": answered})]
    assert fetch(zenodo, tmp_path) == len(CONTENT)
    assert files_in(tmp_path) == WHOLE
    assert zenodo.starts == [None, 100_000, None]


def test_a_file_that_has_changed_meanwhile_starts_again(zenodo: Zenodo, tmp_path: Path) -> None:
    """The entity tag of what came first is of another version: the server sends the whole."""
    place = Place(tmp_path, 5, NAME)
    place.partial.parent.mkdir(parents=True)
    place.partial.write_bytes(b"old" * 1000)
    place.etag.write_text('"another"')
    assert fetch(zenodo, tmp_path) == len(CONTENT) - 3000
    assert files_in(tmp_path) == WHOLE
    assert zenodo.asked == [Asked(NAME, 3000, '"another"')]


def test_a_partial_file_of_no_known_version_is_found_out(zenodo: Zenodo, tmp_path: Path) -> None:
    """Without an entity tag the checksum tells, and the file is fetched once more, from its beginning."""
    place = Place(tmp_path, 5, NAME)
    place.partial.parent.mkdir(parents=True)
    place.partial.write_bytes(b"old" * 1000)
    assert fetch(zenodo, tmp_path) == len(CONTENT) - 3000
    assert files_in(tmp_path) == WHOLE
    assert zenodo.starts == [3000, None]


@pytest.mark.parametrize("there", [len(CONTENT), len(CONTENT) + 1])
def test_a_partial_file_that_is_long_enough_is_judged_first(zenodo: Zenodo, tmp_path: Path, there: int) -> None:
    """Killed between the last byte and the name; or longer than it can be."""
    place = Place(tmp_path, 5, NAME)
    place.partial.parent.mkdir(parents=True)
    place.partial.write_bytes((CONTENT + b"more")[:there])
    fetch(zenodo, tmp_path)
    assert files_in(tmp_path) == WHOLE
    assert zenodo.starts == ([] if there == len(CONTENT) else [None])


def test_a_wrong_checksum_is_fetched_again_once(zenodo: Zenodo, tmp_path: Path) -> None:
    """A proxy's bad copy costs a second request."""
    zenodo.troubles[NAME] = [Instead(CONTENT[::-1])]
    assert fetch(zenodo, tmp_path) == len(CONTENT)
    assert files_in(tmp_path) == WHOLE
    assert zenodo.starts == [None, None]


def test_a_checksum_wrong_twice_is_said_and_deleted(zenodo: Zenodo, tmp_path: Path) -> None:
    """File, expected and found."""
    wrong = CONTENT[::-1]
    zenodo.troubles[NAME] = [Instead(wrong), Instead(wrong)]
    with pytest.raises(DownloadError) as refused:
        fetch(zenodo, tmp_path)
    for words in (NAME, hashlib.md5(CONTENT).hexdigest(), hashlib.md5(wrong).hexdigest()):
        assert words in str(refused.value)
    assert files_in(tmp_path) == {}
    assert zenodo.starts == [None, None]


def test_a_file_longer_than_its_record_says_is_not_written(zenodo: Zenodo, tmp_path: Path) -> None:
    """It could fill the disk."""
    with pytest.raises(DownloadError, match=rf"{NAME} is longer than the 1000 bytes"):
        fetch(zenodo, tmp_path, size=1000)
    assert files_in(tmp_path) == {}


def test_a_server_with_a_shorter_file_is_given_up_cleanly(zenodo: Zenodo, tmp_path: Path) -> None:
    """It says 416, the file starts again, and it says so again."""
    with pytest.raises(ServerUnreachable, match="shorter than what has come"):
        fetch(zenodo, tmp_path, size=len(CONTENT) + 1)


def test_busy_servers_are_waited_for(
    zenodo: Zenodo, tmp_path: Path, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """429 and 503 say how long, in seconds or as a date; 500 does not, and waits grow. Long ones are told."""
    zenodo.troubles[NAME] = [
        Refuse(429, {"Retry-After": "7"}),
        Refuse(503, {"Retry-After": formatdate(time.time() + 100, usegmt=True)}),
        Refuse(500),
        Refuse(503, {"Retry-After": "soon"}),
    ]
    assert fetch(zenodo, tmp_path) == len(CONTENT)
    assert files_in(tmp_path) == WHOLE
    assert waits == [7.0, pytest.approx(100, abs=60), 4.0, 8.0]
    assert caplog.messages[0] == f"{NAME}: the server answers 429 Too Many Requests; the next try is in 7 s"
    assert len(caplog.messages) == 3


@pytest.mark.parametrize(
    ("troubles", "requests", "said"),
    [
        ([Refuse(503)] * 8, 8, "answers 503 Service Unavailable.*same command again"),
        ([Refuse(429, {"Retry-After": "86400"})], 1, "asks to wait 86400 s"),
        ([Cut(0)] * 8, 8, "127.0.0.1 fails.*same command again"),
        ([Cut(9)] * 2 + [Cut(0)] * 7, 9, "127.0.0.1 fails"),
    ],
)
def test_patience_ends(
    zenodo: Zenodo, tmp_path: Path, waits: list[float], troubles: list[Trouble], requests: int, said: str
) -> None:
    """After eight failures without a new byte, or at once where the server asks for a day."""
    zenodo.troubles[NAME] = list(troubles)
    with pytest.raises(ServerUnreachable, match=f"{NAME}: .*{said}"):
        fetch(zenodo, tmp_path)
    assert len(zenodo.asked) == requests
    assert sum(waits) <= 124.0


@pytest.mark.parametrize(("status", "said"), [(404, "is not there"), (403, "restricted"), (400, "cannot be had")])
def test_what_will_not_pass_is_not_waited_for(
    zenodo: Zenodo, tmp_path: Path, waits: list[float], status: int, said: str
) -> None:
    """One request, and a sentence with the status and the address."""
    zenodo.troubles[NAME] = [Refuse(status)]
    with pytest.raises(DownloadError, match=rf"{NAME} .*{said}.*\({status} at {zenodo.url}/"):
        fetch(zenodo, tmp_path)
    assert (len(zenodo.asked), waits) == (1, [])


def ask(api: str) -> None:
    async def run() -> None:
        async with Server(api) as server:
            await server.record(5)

    asyncio.run(run())


@pytest.mark.parametrize(("code", "waited"), [(socket.EAI_NONAME, []), (socket.EAI_AGAIN, [1.0, 2.0])])
def test_a_name_that_cannot_be_resolved(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], code: int, waited: list[float]
) -> None:
    """A slip in --api is said at once, a network that is away after a short wait."""

    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ServerUnreachable, match=r"Record 5: the name 'zenodo\.invalid' cannot be resolved.*--api"):
        ask("https://zenodo.invalid/api")
    assert waits == waited


def test_a_server_that_speaks_no_tls(zenodo: Zenodo) -> None:
    """Whatever stands in the way of a safe connection."""
    with pytest.raises(ServerUnreachable, match=r"no safe connection to 127\.0\.0\.1 \(.*SSL_CERT_FILE"):
        ask(zenodo.api.replace("http:", "https:"))


def test_a_server_that_is_not_there() -> None:
    """The connection is refused."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        api = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
        with pytest.raises(ServerUnreachable, match=r"connection to 127\.0\.0\.1 fails.*Check the network"):
            ask(api)


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for an answer passes."""
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.1)
    unanswered = pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1 has not answered for a minute")
    with socket.create_server(("127.0.0.1", 0)) as silent, unanswered:
        ask(f"http://127.0.0.1:{silent.getsockname()[1]}/api")


@pytest.mark.parametrize("api", ["zenodo.org/api", "ftp://zenodo.org/api", "http://[::1/api"])
def test_an_address_that_is_none(api: str) -> None:
    """It is said at once."""
    with pytest.raises(ServerUnreachable, match="no address that can be fetched"):
        ask(api)
