"""Every error of the contract by a real request: a clear problem, nothing stored, the service still ready."""

import inspect
import io
import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

import models.errors
import service.errors
from models.errors import AudioError, EarwitnessError
from models.vocabulary import NAME_PATTERN
from service import problems
from service.requests import KEY_PATTERN
from tests.service.bundles import FAN_0, FAN_1, sound, wav
from tests.service.servers import PATIENCE_S, Server, Upload, answer_on

FIELDS = {"machine_type": "fan", "section": "00", "domain": "source"}
GOOD = wav(sound(FAN_0, 400))
JPEG = bytes.fromhex("ffd8ffe000104a46494600010101006000600000ffdb0043") + bytes(5000)
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    """After each test the service is ready, nothing is registered, and its log has no stack trace."""
    yield
    assert server.client.get("/readyz").status_code == 200
    assert server.client.get("/target-samples").json()["target_samples"] == []
    assert "Traceback" not in server.log.read_text()


def check(answer: httpx.Response, status: int, slug: str, *said: str) -> dict[str, Any]:
    """The answer is a problem of this kind, and its detail says these things."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"urn:earwitness:problem:{slug}"
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert problem["title"]
    assert problem["detail"].endswith((".", ")"))
    for word in said:
        assert word in problem["detail"]
    return problem


def truncated_wav() -> bytes:
    return GOOD[: len(GOOD) // 2]


def nan_wav() -> bytes:
    waveform = sound(FAN_0, 401)
    waveform[1000:1010] = np.nan
    return wav(waveform, subtype="FLOAT")


def hour_of_silence() -> bytes:
    """An hour in a few hundred kilobytes of FLAC."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 16_000, 1, format="FLAC", subtype="PCM_16") as out:
        for _ in range(60):
            out.write(np.zeros(60 * 16_000, np.int16))
    return file.getvalue()


def lying_wav() -> bytes:
    """A header that promises two gigabytes."""
    return GOOD[:40] + struct.pack("<I", 2_000_000_000) + GOOD[44:]


BAD_CLIPS = {
    "truncated": (truncated_wav, 422, "undecodable-audio", "truncated"),
    "a JPEG named .wav": (lambda: JPEG, 415, "not-audio", "WAV, FLAC or OGG"),
    "text": (lambda: b"hello, this is a fan", 415, "not-audio", "WAV, FLAC or OGG"),
    "0 bytes": (lambda: b"", 415, "not-audio", "0 bytes"),
    "100 ms": (lambda: wav(sound(FAN_0, 402, seconds=0.1)), 422, "clip-too-short", "0.100 s"),
    "NaN": (nan_wav, 422, "non-finite-audio", "NaN"),
    "digital silence": (lambda: wav(np.zeros(160_000, np.float32)), 422, "silent-clip", "silent"),
    "an hour of silence": (hour_of_silence, 413, "clip-too-long", "60 s"),
    "61 s": (lambda: wav(sound(FAN_0, 403, seconds=61.0)), 413, "clip-too-long", "60 s"),
    "a lying header": (lying_wav, 422, "undecodable-audio", "truncated"),
}


@pytest.mark.parametrize("case", BAD_CLIPS, ids=str)
@pytest.mark.parametrize("raw", [False, True], ids=["multipart", "raw"])
def test_a_bad_clip_is_refused(server: Server, case: str, raw: bool) -> None:
    """By what it is, whatever it is called, in a multipart body and in a raw one."""
    make, status, slug, said = BAD_CLIPS[case]
    audio = make()
    if raw:
        answer = server.client.post("/score", params=FIELDS, content=audio, headers={"Content-Type": "audio/wav"})
    else:
        answer = server.client.post("/score", data=FIELDS, files={"audio": ("clip.wav", audio, "audio/wav")})
    check(answer, status, slug, said)


