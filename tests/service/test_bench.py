"""The bench: both ways give the same scores, the client keeps its rate, and a run prints what it promises."""

import asyncio
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from models.detector import Detector
from models.encoder import Device
from models.mixtures import Mixture
from service.bench.http import Client, Load, arrivals_s
from service.bench.report import spread
from service.bench.ways import Naive, Ours, reference, weighted
from service.bench.workload import ATTRIBUTES, KEY, made_clips, pace, write_made_bundle
from service.settings import DEMONSTRATION
from tests.service.servers import PATIENCE_S, REPOSITORY, Server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "bundle"
    write_made_bundle(folder, DEMONSTRATION, members=3, clips=60)
    return folder


def test_the_made_bundle_is_one_that_serves(made: Path) -> None:
    """Its members are as many as asked for, and it reproduces its canary."""
    detector = Detector.load(made, device=Device.CPU, threads=1)
    assert len(detector.members_of(KEY.machine_type)) == 3
    assert detector.bundle.manifest.machine_types[KEY.machine_type].sections[KEY.section].attributes == ATTRIBUTES
    detector.check_canary()
    detector.close()


def test_both_ways_give_the_same_scores(made: Path) -> None:
    """librosa, sessions with defaults and scikit-learn in float64 against what is served, to 1e-4 of a score.

    Not to 1e-3 nats a mixture: the mixtures' 1 / reg makes the rounding of two front ends a thousand times larger.
    """
    ours, naive = Ours(made, 2), Naive(made)
    clips = made_clips(3)
    found, parts = ours.run(clips)
    expected, _ = naive.run(clips)
    ours.close()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert len(set(found.round(3))) == 3
    assert set(parts) == {"decode", "features", "encode", "score"}


def test_the_reference_is_the_mixture_by_scikit_learn(made: Path) -> None:
    """On the same embeddings, to 1e-3 nats: the target of the mixtures."""
    detector = Detector.load(made, device=Device.CPU, threads=1)
    member = detector.bundle.sections[KEY].members[2]  # type: ignore[union-attr]
    assert isinstance(member.section, Mixture)
    x = np.random.default_rng(5).standard_normal((40, 128))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected = weighted(reference(member.section), x.astype(np.float32).astype(np.float64))
    found = member.section.weighted_log_likelihoods(x.astype(np.float32)).max(axis=1)
    detector.close()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_arrivals_keep_their_rate() -> None:
    """As many as the rate says; even ones at even distances, Poisson ones with an exponential's spread."""
    assert arrivals_s("fixed", 4.0, 2.0) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    intervals = np.diff([0.0, *arrivals_s("poisson", 50.0, 100.0)])
    assert len(intervals) == 5000
    assert abs(intervals.mean() * 50.0 - 1.0) < 0.05
    assert abs(intervals.std() * 50.0 - 1.0) < 0.08


def test_a_spread_is_a_median_with_quartiles() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == "3.0 (2.0-4.0)"


def bench(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "service", "bench", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_prints_parts_ratios_shares_and_memory(made: Path) -> None:
    """All of what the command promises, from processes that take turns."""
    words = bench("--bundle", str(made), "--rounds", "1", "--batches", "1", "2")
    for promised in (
        "naive, defaults / ours",
        "naive, one BLAS thread / ours",
        "encoder at batch  2",
        "through the queue, alone",
        "through the queue: ",
        "% of the direct way at batch 2",
        "mixtures of one clip",
        "memory of naive, defaults",
    ):
        assert promised in words, words


def test_a_service_takes_turns_with_its_encoder(made: Path) -> None:
    """All that a service bears over HTTP, from one command that starts it."""
    words = bench("--bundle", str(made), "--serve", "--rounds", "1", "--seconds", "0.5")
    for promised in (
        "saturated: ",
        "% of the encoder alone at batch 8",
        "half load, fixed",
        "half load, poisson",
        "twice the capacity, 5000 ms: 200 x ",
        "memory after each round",
    ):
        assert promised in words, words


@pytest.mark.alone
def test_a_pace_is_that_of_the_middle() -> None:
    """Of callers that wait a fixed time each, whatever the first and the last of them do."""

    async def score(place: int) -> None:
        await asyncio.sleep(2.0 if place < 4 else 0.1)

    rate = asyncio.run(pace(score, 40, 4))
    assert 16.0 < rate < 42.0  # with the first ones 13


def test_a_connection_that_the_server_gave_up_is_no_error() -> None:
    """Whoever sends a clip now and then has a new one; one that is kept is used again."""
    ports: list[int] = []
    given_up = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            ports.append(self.client_address[1])
            self.close_connection = len(ports) == 2  # and the answer does not say so
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    class Giving(ThreadingHTTPServer):
        def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
            super().shutdown_request(request)
            given_up.set()

    async def drive(url: str) -> list[Load]:
        async with Client(url, "fan", "00") as client:  # which sends the first clip
            second = await client.at([0.0])
            assert await asyncio.to_thread(given_up.wait, PATIENCE_S)
            return [second, await client.at([0.0])]

    with Giving(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            loads = asyncio.run(drive(f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()
            thread.join()
    assert [len(load.latencies_s) for load in loads] == [1, 1]
    assert not any(load.others for load in loads)
    assert ports[0] == ports[1] != ports[2]


def test_a_server_is_driven(bundle_folder: Path, tmp_path: Path) -> None:
    """Throughput, latencies, errors and the client's own CPU; a server that lacks the machine is told at once."""
    with Server(bundle_folder, tmp_path / "db", tmp_path / "log") as server:
        words = bench(
            *("--http", server.url, "--machine-type", "fan", "--rate", "20", "--seconds", "1", "--arrivals", "poisson")
        )
        refused = subprocess.run(
            [sys.executable, "-m", "service", "bench", "--http", server.url, "--machine-type", "lathe"],
            check=False,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
        )
    assert "20 requests in" in words
    assert "errors: none" in words
    assert "p99" in words
    assert "of CPU" in words
    assert refused.returncode == 2
    assert "404" in refused.stderr
