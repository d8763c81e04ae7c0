"""Bodies that nobody meant: thousands of damaged clips and forms, and whatever the OpenAPI document allows or forbids.

No answer is a 500, none takes longer than its deadline, the service stays ready, and its memory stays flat.
"""

import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.bundles import FAN_0, sound, wav
from tests.service.damage import FIELDS, Body, damaged, fingerprint, whole
from tests.service.memory import resident_mib
from tests.service.servers import REPOSITORY, Server

DEADLINE_S = 20.0
_CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "unsupported_method",
    "allow_header_conformance",
)


def test_the_corpus_is_always_the_same_and_damaged() -> None:
    """Another process, a second later, makes the same bodies, so a case that fails is found again."""
    first = list(damaged(60))
    assert len({body for _, body in first} - {body for _, body in whole()}) > 54
    assert len({content_type for content_type, _ in first}) == 4
    time.sleep(1.0)  # containers may hold the time of day
    program = "from tests.service.damage import damaged, fingerprint; print(fingerprint(damaged(60)))"
    again = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert again.stdout.strip() == fingerprint(first)


@pytest.mark.alone
def test_damaged_bodies(bundle_folder: Path, tmp_path: Path, soak: bool) -> None:
    """Each is answered in time with a score or a problem of its own; memory after all is as after a tenth of them."""
    count = 20_000 if soak else 2_000
    with Server(bundle_folder, tmp_path / "db", tmp_path / "log", request_timeout_s=DEADLINE_S) as server:
        assert server.process is not None
        process = server.process.pid

        def send(case: Body) -> tuple[int, float]:
            content_type, body = case
            query = {} if content_type.startswith("multipart/") else FIELDS
            begun = time.monotonic()
            answer = server.client.post("/score", params=query, content=body, headers={"Content-Type": content_type})
            if answer.status_code != 200:
                assert answer.json()["type"].startswith("urn:earwitness:problem:")
            return answer.status_code, time.monotonic() - begun

        begun = time.monotonic()
        assert {send(case)[0] for case in whole()} == {200}
        corpus, results = damaged(count), list[tuple[int, float]]()
        with ThreadPoolExecutor(4) as pool:
            tenth = count // 10
            results += pool.map(send, itertools.islice(corpus, tenth))
            before = resident_mib(process)
            while cases := list(itertools.islice(corpus, tenth)):  # a map over all would hold all
                results += pool.map(send, cases)
        after = resident_mib(process)
        taken_s = time.monotonic() - begun
        assert server.client.get("/readyz").status_code == 200
        assert "Traceback" not in server.log.read_text()
    statuses = Counter(status for status, _ in results)
    longest_s = max(seconds for _, seconds in results)
    print(f"{len(results)} in {taken_s:.0f} s: {dict(statuses)}; the longest took {longest_s:.2f} s")
    print(f"{before:.0f} MiB after the first {tenth}, {after:.0f} MiB after all")
    assert len(results) == count
    assert {200, 400, 415, 422} <= set(statuses) <= {200, 400, 413, 415, 422}
    assert longest_s < DEADLINE_S + 5.0
    assert after - before < 25.0


def test_what_the_document_says(bundle_folder: Path, tmp_path: Path, soak: bool) -> None:
    """Schemathesis' requests to every operation: no 500, no status, type or body that the document lacks."""
    clips = [("audio", wav(sound(FAN_0, seed, seconds=2.0, target=True))) for seed in range(960, 963)]
    with Server(bundle_folder, tmp_path / "db", tmp_path / "log") as server:
        names = {"machine_type": "fan", "section": "00"}
        assert server.client.post("/target-samples", data=names, files=clips).status_code == 201
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIGURATION)),
                *("run", f"{server.url}/openapi.json", "--no-color"),
                *("--phases", "examples,coverage,fuzzing", "--max-examples", "200" if soak else "10"),
                *("--generation-deterministic", "--no-shrink", "--checks", ",".join(CHECKS)),
                *("--request-timeout", "60"),
            ],
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "SCHEMATHESIS_HOOKS": "tests.service.plausible"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3600 if soak else 300,
        )
        print(run.stdout)
        assert server.client.get("/readyz").status_code == 200
        metrics = server.client.get("/metrics").text
        assert "Traceback" not in server.log.read_text()
    assert run.returncode == 0, run.stdout
    answered = {
        (sample.labels["route"], sample.labels["outcome"]): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "earwitness_requests_total"
    }
    print({key: int(count) for key, count in answered.items() if count})
    accepted = {route for (route, outcome), count in answered.items() if outcome == "ok" and count}
    assert accepted >= {route for route, _ in answered} - {"/bundle/reload", "/bundle/rollback"}, "only one bundle"