@pytest.mark.parametrize("case", [case for case in BAD_CLIPS if case != "an hour of silence"], ids=str)
def test_one_bad_clip_refuses_a_registration(server: Server, case: str) -> None:
    """Its position is named, and the good ones are not kept either."""
    clips = [wav(sound(FAN_1, seed)) for seed in range(3)]
    clips.insert(2, BAD_CLIPS[case][0]())
    answer = server.client.post(
        "/target-samples",
        data={"machine_type": "fan", "section": "01"},
        files=[("audio", (f"{n}.wav", clip)) for n, clip in enumerate(clips)],
    )
    assert check(answer, 422, "target-clips-refused", "Clip 3 of 4")["position"] == 3


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_a_duplicate_refuses_a_registration(server: Server, container: str) -> None:
    """The same sound in another container is the same clip."""
    clips = [wav(sound(FAN_1, seed)) for seed in range(3)]
    clips.append(wav(sound(FAN_1, 1), kind=container))
    answer = server.client.post(
        "/target-samples",
        data={"machine_type": "fan", "section": "01"},
        files=[("audio", (f"{n}.wav", clip)) for n, clip in enumerate(clips)],
    )
    assert check(answer, 422, "target-clips-refused", "Clip 4", "clip 2")["position"] == 4


@pytest.mark.parametrize("count", [1, 2, 51])
def test_three_to_fifty_clips_make_a_registration(server: Server, count: int) -> None:
    """Fewer say too little, more are training data."""
    answer = server.client.post(
        "/target-samples",
        data={"machine_type": "fan", "section": "01"},
        files=[("audio", (f"{n}.wav", GOOD)) for n in range(count)],
    )
    check(answer, 422, "target-clips-refused", str(count), "3 to 50")


WRONG_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "no machine type": ({"machine_type": None}, "machine_type"),
    "no section": ({"section": None}, "section"),
    "no domain": ({"domain": None}, "domain"),
    "an unknown field": ({"machinetype": "fan"}, "machinetype"),
    "a third domain": ({"domain": "summer"}, "summer"),
    "no boolean": ({"explain": "perhaps"}, "perhaps"),
    "a field twice": ({"section": ["00", "01"]}, "section"),
}


@pytest.mark.parametrize("case", WRONG_FIELDS, ids=str)
@pytest.mark.parametrize("raw", [False, True], ids=["multipart", "raw"])
def test_wrong_fields_are_named(server: Server, case: str, raw: bool) -> None:
    """With 400, not with the framework's 422."""
    change, said = WRONG_FIELDS[case]
    fields: dict[str, Any] = {**FIELDS, **change}
    fields = {name: value for name, value in fields.items() if value is not None}
    if raw:
        answer = server.client.post("/score", params=fields, content=GOOD, headers={"Content-Type": "audio/wav"})
    else:
        answer = server.client.post("/score", data=fields, files={"audio": ("clip.wav", GOOD)})
    check(answer, 400, "malformed-request", said)


def test_the_clip_must_be_one_file_field(server: Server) -> None:
    """Missing, twice, under another name, or as text."""
    post = server.client.post
    clip = ("clip.wav", GOOD)
    check(post("/score", data=FIELDS, files={"sound": clip}), 400, "malformed-request", "sound")
    check(
        post("/score", files={name: (None, value) for name, value in FIELDS.items()}), 400, "malformed-request", "audio"
    )
    check(post("/score", data=FIELDS, files=[("audio", clip)] * 2), 400, "malformed-request", "2 files")
    texts = {name: (None, value) for name, value in {**FIELDS, "audio": "clip.wav"}.items()}
    check(post("/score", files=texts), 400, "malformed-request", "audio", "file")


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"no boundary at all", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nvalue\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data"),
        (b"--x\r\nContent-Disposition: form-data; name=section\r\n\r\n0", "multipart/form-data; boundary=x"),
    ],
)
def test_a_broken_multipart_body_is_malformed(server: Server, content: bytes, content_type: str) -> None:
    """It never reaches the framework's own error."""
    answer = server.client.post("/score", content=content, headers={"Content-Type": content_type})
    check(answer, 400, "malformed-request")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc", "a b", "", "x" * 65, "00\n", ".hidden", "ü"])
def test_a_path_is_no_section(server: Server, name: str) -> None:
    """Names are checked before anything is looked up."""
    answer = server.client.post("/score", data={**FIELDS, "section": name}, files={"audio": ("clip.wav", GOOD)})
    check(answer, 400, "invalid-name", "section", "letters")
    registration = server.client.post(
        "/target-samples",
        data={"machine_type": name, "section": "00"},
        files=[("audio", (f"{n}.wav", GOOD)) for n in range(3)],
    )
    check(registration, 400, "invalid-name", "machine type")


