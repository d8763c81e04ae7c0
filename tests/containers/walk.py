"""What `docker compose up` promises, step by step, on a real engine with the real files: `make test-containers`.

A plain program, so that it needs nothing but Python and `docker`: it ends with 0 when every step held. The alert it
provokes is the GPU that is asked for and not there: the service runs with device auto, falls back, and says so.

Under stand-in images (``EARWITNESS_STAND_INS``, set by ``tests/containers/run``) nothing is pulled and Grafana is left
out; its files are checked by ``tests/containers/test_dashboards.py``.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT / "models" / "bundles" / "demonstration-clips"
STAND_INS = bool(os.environ.get("EARWITNESS_STAND_INS"))
PATIENCE_S = 240.0
"""How long a machine that has much else to do may take over anything."""
PUMP = "machine_type=pump&section=00&domain="
Found = TypeVar("Found")
_begun = time.monotonic()


def free_port() -> str:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


PORTS = {name: free_port() for name in ("EARWITNESS", "PROMETHEUS", "ALERTMANAGER", "GRAFANA")}
SERVICE, PROMETHEUS, ALERTMANAGER = (f"http://127.0.0.1:{port}" for port in list(PORTS.values())[:3])
IMAGE = "earwitness-service:walk"
# What this shell has set for an Earwitness of its own is left out, as `--env-file` leaves out what .env has; a project
# and a tag of the walk's own touch none that runs on this machine already.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not re.match(r"EARWITNESS_|COMPOSE_|RECORDINGS$", name)},
    **{f"{name}_PUBLISHED_PORT": port for name, port in PORTS.items()},
    "COMPOSE_PROJECT_NAME": "earwitness-walk",
    "EARWITNESS_TAG": "walk",
    "EARWITNESS_DEVICE": "auto",
    **({"DOCKER_BUILDKIT": "0"} if STAND_INS else {}),
}


def say(sentence: str) -> None:
    """Print what has been shown, and when."""
    print(f"{time.monotonic() - _begun:5.0f} s  {sentence}")


def run(*command: str, status: int = 0, **environment: str) -> str:
    """What a command prints; an error with all of it for another exit status."""
    result = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT | environment, text=True, capture_output=True, check=False
    )
    words = result.stdout + result.stderr
    assert result.returncode == status, f"{' '.join(command)} ended with {result.returncode}:\n{words}"
    return words if status else result.stdout


def compose(*arguments: str, files: tuple[str, ...] = (), status: int = 0, **environment: str) -> str:
    """What `docker compose` prints, of the project's file and those that override it."""
    chosen = [word for file in ("docker-compose.yml", *files) for word in ("-f", file)]
    return run("docker", "compose", "--env-file", os.devnull, *chosen, *arguments, status=status, **environment)


def ask(url: str, body: bytes | None = None, content_type: str = "audio/wav") -> Any:
    """The JSON answer to a GET, or to a POST of ``body``."""
    headers = {} if body is None else {"Content-Type": content_type}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
        return json.load(answer)


