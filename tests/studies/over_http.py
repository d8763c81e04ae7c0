"""What a clip costs over HTTP, one at a time: wall and processor time, the stages, and the process's memory.

``python -m tests.studies.over_http BUNDLE CLIP... --machine-type M --section S --work W`` starts a service of its own
and prints what DECISIONS.md quotes. Where other work is on the machine the processor time of the process is the figure
to trust: wall times are then those of the machine's other work.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from tests.service.servers import Server

WARM_UP = 5


def processor_s(pid: int) -> float:
    """Seconds that a process and its threads have been on a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int, name: str) -> float:
    """``VmRSS``, resident now, or ``VmHWM``, at most so far."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def stage_s(server: Server) -> dict[str, float]:
    """Seconds spent in each stage so far."""
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    (stages,) = [family for family in families if family.name == "earwitness_stage_seconds"]
    return {sample.labels["stage"]: sample.value for sample in stages.samples if sample.name.endswith("_sum")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.over_http", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--machine-type", required=True)
    parser.add_argument("--section", required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    form = {"machine_type": options.machine_type, "section": options.section, "domain": "source"}
    bodies = [path.read_bytes() for path in options.clips]
    begun = time.perf_counter()
    with Server(options.bundle, options.work / "targets.db", options.work / "log", threads=1) as server:
        ready_s = time.perf_counter() - begun
        assert server.process is not None
        pid = server.process.pid
        print(f"ready after {ready_s:.2f} s, {processor_s(pid):.2f} s of them on the processor")

        def score(body: bytes) -> float:
            since = time.perf_counter()
            answer = server.client.post("/score", data=form, files={"audio": body})
            assert answer.status_code == 200, answer.text
            return time.perf_counter() - since

        for body in (bodies * WARM_UP)[:WARM_UP]:
            score(body)
        before, spent = stage_s(server), processor_s(pid)
        walls = np.array([score(body) for body in bodies])
        after, spent = stage_s(server), processor_s(pid) - spent
        print(f"{len(bodies)} clips one at a time, milliseconds a clip:")
        print(f"  wall        {1e3 * np.median(walls):6.1f} median, {1e3 * walls.min():.1f} least")
        print(f"  processor   {1e3 * spent / len(bodies):6.1f}")
        for stage, seconds in after.items():
            print(f"  {stage:<11} {1e3 * (seconds - before[stage]) / len(bodies):6.1f} mean of the stage, wall")
        print(f"memory {memory_mib(pid, 'VmRSS'):.0f} MiB resident, {memory_mib(pid, 'VmHWM'):.0f} MiB at most")


if __name__ == "__main__":
    main()
