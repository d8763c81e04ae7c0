"""The files under docker/ in the hands of the programs that read them, without an engine."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.containers.checkers import DOCKER, ROOT, installed, run
from tests.service.servers import PATIENCE_S, free_port

RULES = sorted((DOCKER / "prometheus" / "rules").glob("*.yml"))
COMPOSE = (ROOT / "docker-compose.yml", DOCKER / "gpu.yml", DOCKER / "postgres.yml")
README = (ROOT / "README.md").read_text()


def services() -> dict[str, dict[str, Any]]:
    """Every service of the three compose files, by file and name."""
    return {
        f"{path.name} {name}": service
        for path in COMPOSE
        for name, service in yaml.safe_load(path.read_text())["services"].items()
    }


def alerts() -> list[dict[str, Any]]:
    """Every alert rule."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_the_dockerfile() -> None:
    """hadolint finds nothing."""
    run(Path(sys.executable).with_name("hadolint"), DOCKER / "Dockerfile")


def test_the_compose_files() -> None:
    """They follow the Compose specification."""
    run(Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *COMPOSE)


def test_nothing_is_published_beyond_loopback_and_everything_is_confined() -> None:
    """Ports on 127.0.0.1, tags that name a version, a read-only root, no capabilities but those named, limits."""
    for name, service in services().items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if "gpu.yml" in name:
            continue  # it adds to what the first file confines
        if name == "postgres.yml service":
            continue
        assert re.search(r":v?\d+\.\d+|:\$\{EARWITNESS_TAG", service["image"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        limits = service["deploy"]["resources"]["limits"]
        assert limits["pids"] > 0, name
        assert limits["memory"], name


def test_no_secret_stands_in_a_file() -> None:
    """What is secret is a file of the secrets folder; the committed ones say that they are none."""
    for path in COMPOSE:
        assert not re.search(r"(PASSWORD|TOKEN|KEY)\w*: +(?!/run/secrets/)\S", path.read_text()), path
    assert {path.read_text() for path in (DOCKER / "secrets").iterdir()} == {"placeholder"}


def test_prometheus() -> None:
    """Configuration and rules are valid, and the rules say of a bad hour what they should."""
    promtool = installed("promtool", "prometheus")
    run(promtool, "check", "config", "--syntax-only", DOCKER / "prometheus" / "prometheus.yml")
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    run(promtool, "test", "rules", *sorted((DOCKER / "prometheus" / "tests").glob("*.yml")))


def test_alertmanager() -> None:
    """The configuration is valid, and a machine's alarms come together."""
    amtool = installed("amtool", "prometheus-alertmanager")
    configuration = DOCKER / "alertmanager" / "alertmanager.yml"
    run(amtool, "check-config", configuration)
    route = yaml.safe_load(configuration.read_text())["route"]
    assert route["group_by"] == ["machine_type", "section"]
    assert "routes" not in route


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[httpx.Client]:
    """An Alertmanager over the project's configuration."""
    program = installed("prometheus-alertmanager", "prometheus-alertmanager")
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={DOCKER}/alertmanager/alertmanager.yml", f"--storage.path={tmp_path}/data"]
    options += [f"--web.listen-address={address}", "--cluster.listen-address="]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, *options], stdout=log, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://{address}/api/v2", timeout=PATIENCE_S, trust_env=False) as client:
            until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    client.get("/status")
                    break
                except httpx.TransportError:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    assert time.monotonic() < until, (tmp_path / "log").read_text()
                    time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_an_alert_that_another_explains_is_not_told(alertmanager: httpx.Client) -> None:
    """By an instance that is down what is said of that instance, by the last one machines not heard, and no more.

    The labels are those that the rules give (`docker/prometheus/tests`, `test_alerts.py`).
    """

    def left_of(alerts: tuple[dict[str, str], ...]) -> list[dict[str, str]]:
        known = alertmanager.get("/alerts").json()
        left = [one["labels"] for one in known if not one["status"]["inhibitedBy"]]
        return [labels for labels in alerts if labels in left]

    def check(*alerts: dict[str, str], told: list[dict[str, str]]) -> None:
        """Those that are left of alerts that fire together, once the inhibitor has heard of them and of the last end.

        It hears of both after the answer to whoever posts them.
        """
        assert alertmanager.post("/alerts", json=[{"labels": labels} for labels in alerts]).status_code == 200
        until = time.monotonic() + PATIENCE_S
        while (left := left_of(alerts)) != told and time.monotonic() < until:
            time.sleep(0.05)
        assert left == told
        ended = [{"labels": labels, "endsAt": "2020-01-01T00:00:00Z"} for labels in alerts]
        assert alertmanager.post("/alerts", json=ended).status_code == 200

    fan = {"machine_type": "fan", "section": "00"}
    down = {"alertname": "EarwitnessDown", "instance": "a", "job": "earwitness"}
    none_answers = {"alertname": "EarwitnessDown"}
    errors = {"alertname": "EarwitnessErrors", "instance": "a"}
    slow_elsewhere = {"alertname": "EarwitnessSlow", "instance": "b"}
    not_heard = {"alertname": "MachineNotHeard", **fan}
    never_heard = {"alertname": "MachineNeverHeard", **fan, "section": "01"}
    wrong = {"alertname": "MachineSoundsWrong", **fan, "domain": "source"}
    drifts = {"alertname": "MachineDrifts", **fan, "domain": "source"}
    drifts_in_target = {**drifts, "domain": "target"}
    check(down, errors, slow_elsewhere, not_heard, told=[down, slow_elsewhere, not_heard])
    check(down, none_answers, errors, not_heard, never_heard, told=[down, none_answers])
    check(wrong, drifts, drifts_in_target, not_heard, told=[wrong, drifts_in_target, not_heard])
    check(drifts, errors, never_heard, told=[drifts, errors, never_heard])


def test_each_alert_has_its_line_in_the_readme() -> None:
    """The heading that the runbook link names, with a line of help; and no heading without an alert."""
    part = README.split("### Alerts\n", 1)[1].split("\n### ", 1)[0]
    headings = dict(re.findall(r"^#### (\w+)\n\n(.+)$", part, re.MULTILINE))
    assert sorted(headings) == sorted(alert["alert"] for alert in alerts())
    for alert in alerts():
        assert alert["annotations"]["runbook_url"] == f"README.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in {"info", "warning", "critical"}
