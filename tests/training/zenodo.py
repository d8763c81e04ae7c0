"""A records API on 127.0.0.1 in the form of Zenodo's, with the troubles that a network has."""

import hashlib
import io
import json
import random
import re
import threading
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

TOYS = ("ToyCar", "ToyTrain")
REAL = ("fan", "gearbox", "slider", "valve")
EVALUATED = {
    2023: ("ToyDrone", "ToyNscale", "ToyTank", "Vacuum", "bandsaw", "grinder", "shaker"),
    2024: (
        *("3DPrinter", "AirCompressor", "BrushlessMotor", "HairDryer", "HoveringDrone"),
        *("RoboticArm", "Scanner", "ToothBrush", "ToyCircuit"),
    ),
    2025: (
        *("AutoTrash", "BandSealer", "CoffeeGrinder", "HomeCamera"),
        *("Polisher", "ScrewFeeder", "ToyPet", "ToyRCCar"),
    ),
}


def names_of(number: int) -> list[str]:
    """The files of each record that is downloaded, by their real names."""
    m2020 = ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")
    m2021 = (*TOYS, "fan", "gearbox", "pump", "slider", "valve")
    m2022 = (*TOYS, "bearing", *REAL)
    revised = {"3DPrinter": "_r2", "RoboticArm": "_r2"}
    return {
        3678171: [f"dev_data_{m}.zip" for m in m2020],
        3727685: [f"eval_data_train_{m}.zip" for m in m2020],
        3841772: [f"eval_data_test_{m}.zip" for m in m2020],
        3951620: ["eval_data_list.csv"],
        4562016: [f"dev_data_{m}.zip" for m in m2021],
        4660992: [f"eval_data_{m}_train.zip" for m in m2021],
        4884786: [f"eval_data_{m}_test.zip" for m in m2021],
        5257674: ["y-kawagu/dcase2021_task2_evaluator-v1.0.0.zip"],
        6355122: [f"dev_{m}.zip" for m in m2022],
        6462969: [f"eval_data_{m}_train.zip" for m in m2022],
        6586456: [f"eval_data_{m}_test.zip" for m in m2022],
        7882613: [f"dev_{m}.zip" for m in m2022],
        7830345: [f"eval_data_{m}_train.zip" for m in EVALUATED[2023]],
        7860847: [f"eval_data_{m}_test.zip" for m in EVALUATED[2023]],
        10902294: [f"dev_{m}.zip" for m in m2022],
        11259435: [f"eval_data_{m}_train{revised.get(m, '')}.zip" for m in EVALUATED[2024]],
        11363076: [f"eval_data_{m}_test.zip" for m in EVALUATED[2024]],
        15097779: [f"dev_{m}.zip" for m in m2022],
        15392814: [f"eval_data_{m}_train.zip" for m in EVALUATED[2025]],
        15519362: [f"eval_data_{m}_test.zip" for m in EVALUATED[2025]],
    }[number]


def answer(number: int, files: Mapping[str, bytes], url: str = "https://zenodo.org", **metadata: Any) -> dict[str, Any]:
    """A record as Zenodo answers it, with the fields that are read and some that are not."""
    return {
        "id": number,
        "recid": str(number),
        "conceptrecid": str(number - 1),
        "status": "published",
        "metadata": {
            "title": f"DCASE Challenge Task 2, record {number}",
            "access_right": "open",
            "license": {"id": "cc-by-nc-sa-4.0"},
            **metadata,
        },
        "files": [
            {
                "id": f"00000000-0000-4000-8000-{place:012d}",
                "key": key,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{url}/api/records/{number}/files/{key}/content"},
            }
            for place, (key, content) in enumerate(files.items())
        ],
        "links": {"self": f"{url}/api/records/{number}"},
    }


def noise(size: int, seed: object) -> bytes:
    """Bytes that no archive makes smaller."""
    return random.Random(str(seed)).randbytes(size)


