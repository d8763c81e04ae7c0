"""What the service tells machines: log lines, traces, and shares of anomalous clips that are an alarm."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.alarms import alarm_share
from service.logs import LogFormat, configure, formatter
from tests.service.bundles import FAN_0, sound, wav
from tests.service.collectors import Collector
from tests.service.servers import PATIENCE_S, REPOSITORY, Server

FIELDS = {"machine_type": "fan", "section": "00", "domain": "source"}


@pytest.mark.parametrize(
    ("clips", "hour", "day"),
    [(10, 0.914, 0.605), (30, 0.849, 0.473), (70, 0.800, 0.399), (145, 0.760, 0.347), (300, 0.737, 0.321)],
)
def test_the_share_that_is_an_alarm_follows_the_number_of_clips(clips: int, hour: float, day: float) -> None:
    """The table of the simulation that the rule comes from."""
    assert alarm_share(clips, 0.1, "1h") == pytest.approx(hour, abs=6e-4)
    assert alarm_share(clips, 0.1, "24h") == pytest.approx(day, abs=6e-4)


def test_the_share_is_one_where_hardly_a_clip_stands_behind_the_threshold() -> None:
    """Never above it, and never undefined; a stricter rate asks for a smaller share."""
    for clips in range(1, 40):
        for rate in (0.001, 0.01, 0.1, 0.3):
            for window in ("1h", "24h"):
                assert 0.0 < alarm_share(clips, rate, window) <= 1.0
    assert alarm_share(300, 0.02, "24h") < alarm_share(300, 0.1, "24h")


def test_metrics_pass_the_lint_of_prometheus(server: Server) -> None:
    """`promtool check metrics`, after a clip."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    clip = {"audio": ("c.wav", wav(sound(FAN_0, 900)))}
    assert server.client.post("/score", data=FIELDS, files=clip).status_code == 200
    metrics = server.client.get("/metrics")
    assert 'earwitness_alarm_share{domain="source",machine_type="fan",section="00",window="1h"}' in metrics.text
    done = subprocess.run([promtool, "check", "metrics"], input=metrics.content, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def line_of(log_format: LogFormat, message: str, *arguments: object, **options: Any) -> str:
    """What a message is in the log, logged during a request."""
    record = logging.getLogger("service.test").makeRecord(
        "service.test", logging.INFO, __file__, 1, message, arguments, options.pop("exc_info", None), None, options
    )
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        return formatter(log_format).format(record)


def test_a_line_is_an_object_with_the_request_id() -> None:
    """On one line whatever is in it, an exception's trace too."""
    told = json.loads(line_of(LogFormat.JSON, "took %d ms\nand more", 3, status=200, path=Path("/x")))
    assert told["event"] == "took 3 ms\nand more"
    assert (told["request_id"], told["status"], told["path"]) == ("r-1", 200, "/x")
    assert (told["level"], told["logger"]) == ("info", "service.test")
    assert told["timestamp"].endswith("Z")
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        line = line_of(LogFormat.JSON, "failed", exc_info=sys.exc_info())
    assert "\n" not in line
    assert "ZeroDivisionError: " in json.loads(line)["exception"]


def test_text_is_for_people() -> None:
    """Without colours, which a file would keep."""
    line = line_of(LogFormat.TEXT, "took %d ms", 3, status=200)
    assert "took 3 ms" in line
    assert "request_id=r-1" in line
    assert "\x1b" not in line


def test_the_service_logs_its_requests(server: Server) -> None:
    """Each line is JSON; a score's has its route, status and time, and those who watch are left out."""
    request_id = "logged-4711"
    assert server.client.get("/sections", headers={"X-Request-Id": request_id}).status_code == 200
    for _ in range(2):  # a line is written once its answer is out, and before the next request is served
        server.client.get("/livez", headers={"X-Request-Id": "watching-4711"})
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (told,) = (line for line in lines if line.get("request_id") == request_id)
    assert (told["method"], told["route"], told["status"]) == ("GET", "/sections", 200)
    assert 0.0 < told["seconds"] < PATIENCE_S
    assert not any(line.get("request_id") == "watching-4711" for line in lines)


def test_traces_are_sent_where_they_are_asked_for(collector: Collector, bundle_folder: Path, tmp_path: Path) -> None:
    """A span a request within the caller's trace, one for each stage in it; none for health and metrics."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "X-Request-Id": "traced"}
    with Server(bundle_folder, tmp_path / "db", tmp_path / "log", traces_endpoint=collector.endpoint) as server:
        clip = {"audio": ("c.wav", wav(sound(FAN_0, 901)))}
        assert server.client.post("/score", data=FIELDS, files=clip, headers=headers).status_code == 200
        server.client.get("/metrics")
        assert server.client.get("/nowhere").status_code == 404
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"POST /score", "hear", "rate", "assess", "GET"}
    score = spans["POST /score"]
    assert score.trace_id.hex() == trace
    assert score.parent_span_id.hex() == "b7ad6b7169203331"
    facts = {one.key: one.value.string_value or one.value.int_value for one in score.attributes}
    assert facts["http.response.status_code"] == 200
    assert facts["http.route"] == "/score"
    assert facts["earwitness.request_id"] == "traced"
    for name in ("hear", "rate", "assess"):
        assert spans[name].parent_span_id == score.span_id
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert any(line.get("request_id") == "traced" and line.get("trace_id") == trace for line in lines)


def test_nothing_of_tracing_is_imported_without_it() -> None:
    """Of its own: the framework brings OpenTelemetry's interfaces, but neither its SDK nor its exporter."""
    code = (
        "import sys; from service.app import create_app; create_app();"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_a_log_that_is_no_terminal_is_json(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """By default; the format that is asked for otherwise."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    for log_format, begins in ((None, "{"), (LogFormat.TEXT, "20"), (LogFormat.JSON, "{")):
        root.handlers.clear()
        configure("info", log_format)
        logging.getLogger("service.test").info("hello")
        assert capfd.readouterr().err.startswith(begins)