def test_unknown_machines_and_sections_name_the_known(server: Server) -> None:
    """404, with what there is."""
    audio = {"audio": ("clip.wav", GOOD)}
    answer = server.client.post("/score", data={**FIELDS, "machine_type": "press"}, files=audio)
    assert check(answer, 404, "unknown-machine-type", "'press'", "'pump'")["known"] == ["fan", "pump"]
    answer = server.client.post("/score", data={**FIELDS, "section": "07"}, files=audio)
    assert check(answer, 404, "unknown-section", "'07'", "'01'")["known"] == ["00", "01"]
    for method in ("GET", "DELETE"):
        check(server.client.request(method, "/target-samples/press/00"), 404, "unknown-machine-type")
        check(server.client.request(method, "/target-samples/fan/07"), 404, "unknown-section")


def test_target_without_target_clips_says_what_to_do(server: Server) -> None:
    """409, until clips are registered."""
    fields = {**FIELDS, "section": "01", "domain": "target"}
    answer = server.client.post("/score", data=fields, files={"audio": ("clip.wav", GOOD)})
    check(answer, 409, "no-target-clips", "POST /target-samples")


def test_unknown_paths_methods_and_parameters(server: Server) -> None:
    """404, 405 with what is allowed, 400 naming the parameter."""
    check(server.client.get("/scores"), 404, "not-found", "/scores")
    check(server.client.post("/score/"), 404, "not-found")
    for method, path, allowed in (
        ("GET", "/score", "POST"),
        ("PUT", "/target-samples", "GET, POST"),
        ("POST", "/target-samples/fan/00", "GET, DELETE"),
        ("DELETE", "/livez", "GET"),
    ):
        answer = server.client.request(method, path)
        check(answer, 405, "method-not-allowed", method)
        assert answer.headers["Allow"] == allowed
    for path in ("/sections", "/bundle", "/livez", "/readyz", "/metrics", "/target-samples", "/target-samples/fan/00"):
        assert check(server.client.get(path, params={"verbos": "1"}), 400, "malformed-request")["fields"] == ["verbos"]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "audio/mpeg", None])
def test_other_content_types_are_refused(server: Server, content_type: str | None) -> None:
    """415, with those that are read; what curl sends by default is among the refused."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = server.client.post("/score", params=FIELDS, content=GOOD, headers=headers)
    check(answer, 415, "unsupported-content-type", "audio/wav", "multipart/form-data")
    answer = server.client.post("/target-samples", content=GOOD, headers=headers)
    check(answer, 415, "unsupported-content-type", "multipart/form-data")


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "streamed"])
@pytest.mark.parametrize("form", [True, False], ids=["multipart", "raw"])
def test_200_megabytes_are_refused_early(server: Server, declared: bool, form: bool) -> None:
    """413 as soon as the limit is passed, by what is received and not by what is declared."""
    sent = 0
    head = (b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n' if form else b"") + GOOD[
        :44
    ]

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield head
        for _ in range(200):
            sent += MIB
            yield bytes(MIB)

    headers = {"Content-Type": "multipart/form-data; boundary=x" if form else "audio/wav"}
    if declared:
        headers["Content-Length"] = str(len(head) + 200 * MIB)
    answer = server.client.post("/score", params=FIELDS, content=body(), headers=headers)
    check(answer, 413, "body-too-large", str(32 * MIB))
    assert sent < 60 * MIB


@pytest.mark.parametrize("given", ["0", "-5", "soon", "1.5", "9" * 30])
def test_a_deadline_must_be_a_number(server: Server, given: str) -> None:
    """400, naming the header."""
    answer = server.client.post(
        "/score", data=FIELDS, files={"audio": ("clip.wav", GOOD)}, headers={"X-Request-Timeout-Ms": given}
    )
    check(answer, 400, "malformed-request", "X-Request-Timeout-Ms")


def test_a_passed_deadline_is_told(server: Server) -> None:
    """504, for a body that does not go on."""
    with closing(Upload(server, FIELDS, len(GOOD), "X-Request-Timeout-Ms: 100")) as upload:
        upload.send(GOOD[:1000])
        check(upload.answer(), 504, "deadline-passed", "X-Request-Timeout-Ms")


LINE = (
    b"POST /score?machine_type=fan&section=00&domain=source HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\n"
)
NO_HTTP = {
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "a length that is none": LINE + b"Content-Length: abc\r\n\r\n",
    "a negative length": LINE + b"Content-Length: -5\r\n\r\n",
    "two lengths": LINE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "a broken chunk": LINE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "bytes in the path": b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a header of a megabyte": LINE + b"X-Long: " + b"a" * MIB,
    "headers without an end": LINE + b"X-One: b\r\n" * 100_000,
}
IN_THE_BODY = {"a broken chunk"}


def refusals(server: Server) -> dict[str, float]:
    """How many requests of each route were rejected so far."""
    pattern = r'earwitness_requests_total\{outcome="rejected",route="([^"]*)"\} (.*)'
    return {route: float(count) for route, count in re.findall(pattern, server.client.get("/metrics").text)}


@pytest.mark.parametrize("case", NO_HTTP, ids=str)
def test_what_is_no_request_gets_a_problem(server: Server, case: str) -> None:
    """Refused by the parser, the body's faults by the application; endless headers are not kept. It is counted once."""
    before = refusals(server)
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as connection:
        with suppress(ConnectionError):  # it may close while we still send
            connection.sendall(NO_HTTP[case])
        answer = answer_on(connection)
    assert answer.headers["Connection"] == "close"
    problem = check(answer, 400, "malformed-request")
    after = refusals(server)
    route = "/score" if case in IN_THE_BODY else "unknown"
    assert after == {**before, route: before[route] + 1}
    (line,) = (line for line in server.log.read_text().splitlines() if problem["request_id"] in line)
    assert json.loads(line)["status"] == 400