def wait_for(what: str, look: Callable[[], Found | None]) -> Found:
    """What ``look`` finds, once it finds something."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            if found := look():
                return found
            seen: object = "nothing"
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            seen = error
        assert time.monotonic() < until, f"{what}: not within {PATIENCE_S:g} s, last seen: {seen}"
        time.sleep(1)


def query(expression: str) -> float | None:
    """The value of a query of one series; None where there is none yet."""
    answer = ask(f"{PROMETHEUS}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
    found = answer["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def form(fields: dict[str, str], clips: list[Path]) -> tuple[bytes, str]:
    """A multipart body with its content type."""
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    parts += [f'name="audio"; filename="{clip.name}"\r\n\r\n'.encode() + clip.read_bytes() for clip in clips]
    between = b"--boundary\r\nContent-Disposition: form-data; "
    return between + (b"\r\n" + between).join(parts) + b"\r\n--boundary--\r\n", "multipart/form-data; boundary=boundary"


def container(service: str) -> str:
    """The id of the container that runs a service."""
    return compose("ps", "-aq", service).strip()


def starts() -> None:
    """Built, up, ready; nobody but its own user, and nothing but its volumes to write to."""
    compose("build", "service")
    size = int(run("docker", "image", "inspect", "--format", "{{.Size}}", IMAGE))
    say(f"the image of the service is built: {size / 1e6:.0f} MB with its base")
    assert size < 700e6
    services = ["service", "prometheus", "alertmanager", "webhook"] + ([] if STAND_INS else ["grafana"])
    pull = ["--pull", "never"] if STAND_INS else []
    begun = time.monotonic()
    compose("up", "-d", "--wait", *pull, *services, files=("tests/containers/webhook.yml",))
    say(f"up and healthy after {time.monotonic() - begun:.0f} s: {', '.join(services)}")
    ready = wait_for("ready", lambda: ask(f"{SERVICE}/readyz"))
    assert (ready["device"]["requested"], ready["device"]["running"]) == ("auto", "cpu"), ready
    inside = compose(
        "exec", "-T", "service", "python", "-c", "import os; print(os.getuid(), os.access('/work', os.W_OK))"
    )
    assert inside.split() == ["10001", "False"], inside  # /work is its own, but for the read-only root
    memory = run("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", container("service"))
    say(f"ready, {memory.split(' / ')[0]} of memory, as user 10001 on a read-only root")


def scores() -> None:
    """The README's clips, and three of the target domain that outlive their container."""
    for clip, decision in (("normal", "normal"), ("faulty", "anomalous")):
        answer = ask(f"{SERVICE}/score?{PUMP}source", (CLIPS / f"{clip}.wav").read_bytes())
        assert answer["decision"] == decision, answer
    body, content_type = form({"machine_type": "pump", "section": "00"}, sorted(CLIPS.glob("target-?.wav")))
    registered = ask(f"{SERVICE}/target-samples", body, content_type)
    assert (registered["version"], len(registered["samples"])) == (1, 3), registered
    kept = compose("exec", "-T", "service", "python", "-c", "print(open('/data/audit.jsonl').read())")
    line = json.loads(kept.split("\n")[0])
    assert (line["route"], line["outcome"]) == ("/target-samples", "changed"), line
    say("clips are scored, three target clips registered, which the audit log on the volume tells")


def knows_its_names() -> None:
    """A page whose own name was let point at the published port changes nothing."""
    rebound = {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}
    said = "an answer"
    try:
        urllib.request.urlopen(urllib.request.Request(f"{SERVICE}/bundle/rollback", b"", rebound), timeout=60)
    except urllib.error.HTTPError as refused:
        said = json.load(refused)["type"]
    assert said == "urn:earwitness:problem:foreign-host", said
    say("and the published port answers to no name of others")


def survives() -> None:
    """Another container finds the registration and scores by it."""
    before = container("service")
    compose("up", "-d", "--no-build", "--no-deps", "--force-recreate", "service")
    assert container("service") != before
    begun = time.monotonic()
    wait_for("ready again", lambda: ask(f"{SERVICE}/readyz"))
    seconds = time.monotonic() - begun
    answer = ask(f"{SERVICE}/score?{PUMP}target", (CLIPS / "target-faulty.wav").read_bytes())
    assert (answer["decision"], answer["target_version"]) == ("anomalous", 1), answer
    say(f"the container is replaced, ready after {seconds:.0f} s, the registration still there")


