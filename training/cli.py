"""The commands of `python -m training`. Heavy imports wait until the command is known."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import DataError, EarwitnessError
from models.vocabulary import ThresholdRule
from training.recipe import RECIPES, ScaleRule


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="From recordings to a bundle, offline.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    synthesize = commands.add_parser("synthesize", help="generate machine recordings in DCASE 2021 layout")
    synthesize.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    synthesize.add_argument("--seed", type=_seed, default=0)
    synthesize.add_argument("--machine-types", nargs="+", metavar="TYPE", help="of the seven; all by default")
    synthesize.add_argument("--sections", type=int, default=2, help="sections a machine type (default 2)")
    synthesize.add_argument("--train-clips", type=int, default=40, help="source clips a section (default 40)")
    synthesize.add_argument(
        "--test-clips", type=int, default=10, help="normal and faulty clips a domain (default 10 each)"
    )
    synthesize.set_defaults(run=_synthesize)

    manifest = commands.add_parser("manifest", help="draft a manifest from a folder of your own recordings")
    manifest.add_argument("folder", type=Path, metavar="FOLDER")
    manifest.add_argument("out", type=Path, metavar="OUT.csv")
    _names(manifest)
    manifest.set_defaults(run=_manifest)

    check = commands.add_parser("check", help="what was found, what is wrong, and whether it can be trained on")
    _data(check)
    check.set_defaults(run=_check)

    stages = {
        "train": "all stages: recordings to bundle",
        "features": "only the features",
        "fit": "features and networks",
        "export": "features, networks and ONNX embedders",
        "backends": "what train does after the export: mixtures, calibration, bundle",
    }
    for name, words in stages.items():
        stage = commands.add_parser(name, help=words)
        _data(stage)
        stage.add_argument("--recipe", choices=sorted(RECIPES), default="quick", help="default: quick")
        stage.add_argument(
            "--work", type=Path, required=True, help="folder where the stages meet; a killed run resumes"
        )
        stage.add_argument("--seed", type=_seed, default=0)
        stage.add_argument("--workers", type=_workers, help="processes for the features; default: one a core")
        stage.add_argument(
            "--scale",
            choices=[rule.value for rule in ScaleRule],
            help="the AdaCos scale is adapted as published, or fixed; default: the recipe's",
        )
        stage.add_argument("--dry-run", action="store_true", help="print device, stages and estimated time, and stop")
        if name in {"train", "backends"}:
            stage.add_argument("--bundle", type=Path, required=True, metavar="OUT", help="must not exist yet")
            stage.add_argument(
                "--calibration",
                choices=[rule.value for rule in (ThresholdRule.PAPER, ThresholdRule.HELD_OUT)],
                help="which scores a source threshold is the percentile of; default: the recipe's",
            )
            stage.add_argument(
                "--demonstration", action="store_true", help="mark the bundle as one for demonstration only"
            )
        stage.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="the only maker of tables: score test recordings with a bundle")
    evaluate.add_argument("bundle", type=Path, metavar="BUNDLE")
    _data(evaluate)
    evaluate.add_argument("--json", type=Path, metavar="F", help="write every row as JSON")
    evaluate.add_argument("--csv", type=Path, metavar="DIR", help="write the challenge's CSV files")
    evaluate.add_argument("--report", type=Path, metavar="DIR", help="write a page with figures and sounds to read")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _seed(text: str) -> int:
    """What numpy and scikit-learn take alike: 0 to 2^32 - 1."""
    seed = int(text)
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"{seed} is no seed: give a number from 0 to {2**32 - 1}")
    return seed


def _workers(text: str) -> int:
    workers = int(text)
    if workers < 1:
        raise argparse.ArgumentTypeError(f"{workers} processes cannot work: give 1 or more")
    return workers


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--machine-type", metavar="M", help="where folder or manifest do not say it")
    parser.add_argument("--section", metavar="S", help="likewise")


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, nargs="+", metavar="DATA", help="a tree of recordings or a CSV manifest")
    _names(parser)


def _recordings(options: argparse.Namespace) -> Any:
    from training.recordings import read_recordings

    return read_recordings(options.data, machine_type=options.machine_type, section=options.section)


def _synthesize(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from training.synthetic import count_recordings, synthesize

    shape = {
        "machine_types": options.machine_types,
        "sections": options.sections,
        "train_clips": options.train_clips,
        "test_clips": options.test_clips,
    }
    with tqdm(total=count_recordings(**shape), unit="clip", desc="synthesize") as bar:
        synthesize(options.out, seed=options.seed, advance=bar.update, **shape)
    return 0


def _manifest(options: argparse.Namespace) -> int:
    from training.manifests import draft_manifest

    rows = draft_manifest(options.folder, options.out, machine_type=options.machine_type, section=options.section)
    print(f"{options.out}: {rows} recordings. Fill in domain, split, condition and attribute, then check it.")
    return 0


def _check(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from training.check import check_recordings
    from training.recordings import survey

    found = survey(options.data, machine_type=options.machine_type, section=options.section)
    with tqdm(total=len(found.recordings), unit="file", desc="check", leave=False) as bar:
        report = check_recordings(found.recordings, found.refusals, advance=bar.update)
    print(report.as_text())
    return 0 if report.trainable else 1


def _train(options: argparse.Namespace) -> int:
    from dataclasses import replace

    try:
        from training.pipeline import Run, Until, device, train
    except ValueError as error:  # Keras, of a backend that it does not know
        raise DataError(f"Keras cannot start: {error}. Set KERAS_BACKEND to tensorflow or jax, or unset it.") from error

    recipe = RECIPES[options.recipe]
    if getattr(options, "calibration", None):
        recipe = replace(recipe, calibration=ThresholdRule(options.calibration))
    if options.scale:
        recipe = replace(recipe, scale=ScaleRule(options.scale))
    until = {"features": Until.FEATURES, "fit": Until.FIT, "export": Until.EXPORT}.get(options.command, Until.BUNDLE)
    run = Run.of(_recordings(options), recipe, options.seed, options.work)
    print(run.describe(device(), until), flush=True)
    if options.dry_run:
        return 0
    bundle = getattr(options, "bundle", None)
    train(run, bundle, until=until, workers=options.workers, demonstration=getattr(options, "demonstration", False))
    if bundle is not None:
        print(f"{bundle}: written. Serve it with 'python -m service serve --bundle {bundle}'.")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from training.evaluate import evaluate, test_recordings

    recordings = test_recordings(_recordings(options))
    reporter = _reporter(options) if options.report else None
    with tqdm(total=len(recordings), unit="clip", desc="evaluate", leave=False) as bar:
        evaluation = evaluate(
            options.bundle, recordings, advance=bar.update, watch=reporter.embeddings if reporter else None
        )
    print(evaluation.as_text(), flush=True)  # first: a place that cannot be written must not cost the table
    if options.json:
        evaluation.write_json(options.json)
    if options.csv:
        evaluation.write_csvs(options.csv)
    if reporter is not None:
        print(f"{reporter.write(evaluation)}: written. Open it in a browser.")
    return 0


def _reporter(options: argparse.Namespace) -> Any:
    """Before the evaluation: what would keep a report from being written must not cost an hour first."""
    from datetime import UTC, datetime

    from training.report.reporter import Reporter

    command = ("python", "-m", "training", *options.arguments)
    return Reporter(options.bundle, options.report, command, made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors that a user can mend are one sentence and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(words, argparse.Namespace(arguments=words))
    try:
        return int(options.run(options))
    except EarwitnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed. 'make env' installs what training needs.", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}. Check the path, its permissions and the disk's free space.", file=sys.stderr)
        return 2
    except UnicodeEncodeError as error:  # what the system calls a file may be no text at all
        near = error.object[max(0, error.start - 60) : error.end + 20]
        print(f"error: a file or folder has a name that is not UTF-8, near {near!a}. Rename it.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
