"""The files under docker/ in the hands of the programs that read them, without an engine."""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.containers.checkers import DOCKER, ROOT, installed, run

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
        assert service["deploy"]["resources"]["limits"]["pids"] > 0, name


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


def test_each_alert_has_its_line_in_the_readme() -> None:
    """The heading that the runbook link names, with a line of help; and no heading without an alert."""
    part = README.split("### Alerts\n", 1)[1].split("\n### ", 1)[0]
    headings = dict(re.findall(r"^#### (\w+)\n\n(.+)$", part, re.MULTILINE))
    assert sorted(headings) == sorted(alert["alert"] for alert in alerts())
    for alert in alerts():
        assert alert["annotations"]["runbook_url"] == f"README.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in {"info", "warning", "critical"}
