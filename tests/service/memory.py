"""What a process holds in memory, and a service that keeps what it should let go."""

import sys
from pathlib import Path
from unittest.mock import patch


def resident_mib(process: int) -> float:
    """The resident memory of a process, without the files that it maps."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {process} has no memory")


def main() -> int:
    """``python -m tests.service.memory serve``: the service, but each clip that it reads is never let go."""
    from service import cli
    from service.multipart import Form
    from service.requests import one_file

    kept: list[bytes] = []

    def leaking(form: Form) -> bytes:
        audio = one_file(form)
        kept.append(audio)
        return audio

    with patch("service.routes.scoring.one_file", leaking):
        return cli.main()


if __name__ == "__main__":
    sys.exit(main())