def zipped(files: Mapping[str, bytes]) -> bytes:
    """An archive of these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def clips(*names: str, size: int = 1000) -> bytes:
    """An archive of clips with these paths."""
    return zipped({name: noise(size, name) for name in names})


@dataclass(frozen=True)
class Cut:
    """The connection ends after so many bytes of the body."""

    after: int


@dataclass(frozen=True)
class Refuse:
    """Another status than 200."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Instead:
    """Another body, as a whole."""

    content: bytes


@dataclass(frozen=True)
class Hold:
    """After so many bytes of the body, call before going on; as often as there are steps."""

    steps: tuple[tuple[int, Callable[[], object]], ...]


Trouble = Cut | Refuse | Instead | Hold


@dataclass(frozen=True)
class Asked:
    """A request for a file."""

    name: str
    start: int | None
    if_range: str | None


class Zenodo:
    """The server. ``troubles``: what befalls the requests for a file, or a record's number, one after another."""

    def __init__(self, records: Mapping[int, Mapping[str, bytes]], *, ranges: bool = True, etags: bool = True) -> None:
        self.records = {number: dict(files) for number, files in records.items()}
        self.ranges, self.etags = ranges, etags
        self.metadata: dict[str, Any] = {}
        self.troubles: dict[str, list[Trouble]] = defaultdict(list)
        self.asked: list[Asked] = []
        self._server = _Listener(("127.0.0.1", 0), type("Handler", (_Handler,), {"zenodo": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def api(self) -> str:
        """What ``--api`` takes."""
        return f"{self.url}/api"

    @property
    def starts(self) -> list[int | None]:
        """The first byte of each request for a file, None for the whole."""
        return [asked.start for asked in self.asked]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no error of the server's."""


class _Handler(BaseHTTPRequestHandler):
    zenodo: Zenodo
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        record = re.fullmatch(r"/api/records/(\d+)", self.path)
        file = re.fullmatch(r"/api/records/(\d+)/files/(.+)/content", self.path)
        if record and int(record[1]) in self.zenodo.records:
            self._record(int(record[1]))
        elif file and file[2] in self.zenodo.records.get(int(file[1]), {}):
            self._file(file[2], self.zenodo.records[int(file[1])][file[2]])
        else:
            self._send(404, {}, b'{"status": 404, "message": "The persistent identifier does not exist."}')

    def _record(self, number: int) -> None:
        trouble = self._trouble(str(number))
        if isinstance(trouble, Refuse):
            self._send(trouble.status, trouble.headers, b"")
            return
        body = json.dumps(answer(number, self.zenodo.records[number], self.zenodo.url, **self.zenodo.metadata)).encode()
        if isinstance(trouble, Instead):
            body = trouble.content
        self._send(200, {"Content-Type": "application/json"}, body)

    def _file(self, name: str, content: bytes) -> None:
        given = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(given[1]) if given else None
        self.zenodo.asked.append(Asked(name, start, self.headers.get("If-Range")))
        trouble = self._trouble(name)
        if isinstance(trouble, Refuse):
            self._send(trouble.status, trouble.headers, b"")
            return
        if isinstance(trouble, Instead):
            content = trouble.content
        tag = f'"md5:{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": tag} if self.zenodo.etags else {}
        if start is None or not self.zenodo.ranges or self.headers.get("If-Range", tag) != tag:
            self._send(200, headers, content, trouble)
        elif start >= len(content):
            self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
        else:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206, headers, content[start:], trouble)

    def _trouble(self, name: str) -> Trouble | None:
        troubles = self.zenodo.troubles[name]
        return troubles.pop(0) if troubles else None

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, trouble: Trouble | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            if isinstance(trouble, Cut):
                self.wfile.write(body[: trouble.after])
                self.close_connection = True
            elif isinstance(trouble, Hold):
                sent = 0
                for after, until in trouble.steps:
                    self.wfile.write(body[sent:after])
                    until()
                    sent = after
                self.wfile.write(body[sent:])
            else:
                self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client was killed