def test_what_follows_a_request_takes_nothing_from_its_answer(server: Server) -> None:
    """It is being done, and 400 would say that it is not; the answer is the last of the connection."""
    before = refusals(server)
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as connection:
        connection.sendall(LINE + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD + b"\0surplus")
        answer = answer_on(connection)
        assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
        assert answer.json()["decision"] == "normal"
        with suppress(ConnectionResetError):  # there may be more of ours than was read
            assert connection.recv(1) == b""
    assert refusals(server) == before


@pytest.mark.parametrize("path", ["/score?machine_type=fan&section=00&domain=source", "/livez"])
def test_trailers_without_an_end_are_not_kept(server: Server, path: str) -> None:
    """Neither where the body is waited for nor where the answer does not need it: the connection is closed."""
    head = f"POST {path}" if "?" in path else f"GET {path}"
    head += (
        " HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nR\r\n0\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as connection:
        connection.sendall(head.encode())
        with pytest.raises(ConnectionError):
            connection.sendall(b"X-One: b\r\n" * 10_000_000)


def test_trailers_are_allowed(server: Server) -> None:
    """A few of them, after chunks of any size; the connection serves on."""
    chunks = (100, 70_000, 1, len(GOOD) - 70_101)
    body, start = b"", 0
    for size in chunks:
        body += b"%x\r\n%b\r\n" % (size, GOOD[start : start + size])
        start += size
    body += b"0\r\nX-Checksum: 0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as connection:
        for _ in range(2):
            connection.sendall(LINE + b"Transfer-Encoding: chunked\r\n\r\n" + body)
            assert answer_on(connection).json()["decision"] == "normal"


def test_one_more_than_can_be_held_is_sent_away(bundle_folder: Path, tmp_path: Path) -> None:
    """429 with Retry-After while the only place is taken; a place again once its holder is answered or gone."""
    settings = {"queue_capacity": 1, "request_timeout_s": PATIENCE_S}
    with Server(bundle_folder, tmp_path / "db", tmp_path / "log", **settings) as small:

        def post() -> httpx.Response:
            return small.client.post("/score", params=FIELDS, content=GOOD, headers={"Content-Type": "audio/wav"})

        def exported() -> set[str]:
            return set(small.client.get("/metrics").text.splitlines())

        with closing(Upload(small, FIELDS, len(GOOD))) as holder:
            answer = post()
            check(answer, 429, "queue-full", "1 requests")
            assert int(answer.headers["Retry-After"]) >= 1
            # the alert that the queue is nearly full sees it, though nothing waits for the networks
            assert {"earwitness_requests_in_hand 1.0", "earwitness_queue_depth 0.0"} <= exported()
            holder.send(GOOD)
            assert holder.answer().status_code == 200
        assert "earwitness_requests_in_hand 0.0" in exported()
        assert post().status_code == 200

        with closing(Upload(small, FIELDS, 99_999)) as leaver:
            leaver.send(GOOD[:500])
        until = time.monotonic() + PATIENCE_S
        while 'earwitness_requests_total{outcome="cancelled",route="/score"} 1.0' not in exported():
            assert time.monotonic() < until
            time.sleep(0.01)
        assert post().status_code == 200


def test_more_bytes_than_can_be_held_are_sent_away(bundle_folder: Path, tmp_path: Path) -> None:
    """429 for the body that would be too much beside another, a clip as a registration; alone it is taken."""
    settings = {"max_bytes_in_hand": 500_000, "request_timeout_s": PATIENCE_S}
    clips = [("audio", (f"{n}.wav", wav(sound(FAN_1, n)))) for n in range(3)]
    with Server(bundle_folder, tmp_path / "db", tmp_path / "log", **settings) as small:
        with closing(Upload(small, FIELDS, len(GOOD))) as holder:
            holder.send(GOOD[:200_000])
            answer = small.client.post("/score", data=FIELDS, files={"audio": ("a.wav", GOOD)})
            while answer.status_code == 200:  # until what the holder sent has been read
                answer = small.client.post("/score", data=FIELDS, files={"audio": ("a.wav", GOOD)})
            check(answer, 429, "queue-full", "500000")
            answer = small.client.post("/target-samples", data={"machine_type": "fan", "section": "01"}, files=clips)
            check(answer, 429, "queue-full", "500000")
            holder.send(GOOD[200_000:])
            assert holder.answer().status_code == 200
        answer = small.client.post("/target-samples", data={"machine_type": "fan", "section": "01"}, files=clips)
        assert answer.status_code == 201


def test_every_error_of_the_tree_that_a_request_can_meet_is_in_the_table() -> None:
    """A new audio or service error without a row would silently become a 500."""
    offline = {service.errors.ServiceError}
    tree = [
        cls
        for module in (models.errors, service.errors)
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, EarwitnessError)
    ]
    expected = [
        cls for cls in tree if issubclass(cls, (AudioError, service.errors.ServiceError)) and cls not in offline
    ]
    assert len(expected) > 15
    assert [cls for cls in expected if cls not in problems.KINDS] == []
    slugs = [kind.slug for kind in problems.KINDS.values()]
    assert len(set(slugs)) == len(slugs)


