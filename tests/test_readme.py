"""The README is true: what it names exists, what exists it names, and its first lines give the answers it states."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.vocabulary import WarningCode
from service.app import create_app
from service.problems import CLIENT_GONE, INTERNAL, KINDS
from service.settings import Settings
from tests.service.servers import Server
from training.baselines.trained import BASELINES
from training.choices import SETTABLE
from training.recipe import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def table(heading: str) -> list[str]:
    """The first column of the table under a heading, without its code marks."""
    part = README.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("| `")]
    return [re.match(r"`([^`]*)`", row)[1] for row in rows]  # type: ignore[index]


def test_settings() -> None:
    """A row a setting, with the words of its docstring."""
    assert table("Settings") == [f"EARWITNESS_{name.upper()}" for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `EARWITNESS_{name.upper()}`"))
        assert " ".join((field.description or "missing").split()) in row


def test_warnings_recipes_baselines_and_choices() -> None:
    """Codes and names."""
    assert sorted(table("Warnings")) == sorted(code.value for code in WarningCode)
    assert sorted(table("Recipes")) == sorted(RECIPES)
    assert table("Choices") == list(SETTABLE)
    assert sorted(table("Baselines")) == sorted(BASELINES)


def test_errors() -> None:
    """Every problem that is sent, with its status."""
    sent = {kind.slug: kind.status for kind in (*KINDS.values(), INTERNAL) if kind.status != CLIENT_GONE}
    part = README.split("### Errors\n", 1)[1].split("\n#", 1)[0]
    stated = {slug: int(status) for slug, status in re.findall(r"\| `([a-z-]+)` \| (\d+) \|", part)}
    assert stated == sent


def test_endpoints() -> None:
    """Every route of the service."""
    operations = {
        f"{method.upper()} {path}"
        for path, methods in create_app(Settings()).openapi()["paths"].items()
        for method in methods
    }
    assert set(table("Endpoints")) == operations


def test_commands() -> None:
    """Every command of the three command lines."""
    stated = {tuple(command.split()[2:4]) for command in table("Commands")}
    known = set()
    for module in ("training", "service", "models.bundle"):
        words = run([sys.executable, "-m", module, "--help"])
        known |= {(module, name) for name in re.findall(r"^    ([a-z]+)\s", words, re.MULTILINE)}
    assert stated == known


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service as `make run` starts it, but for the port and the database."""
    folder = tmp_path_factory.mktemp("readme")
    with Server(ROOT / "models" / "bundles" / "demonstration", folder / "earwitness.db", folder / "log") as server:
        yield server


def test_metrics(demonstration: Server) -> None:
    """Every metric that the service exports, once a clip has been scored, and no other."""
    exported = set(re.findall(r"^# TYPE (earwitness_\w+)", demonstration.client.get("/metrics").text, re.MULTILINE))
    stated = set(table("Metrics"))
    assert exported == stated


def matches(stated: Any, answered: Any) -> bool:
    """Equal, numbers to the digits that the README gives."""
    if isinstance(stated, float):
        digits = len(str(stated).split(".")[1])
        return bool(abs(answered - stated) <= 0.6 * 10**-digits)
    return bool(stated == answered)


def test_the_first_scores_are_those_stated(demonstration: Server) -> None:
    """Each curl block runs in a shell from the checkout's folder and gives the JSON block that follows it."""
    part = README.split("## A first score\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```(sh|json)\n(.*?)```", part, re.DOTALL)
    pairs = [(code, json.loads(blocks[i + 1][1])) for i, (kind, code) in enumerate(blocks) if kind == "sh"]
    assert len(pairs) == 3
    for code, stated in pairs:
        output = run(["bash", "-euo", "pipefail", "-c", code.replace("http://127.0.0.1:8000", demonstration.url)])
        answer = json.JSONDecoder().raw_decode(output[output.rindex('{"machine_type"') :])[0]
        assert answer["warnings"][-1]["code"] == "demonstration_bundle"
        for name, value in stated.items():
            assert matches(value, answer[name]), (name, value, answer[name])


def test_the_ways_back_are_those_stated(tmp_path: Path) -> None:
    """The curl blocks about earlier target clips, and about another bundle and the one before, do what they say."""
    demonstration = ROOT / "models" / "bundles" / "demonstration"
    shutil.copytree(demonstration, tmp_path / "bundles" / "second")
    settings = {"bundles_dir": tmp_path / "bundles"}
    with Server(demonstration, tmp_path / "db", tmp_path / "log", **settings) as server:

        def answers(address: str) -> list[dict[str, Any]]:
            (code,) = (block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if address in block)
            script = code.replace("http://127.0.0.1:8000", server.url).replace("curl", "curl -s")
            output, found = run(["bash", "-euo", "pipefail", "-c", script]), []
            while output:
                answer, end = json.JSONDecoder().raw_decode(output)
                found.append(answer)
                output = output[end:]
            return found

        clips = [(demonstration.with_name("demonstration-clips") / f"target-{n}.wav").read_bytes() for n in (1, 2, 3)]
        for _ in range(2):
            form = {"machine_type": "pump", "section": "00"}
            registered = server.client.post("/target-samples", data=form, files=[("audio", clip) for clip in clips])
            assert registered.status_code == 201
        listed, restored, withdrawn = answers("/target-samples/pump/00/restore")
        assert [(one["version"], one["state"]) for one in listed["versions"]] == [(2, "in_force"), (1, "superseded")]
        assert (restored["version"], restored["restored_from"], restored["state"]) == (3, 1, "in_force")
        assert withdrawn["version"] == 0
        assert [one["name"] for one in answers("/bundle/reload")] == ["second", None]


def test_the_ten_lines_of_python_run(demonstration: Server) -> None:
    """And find the fault."""
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) <= 10
    output = run([sys.executable, "-c", code[1].replace("http://127.0.0.1:8000", demonstration.url)])
    assert output.split()[0] == "anomalous"


def run(command: list[str]) -> str:
    """What a command prints, run in the checkout's folder."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout
