"""The command: builds the contenders, lets them take turns, and prints what came out."""

import argparse
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from models.bundle import read_bundle
from models.scoring import SectionModel
from service.bench.contender import Contender
from service.bench.http import drive, print_load
from service.bench.report import Measured, print_report
from service.bench.workload import write_made_bundle
from service.settings import DEMONSTRATION, Settings


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Measure; the exit status."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it asks whether the service is ready, again and again
    if options.http is not None:
        print_load(drive(options))
        return 0
    with ExitStack() as stack:
        folder = options.bundle
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "bundle"
            write_made_bundle(folder, DEMONSTRATION, options.members, options.clips)
        if options.serve:
            from service.bench.serving import measure, print_served  # noqa: PLC0415

            print_served(measure(folder, settings.threads, options.rounds, options.seconds), settings.threads)
            return 0
        measured = _measure(stack, folder, settings.threads, options)
        print_report(measured, folder if options.bundle else None, options.members, settings.threads)
    return 0


def _measure(stack: ExitStack, folder: Path, threads: int, options: argparse.Namespace) -> Measured:
    def enter(name: str, way: str, blas_threads: int | None) -> Contender:
        contender = Contender(name, way, folder, threads=threads, blas_threads=blas_threads)
        return stack.enter_context(contender)

    ours = enter("ours", "ours", 1)
    naive = []
    if not options.ours_alone and _has_naive_way(folder):
        naive = [enter("naive, defaults", "naive", None), enter("naive, one BLAS thread", "naive", 1)]
    measured = Measured(os.getloadavg(), naive[0].facts["librosa"] if naive else None, ours.facts["members"])
    for _ in range(options.rounds):
        measured.peaks.append(ours.ask("peak"))
        for batch in options.batches:
            for contender in (ours, *naive):
                measured.add(contender.name, batch, contender.ask("run", batch=batch))
        if naive:
            for contender in (ours, *naive[1:]):
                measured.mixtures[contender.name].append(contender.ask("mixtures", members=measured.members))
        measured.alone.append(ours.ask("alone"))
        measured.direct.append(ours.ask("answers", batch=max(options.batches)))
        measured.saturated.append(ours.ask("saturated"))
    for contender in (ours, *naive):
        measured.memory[contender.name] = contender.ask("memory")
    return measured


def _has_naive_way(folder: Path) -> bool:
    sections: Sequence[object] = list(read_bundle(folder).sections.values())
    return all(isinstance(one, SectionModel) for one in sections)