def test_what_is_refused_everywhere_is_documented(server: Server) -> None:
    """An unknown query parameter, and a content type that is not read here, have a status that the document has."""
    paths = server.client.get("/openapi.json").json()["paths"]
    operations = [(path, method, operation) for path, one in paths.items() for method, operation in one.items()]
    for path, method, operation in operations:
        url = path.format(machine_type="fan", section="00")
        unknown = server.client.request(method, url, params={"colour": "red"}, data=FIELDS, files={"audio": GOOD})
        assert unknown.status_code in {400, 415}
        assert str(unknown.status_code) in operation["responses"], (method, path)
        if "requestBody" in operation:
            unread = server.client.request(method, url, content=b"?", headers={"Content-Type": "text/plain"})
            assert unread.status_code == 415
            assert "415" in operation["responses"], (method, path)


def test_names_that_cannot_be_are_ruled_out_by_the_document(server: Server) -> None:
    """Each place where a name or a key is given has the pattern that the service holds it to."""
    document = server.client.get("/openapi.json").json()
    schemas: list[tuple[str, dict[str, Any]]] = []
    for path in document["paths"].values():
        for operation in path.values():
            schemas += [(one["name"], one["schema"]) for one in operation.get("parameters", [])]
            for body in operation.get("requestBody", {}).get("content", {}).values():
                schemas += body["schema"].get("properties", {}).items()
    patterns = {(name, one["pattern"]) for name, one in schemas if "pattern" in one}
    assert {name for name, one in schemas if "pattern" not in one} == {
        *("audio", "domain", "explain", "preview", "version")
    }
    assert patterns == {
        *((name, NAME_PATTERN) for name in ("machine_type", "section", "bundle")),
        ("Idempotency-Key", f"^{KEY_PATTERN}$"),
    }
