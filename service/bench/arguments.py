"""What ``python -m service bench`` takes; apart, so that no other command imports what is measured."""

import argparse
from pathlib import Path

BATCHES = (1, 4, 16, 32)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``bench`` takes."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--bundle", type=Path, help="measure this bundle")
    what.add_argument(
        "--members", type=int, default=20, help="measure a made-up bundle of so many networks (default 20)"
    )
    parser.add_argument("--clips", type=int, default=1000, help="training clips of the made-up section (default 1000)")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), choices=range(1, 33), metavar="N")
    parser.add_argument("--rounds", type=int, default=10, help="how often each contender has its turn (default 10)")
    parser.add_argument("--ours-alone", action="store_true", help="leave the naive ways out")
    parser.add_argument(
        "--serve", action="store_true", help="serve the bundle and drive it over HTTP, in turns with the encoder alone"
    )
    http = parser.add_argument_group("a running server")
    http.add_argument("--http", metavar="URL", help="drive the server there in place of measuring here")
    http.add_argument("--machine-type", metavar="M", help="what to ask it for")
    http.add_argument("--section", default="00", metavar="S")
    http.add_argument("--rate", type=float, default=10.0, help="arrivals a second (default 10)")
    http.add_argument("--arrivals", choices=("fixed", "poisson"), default="fixed")
    http.add_argument("--seconds", type=float, default=10.0, help="how long, with --serve in each round (default 10)")
    http.add_argument("--timeout-ms", type=int, help="X-Request-Timeout-Ms of each request")
