"""The dashboards as Grafana and Prometheus read them: typed, and every query answered over a live service."""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.access import Access, KeyFile, Scope
from tests.containers.checkers import DOCKER, ROOT, installed, run
from tests.service.bundles import FAN_0, FAN_1, make_bundle, sound, wav
from tests.service.servers import PATIENCE_S, Server, free_port

DASHBOARDS = {path.stem: path for path in sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))}
_WRITTEN = """import type { Dashboard } from '@grafana/schema';
// enumerations as JSON writes them: by their values
type Written<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Written<T[K]> } : T;
export const dashboard: Written<Dashboard> = """


def panels(name: str) -> list[dict[str, Any]]:
    """The panels of a dashboard."""
    found: list[dict[str, Any]] = json.loads(DASHBOARDS[name].read_text())["panels"]
    return found


def queries() -> list[str]:
    """Every query of every panel, and of every variable, with the variables at All."""
    found = [target["expr"] for name in DASHBOARDS for panel in panels(name) for target in panel["targets"]]
    for path in DASHBOARDS.values():
        for variable in json.loads(path.read_text())["templating"]["list"]:
            chosen = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert chosen is not None
            found.append(f"count by ({chosen[2]}) ({chosen[1]})")
    filled = [query.replace("$__rate_interval", "1m") for query in found]
    return [re.sub(r'"\$(machine_type|section|instance)"', '".*"', query) for query in filled]


def test_the_types_are_those_of_the_grafana_that_is_served(tmp_path: Path) -> None:
    """The JSON is an object of @grafana/schema's Dashboard: of the very version that docker-compose.yml names."""
    npm = installed("npm", "npm")
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]["image"]
    version = image.rsplit(":", 1)[1]
    for name, path in DASHBOARDS.items():
        (tmp_path / f"{name}.ts").write_text(_WRITTEN + path.read_text())
    run(npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", ".", f"@grafana/schema@{version}",
        "typescript@5.9.3", folder=tmp_path)  # fmt: skip
    options = ("--strict", "--noEmit", "--skipLibCheck", "--module", "nodenext")
    run(Path("node_modules/.bin/tsc"), *options, *(f"{name}.ts" for name in DASHBOARDS), folder=tmp_path)


def test_panels_are_laid_out_side_by_side() -> None:
    """Numbered, 24 columns wide, none over another, each with a title and the provisioned data source."""
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert sorted(DASHBOARDS) == ["fleet", "service"]
    for name in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for place, panel in enumerate(panels(name), 1):
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert panel["id"] == place
            assert panel["title"]
            assert max(x for x, _ in cells) < 24
            assert not cells & taken, panel["title"]
            taken |= cells
            uids = {one["datasource"]["uid"] for one in (panel, *panel["targets"])}
            assert uids == {source["uid"]}


