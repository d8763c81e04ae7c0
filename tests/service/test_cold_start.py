"""From the start of the process to ready, with twenty members: what is imported, what it costs, what it holds."""

import os
import re
from pathlib import Path

import pytest

from service.bench.workload import write_made_bundle
from service.settings import DEMONSTRATION
from tests.service.servers import Server

NOT_NEEDED = {
    *("sklearn", "joblib", "pandas", "matplotlib", "librosa", "numba", "tensorflow", "keras", "onnx", "openvino"),
    *("alembic", "cryptography", "psycopg", "httpx", "tqdm", "jinja2"),
}
"""Packages that no score needs, or not before somebody asks for what needs them."""


def seconds_of_cpu(process: int) -> float:
    """What a process has used so far, in all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.alone
def test_an_ensemble_is_ready_soon_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under 3 s of CPU and 500 MiB for twenty members; nothing is imported that a score does not need.

    CPU time and not the clock's: this machine may have much else to do, and nearly all of it is one thread's work.
    """
    bundle = tmp_path / "bundle"
    write_made_bundle(bundle, DEMONSTRATION, members=20, clips=200)
    with Server(bundle, tmp_path / "db", tmp_path / "first.log"):
        pass  # the first start makes the database, for which alone it needs Alembic
    server = Server(bundle, tmp_path / "db", tmp_path / "log")
    monkeypatch.setitem(server.environment, "PYTHONPROFILEIMPORTTIME", "1")
    with server:
        assert server.process is not None
        cpu_s = seconds_of_cpu(server.process.pid)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        imported = set(re.findall(r"^import time:.*\| +([A-Za-z0-9_]+)", server.log.read_text(), re.MULTILINE))
    resident_mib = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
    assert {"numpy", "onnxruntime", "fastapi"} <= imported  # the log is what it is taken for
    assert sorted(imported & NOT_NEEDED) == []
    assert cpu_s < 3.0
    assert resident_mib < 500.0
