"""``python -m service score``: clips, folders and manifests, with a service and without one."""

import csv
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.cli import main
from service.sheets import COLUMNS
from tests.service.bundles import FAN_0, FAN_1, make_bundle, sound, wav
from tests.service.servers import Server

FAN = ["--machine-type", "fan", "--section", "00", "--domain", "source"]


@pytest.fixture(autouse=True)
def environment(bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small bundle, and no registrations."""
    monkeypatch.setenv("EARWITNESS_BUNDLE", str(bundle_folder))
    monkeypatch.setenv("EARWITNESS_DATABASE", str(tmp_path / "none.db"))
    monkeypatch.setenv("EARWITNESS_DEVICE", "cpu")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder: two normal clips, one faulty, one that is none."""
    folder = tmp_path / "clips"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.wav").write_bytes(wav(sound(FAN_0, 600)))
    (folder / "b.flac").write_bytes(wav(sound(FAN_0, 601), kind="FLAC"))
    (folder / "deeper" / "c.wav").write_bytes(wav(sound(FAN_0, 602, fault=True)))
    (folder / "d.wav").write_bytes(b"no sound")
    (folder / "notes.txt").write_text("not a clip")
    return folder


@pytest.fixture(params=["offline", "http"])
def where(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The command's options without a service and with one."""
    if request.param == "offline":
        yield []
    else:
        server: Server = request.getfixturevalue("server")
        yield ["--url", server.url]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_exit_status_says_what_was_found(clips: Path, where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """0 normal, 1 something anomalous, 2 something not scored."""
    assert main(["score", str(clips / "a.wav"), *FAN, *where]) == 0
    assert "a.wav: normal, p 0." in capsys.readouterr().out
    assert main(["score", str(clips / "a.wav"), str(clips / "deeper"), *FAN, *where]) == 1
    assert "c.wav: anomalous" in capsys.readouterr().out
    assert main(["score", str(clips), *FAN, *where]) == 2
    shown = capsys.readouterr()
    assert "d.wav: not scored: The clip is no audio file" in shown.out
    assert "2 normal, 1 anomalous, 1 failed" in shown.err


def test_a_folder_becomes_a_sheet_that_is_continued(clips: Path, where: list[str], tmp_path: Path) -> None:
    """Bad files are rows; rows that are there are not scored again; a torn last line is."""
    out = tmp_path / "scores.csv"
    command = ["score", str(clips), *FAN, *where, "--csv", str(out)]
    assert main(command) == 2
    first = out.read_text()
    rows = {Path(row["path"]).name: row for row in rows_of(out)}
    assert tuple(rows["a.wav"]) == COLUMNS
    assert {name: row["decision"] for name, row in rows.items()} == {
        "a.wav": "normal",
        "b.flac": "normal",
        "c.wav": "anomalous",
        "d.wav": "",
    }
    assert "no audio file" in rows["d.wav"]["error"]
    assert float(rows["a.wav"]["p_value"]) > 0.1
    assert "demonstration_bundle" in rows["a.wav"]["warnings"].split()

    (clips / "a.wav").unlink()  # what is not there any more cannot be scored again
    marked = first.replace(rows["b.flac"]["anomaly_score"], "-1.5")
    out.write_text(marked[: marked.rfind("\n", 0, -1) + 20])
    (clips / "a.wav").touch()
    assert main(command) == 2
    assert out.read_text().count("\n") == first.count("\n")
    again = {Path(row["path"]).name: row for row in rows_of(out)}
    assert again["b.flac"]["anomaly_score"] == "-1.5"
    assert again["a.wav"] == rows["a.wav"]
    assert again["d.wav"] == rows["d.wav"]


def test_json_lines_hold_the_whole_answers(clips: Path, where: list[str], tmp_path: Path) -> None:
    """As the service gives them, with the path; problems too."""
    out = tmp_path / "scores.jsonl"
    assert main(["score", str(clips), *FAN, *where, "--jsonl", str(out)]) == 2
    rows: dict[str, dict[str, Any]] = {
        Path(row["path"]).name: row for row in map(json.loads, out.read_text().splitlines())
    }
    assert rows["c.wav"]["systems"]["adacos_resnet"]["terms"]["section"] is not None
    assert rows["d.wav"]["error"]["type"] == "urn:earwitness:problem:not-audio"
    before = out.read_text()
    with out.open("a") as file:
        file.write('{"path": "torn')
    assert main(["score", str(clips), *FAN, *where, "--jsonl", str(out)]) == 2
    assert out.read_text() == before


def test_any_file_name_is_kept(clips: Path, where: list[str], tmp_path: Path) -> None:
    """Of bytes that are no text, with line ends of any kind but ours, and torn within a letter."""
    folder = tmp_path / "names"
    folder.mkdir()
    names = [b"x\xff.wav", "u\u2028\x85b.wav".encode(), 'z,"ö.wav'.encode()]
    for name in names:
        (folder / os.fsdecode(name)).write_bytes((clips / "a.wav").read_bytes())
    for option in ("--csv", "--jsonl"):
        out = tmp_path / "out"
        command = ["score", str(folder), *FAN, *where, option, str(out)]
        assert main(command) == 0
        whole = out.read_bytes()
        assert main(command) == 0
        assert out.read_bytes() == whole
        assert all(name in whole.replace(b'""', b'"').replace(b'\\"', b'"') for name in names)
        letter = "ö".encode()
        out.write_bytes(whole[: whole.rindex(letter) + 1])
        assert main(command) == 0
        assert out.read_bytes().count(b"\n") == whole.count(b"\n")
        out.unlink()


@contextmanager
def answering(*answers: tuple[int, bytes]) -> Iterator[str]:
    """The address of a server that gives these answers in turn, whatever it is asked."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = left.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{one.server_port}"
        finally:
            one.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "content"), [(200, b"{}"), (200, b"[]"), (200, b"<html>"), (404, b'{"message": "no"}'), (503, b'"x"')]
)
def test_another_server_is_told_from_a_service(
    clips: Path, status: int, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 and a sentence, whatever it answers."""
    with answering((status, content)) as url:
        assert main(["score", str(clips), *FAN, "--url", url]) == 2
    assert "does not answer as one" in capsys.readouterr().err.splitlines()[-1]


def failure(status: int, kind: str) -> tuple[int, bytes]:
    return status, json.dumps({"type": f"urn:earwitness:problem:{kind}", "detail": f"Then {kind}."}).encode()


SLOW, AWAY, NOT_AUDIO = (
    failure(504, "deadline-passed"),
    failure(503, "target-clips-unavailable"),
    failure(415, "not-audio"),
)


def bundle_of(server: Server) -> tuple[int, bytes]:
    return 200, server.client.get("/bundle").content


def test_what_passes_is_asked_again(server: Server, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A deadline and a database that was away, as a busy service."""
    fields = {"machine_type": "fan", "section": "00", "domain": "source"}
    scored = server.client.post("/score", data=fields, files={"audio": (clips / "a.wav").read_bytes()})
    answers = [bundle_of(server), SLOW, AWAY, failure(429, "queue-full"), (200, scored.content)]
    with answering(*answers) as url:
        assert main(["score", str(clips / "a.wav"), *FAN, "--url", url]) == 0
    assert "a.wav: normal" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--csv", "--jsonl"])
def test_a_failure_that_may_have_passed_makes_way_for_a_score(
    server: Server, clips: Path, tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow service, a database and a file that were away. What a clip is does not pass; others' rows stay."""
    monkeypatch.setattr("service.bulk._PATIENCE_S", 0.0)
    out = tmp_path / "out"
    out.touch(mode=0o640)
    (clips / "away.wav").symlink_to(tmp_path / "share.wav")
    names = ["a.wav", "away.wav", "b.flac", "d.wav"]
    with answering(bundle_of(server), SLOW, AWAY, NOT_AUDIO, SLOW) as url:
        assert main(["score", str(clips), *FAN, "--url", url, option, str(out)]) == 2

    def rows() -> dict[str, str | None]:
        if option == "--csv":
            read: list[dict[str, Any]] = rows_of(out)
            kinds = [row["error_type"] for row in read]
        else:
            read = [json.loads(line) for line in out.read_text().splitlines()]
            kinds = [(row.get("error") or {}).get("type", "") for row in read]
        assert len({row["path"] for row in read}) == len(read) == 5
        return {
            Path(row["path"]).name: kind.rpartition(":")[2] or row["decision"]
            for row, kind in zip(read, kinds, strict=True)
        }

    before = {
        "a.wav": "deadline-passed",
        "away.wav": "internal-error",
        "b.flac": "target-clips-unavailable",
        "d.wav": "not-audio",
        "c.wav": "deadline-passed",
    }
    assert rows() == before
    for name in ("share.wav", "clips/d.wav"):
        (tmp_path / name).write_bytes((clips / "a.wav").read_bytes())
    again = ["score", *(str(clips / name) for name in names), *FAN, "--url", server.url, option, str(out)]
    assert main(again) == 2
    assert rows() == {**before, "a.wav": "normal", "b.flac": "normal", "away.wav": "normal"}
    assert out.stat().st_mode & 0o777 == 0o640
    whole = out.read_bytes()
    assert main(again) == 2
    assert out.read_bytes() == whole


def test_an_unforeseen_error_is_not_an_anomaly(
    clips: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Python's own exit status of 1 would say so."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("service.bulk.find_jobs", fail)
    assert main(["score", str(clips), *FAN]) == 2
    assert "ZeroDivisionError" in caplog.text


def test_a_manifest_says_what_each_clip_is(clips: Path, where: list[str], tmp_path: Path) -> None:
    """Paths relative to it, columns before options; other columns and blanks do not matter; a bad row is a row."""
    (clips / "e.wav").write_bytes(wav(sound(FAN_1, 603)))
    manifest = clips / "clips.csv"
    manifest.write_text(
        "path, split,machine_type,section , domain\n"
        "a.wav,test,,,\n e.wav ,test,fan, 01,source \na.wav,test,fan,07,source\na.wav,test,fan,00,winter\ngone.wav\n"
    )
    out = tmp_path / "scores.csv"
    assert main(["score", str(manifest), "--machine-type", "fan", *where, "--csv", str(out)]) == 2
    rows = rows_of(out)
    assert [row["decision"] for row in rows] == ["normal", "normal", "", "", ""]
    assert [row["section"] for row in rows] == ["00", "01", "07", "00", "00"]
    for row, said in zip(rows[2:], ("'07'", "winter", "gone.wav"), strict=True):
        assert said in row["error"]


def test_offline_and_http_write_the_same_figures(server: Server, clips: Path, tmp_path: Path) -> None:
    """One path for both."""
    sheets = []
    for name, where in (("offline", []), ("http", ["--url", server.url])):
        out = tmp_path / f"{name}.csv"
        main(["score", str(clips), *FAN, *where, "--csv", str(out)])
        sheets.append(rows_of(out))
    for offline, http in zip(*sheets, strict=True):
        assert offline["decision"] == http["decision"]
        if offline["anomaly_score"]:
            assert float(offline["anomaly_score"]) == pytest.approx(float(http["anomaly_score"]), rel=1e-4)


def test_registrations_count_without_a_service_too(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The database is the same, and so is the score."""
    clip = tmp_path / "clip.wav"
    clip.write_bytes(wav(sound(FAN_1, 604, target=True)))
    command = ["score", str(clip), "--machine-type", "fan", "--section", "01", "--domain", "target"]
    assert main(command) == 2
    assert "no target-domain clips" in capsys.readouterr().out
    registered = server.client.post(
        "/target-samples",
        data={"machine_type": "fan", "section": "01"},
        files=[("audio", (f"{n}.wav", wav(sound(FAN_1, n, target=True)))) for n in range(3)],
    )
    assert registered.status_code == 201
    monkeypatch.setenv("EARWITNESS_DATABASE", str(server.database))
    out = {name: tmp_path / f"{name}.csv" for name in ("offline", "http")}
    offline = main([*command, "--csv", str(out["offline"])])
    http = main([*command, "--url", server.url, "--csv", str(out["http"])])
    assert offline == http
    rows = {name: rows_of(path)[0] for name, path in out.items()}
    assert rows["offline"]["target_version"] == rows["http"]["target_version"] == "1"
    assert float(rows["offline"]["anomaly_score"]) == pytest.approx(float(rows["http"]["anomaly_score"]), rel=1e-4)
    server.client.delete("/target-samples/fan/01")


def test_what_cannot_be_begun_ends_with_a_sentence(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, and nothing is written."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.csv").write_text("a,b\n1,2")
    (tmp_path / "note").write_text("one line")
    (tmp_path / "latin.csv").write_bytes("path\nFörderer.wav\n".encode("latin-1"))
    (tmp_path / "short.csv").write_text("machine_type,path\nfan\n")
    (tmp_path / "long.csv").write_text("path\n" + "a" * 200_000 + "\n")
    cases = [
        *(([str(tmp_path / f"{name}.csv"), *FAN], f"{name}.csv") for name in ("latin", "short", "long")),
        ([str(clips)], "--machine-type"),
        ([str(tmp_path / "nowhere.wav"), *FAN], "nowhere.wav"),
        ([str(tmp_path / "empty"), *FAN], "empty"),
        ([str(tmp_path / "other.csv"), *FAN], "path"),
        ([str(clips), *FAN, "--bundle", str(tmp_path / "empty")], "bundle"),
        ([str(clips), *FAN, "--url", "http://127.0.0.1:9"], "python -m service serve"),
        ([str(clips), *FAN, "--csv", str(tmp_path / "other.csv")], "other.csv"),
        ([str(clips), *FAN, "--jsonl", str(tmp_path / "other.csv")], "other.csv"),
        ([str(clips), *FAN, "--jsonl", str(tmp_path / "note")], "note"),
        ([str(clips), *FAN, "--csv", str(tmp_path)], "cannot be written"),
    ]
    for arguments, said in cases:
        assert main(["score", *arguments]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert said in error
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2"
    assert (tmp_path / "note").read_text() == "one line"


def test_scores_of_two_bundles_do_not_mix(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They cannot be compared."""
    out = tmp_path / "scores.csv"
    command = ["score", str(clips / "a.wav"), *FAN, "--csv", str(out)]
    assert main(command) == 0
    other = make_bundle(tmp_path / "other", [FAN_0], name="other")
    assert main([*command, "--bundle", str(other.folder)]) == 2
    assert "cannot be compared" in capsys.readouterr().err