def test_rules_and_dashboards_name_metrics_that_the_readme_knows() -> None:
    """A misspelt name would be an alert that never fires."""
    files = [*DASHBOARDS.values(), *(DOCKER / "prometheus" / "rules").glob("*.yml")]
    named = {
        name for path in files for name in re.findall(r"(?<![\w:])earwitness_[a-z0-9_]+(?![\w:])", path.read_text())
    }
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    known = set(re.findall(r"^\| `(earwitness_\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named <= known


class Prometheus:
    """A Prometheus over the project's configuration and rules, which scrapes by the key in the file `metrics_key`.

    It is in a hurry: no alert waits, rules are evaluated each second, and a fifth of one is a minute to be heard in.
    """

    def __init__(self, folder: Path, target: str) -> None:
        configuration = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
        rules = folder / "rules"
        rules.mkdir()
        for path in (DOCKER / "prometheus" / "rules").glob("*.yml"):
            hurried = re.sub(r"^( +)(for|keep_firing_for): .*\n", "", path.read_text(), flags=re.MULTILINE)
            hurried = hurried.replace("[1h:1m]", "[1h:200ms]").replace("[1d:1h]", "[1d:200ms]")
            (rules / path.name).write_text(hurried.replace("interval: 1m", "interval: 1s"))
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration["rule_files"] = [f"{rules}/*.yml"]
        del configuration["alerting"]
        (job,) = configuration["scrape_configs"]
        self.metrics_key = folder / "metrics-key"
        self.metrics_key.write_bytes((DOCKER / "secrets" / "metrics-key").read_bytes())
        job["authorization"]["credentials_file"] = str(self.metrics_key)
        job["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        address = f"127.0.0.1:{free_port()}"
        self.client = httpx.Client(base_url=f"http://{address}", timeout=PATIENCE_S, trust_env=False)
        options = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", *options, f"--web.listen-address={address}"], stdout=log, stderr=subprocess.STDOUT
            )

    def close(self) -> None:
        """End it."""
        self.client.close()
        self.process.terminate()
        self.process.wait(PATIENCE_S)

    def series(self, query: str) -> int:
        """How many series with a number a query gives; what is not a number shows an empty panel."""
        answer = self.client.get("/api/v1/query", params={"query": query})
        assert answer.status_code == 200, f"{query}: {answer.text}"
        return sum(one["value"][1] != "NaN" for one in answer.json()["data"]["result"])

    def unanswered(self, wanted: list[str], patience_s: float) -> list[str]:
        """The queries that still have no data after a while."""
        until = time.monotonic() + patience_s
        while wanted and time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):  # not up yet
                wanted = [query for query in wanted if not self.series(query)]
            time.sleep(0.5)
        return wanted


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Prometheus]]:
    """A service that hoped for a GPU and answers to keys alone, and a Prometheus that scrapes it by its own."""
    installed("prometheus", "prometheus")
    folder = tmp_path_factory.mktemp("watched")
    bundle = make_bundle(folder / "bundle")
    assert bundle.folder is not None
    keys = KeyFile(folder / "keys.json")
    metrics_key = keys.create("prometheus", [Scope.METRICS])
    settings = {"device": "auto", "access": Access.KEYS, "keys": folder / "keys.json"}
    with Server(bundle.folder, folder / "targets.db", folder / "service.log", **settings) as server:
        server.client.headers["Authorization"] = f"Bearer {keys.create('recorder', [Scope.SCORE, Scope.REGISTER])}"
        prometheus = Prometheus(folder, f"127.0.0.1:{server.port}")
        try:
            assert prometheus.unanswered(['up{job="earwitness"} == 0'], PATIENCE_S) == [], "the placeholder is no key"
            prometheus.metrics_key.write_text(metrics_key)
            yield server, prometheus
        finally:
            prometheus.close()


def test_prometheus_scrapes_by_a_key_of_its_own(watched: tuple[Server, Prometheus]) -> None:
    """With one of the scope metrics in its file; not with that of a recorder, which is told so."""
    server, prometheus = watched
    assert prometheus.unanswered(['up{job="earwitness"} == 1'], PATIENCE_S) == []
    assert server.client.get("/metrics").status_code == 403


def test_every_query_returns_numbers(watched: tuple[Server, Prometheus]) -> None:
    """After a day's number of clips, one of them quiet, and a registration."""
    server, prometheus = watched
    assert prometheus.unanswered(['earwitness_decisions_total{machine_type="fan"} == 0'], PATIENCE_S) == []
    time.sleep(2)  # a second look at the zeros: what they become is then an increase

    def score(audio: bytes, section: str, domain: str = "source") -> None:
        where = {"machine_type": "fan", "section": section, "domain": domain}
        answer = server.client.post("/score", params=where, content=audio, headers={"Content-Type": "audio/wav"})
        assert answer.status_code == 200

    fault = wav(sound(FAN_0, 1, fault=True))
    for _ in range(110):
        score(fault, "00")
    clips = [("audio", (f"{n}.wav", wav(sound(FAN_1, n, target=True)))) for n in range(3)]
    registered = server.client.post("/target-samples", data={"machine_type": "fan", "section": "01"}, files=clips)
    assert registered.status_code == 201
    score(wav(0.001 * sound(FAN_1, 9)), "01")

    wanted = queries()
    assert len(wanted) > 30
    assert prometheus.unanswered(wanted, PATIENCE_S) == []