def is_watched() -> None:
    """Metrics come to Prometheus, and the alarm through Alertmanager to the webhook, with its credential."""
    pump = 'machine_type="pump",section="00",domain="source"'
    assert wait_for("decisions", lambda: query(f'earwitness_decisions_total{{{pump},decision="anomalous"}}')) == 1
    say("metrics are in Prometheus")
    wait_for("a firing alert", lambda: query('ALERTS{alertname="EarwitnessOnCpu",alertstate="firing"}'))
    say("the alert EarwitnessOnCpu fires")
    files = ("tests/containers/webhook.yml",)
    lines = wait_for("a notification", lambda: compose("logs", "--no-log-prefix", "webhook", files=files).splitlines())
    notification = json.loads(lines[0])
    assert notification["alerts"][0]["labels"]["alertname"] == "EarwitnessOnCpu", notification
    secret = (ROOT / "docker" / "secrets" / "webhook-token").read_text().strip()
    assert notification["authorization"] == f"Bearer {secret}", notification
    assert [one["labels"]["alertname"] for one in ask(f"{ALERTMANAGER}/api/v2/alerts")] == ["EarwitnessOnCpu"]
    say("and the webhook has received it")


def stops() -> None:
    """SIGTERM reaches the service, which ends by itself."""
    stopped = container("service")
    compose("stop", "service")
    assert run("docker", "inspect", "--format", "{{.State.ExitCode}}", stopped).strip() == "0"
    say("SIGTERM ends the service with 0")


def refuses() -> None:
    """A sentence, and no start: for a secret that its reader may not read, and for a GPU that is not there."""
    unreadable = "error: user 65534 of this container cannot read /run/secrets/"
    refused: dict[tuple[str, tuple[str, ...]], str] = {
        ("prometheus", ()): f"{unreadable}metrics-key. Give the file mode 644",
        ("alertmanager", ()): f"{unreadable}webhook-token. Give the file mode 644",
        ("service", ("docker/postgres.yml",)): "error: /run/secrets/pgpass must belong to user 10001",
    }
    with tempfile.TemporaryDirectory() as folder:
        for secret in ("metrics-key", "webhook-token", "pgpass"):
            (Path(folder) / secret).touch(0o600)
        for (service, files), sentence in refused.items():
            words = compose("run", "--rm", "-T", "--no-deps", service, files=files, status=1, EARWITNESS_SECRETS=folder)
            assert sentence in words, words
    say("a secret that its reader cannot read is refused")
    for file in ("docker/postgres.yml", "docker/gpu.yml"):
        compose("config", "--quiet", files=(file,))
    compose("--profile", "training", "config", "--quiet")
    say("docker/gpu.yml and docker/postgres.yml configure")
    if STAND_INS:  # without the stub of NVIDIA's hook, the engine itself refuses
        words = compose("run", "--rm", "-T", "service", files=("docker/gpu.yml",), status=2, EARWITNESS_DEVICE="cuda")
        assert "error: The installed onnxruntime has no CUDA." in words, words
        say("without a GPU, device cuda refuses to start with 2")


def falls_back() -> None:
    """Without a GPU, docker/gpu.yml serves with device auto, and says so."""
    if not STAND_INS:
        return
    gpu = ("docker/gpu.yml",)
    compose("up", "-d", "--wait", "--no-build", "--no-deps", "--pull", "never", "service", files=gpu)
    device = wait_for("ready under docker/gpu.yml", lambda: ask(f"{SERVICE}/readyz"))["device"]
    assert (device["requested"], device["running"], device["fallback"]) == ("auto", "cpu", True), device
    say("and auto falls back and says so")


def main() -> int:
    """Walk; whatever happens, nothing is left behind."""
    try:
        # what is refused meanwhile takes the time that the alert needs to fire
        for step in (starts, scores, knows_its_names, refuses, is_watched, survives, stops, falls_back):
            step()
    except BaseException:
        print(compose("logs", "--tail", "50", files=("tests/containers/webhook.yml",)), file=sys.stderr)
        raise
    finally:
        compose("down", "--volumes", "--remove-orphans", "--timeout", "30")
        if run("docker", "image", "ls", "--quiet", IMAGE):
            run("docker", "image", "rm", "--force", IMAGE)
    say("down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
