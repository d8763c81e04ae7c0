"""The commands of `python -m training`. Heavy imports wait until the command is known."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import DataError, EarwitnessError
from models.vocabulary import ThresholdRule
from training.choices import SETTABLE, adjusted
from training.download.catalogue import API, RECORDS, Part
from training.recipe import RECIPES


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

    download = commands.add_parser("download", help="fetch a year of the DCASE challenge (task 2) and unpack it")
    download.add_argument("out", type=Path, metavar="OUT", help="a folder for that year alone; a stopped run resumes")
    download.add_argument("--year", type=int, choices=sorted(RECORDS), required=True)
    download.add_argument(
        "--part", action="append", choices=list(Part), default=[], help="may be repeated; all by default"
    )
    download.add_argument(
        "--machine-type", action="append", default=[], metavar="M", help="may be repeated; all by default"
    )
    download.add_argument("--jobs", type=_jobs, default=4, metavar="N", help="archives at once (default 4)")
    download.add_argument("--keep-archives", action="store_true", help="leave them beside what they become")
    download.add_argument("--dry-run", action="store_true", help="print licence, files and sizes, and stop")
    download.add_argument("--api", default=API, metavar="URL", help=f"a mirror of the records API (default {API})")
    download.set_defaults(run=_download)

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
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            dest="settings",
            help=f"a choice of the recipe made otherwise, may be given several times: {', '.join(SETTABLE)}",
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

    study = commands.add_parser("study", help="compare what the paper leaves open, at equal and short training budget")
    _data(study)
    study.add_argument("--work", type=Path, required=True, help="folder of its own; a killed study resumes")
    study.add_argument("--steps", type=_steps, help="optimiser steps of each training (default 200)")
    study.add_argument("--seeds", type=_seed, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    study.add_argument("--workers", type=_workers, help="processes for the features; default: one a core")
    study.add_argument("--json", type=Path, metavar="F", help="write all figures as JSON")
    study.set_defaults(run=_study)

    evaluate = commands.add_parser("evaluate", help="the only maker of tables: score test recordings with a bundle")
    evaluate.add_argument("bundle", type=Path, metavar="BUNDLE", help="the system in question")
    _data(evaluate)
    evaluate.add_argument(
        "--beside", type=Path, action="append", default=[], metavar="BUNDLE", help="another bundle, on the same clips"
    )
    evaluate.add_argument(
        "--baseline", type=Path, action="append", default=[], metavar="W", help="a baseline, by its work folder"
    )
    evaluate.add_argument(
        "--ground-truth", type=Path, metavar="DIR", help="the challenge's labels of an evaluation set, CSV files"
    )
    evaluate.add_argument("--json", type=Path, metavar="F", help="write every figure as JSON")
    evaluate.add_argument(
        "--csv", type=Path, metavar="DIR", help="write the challenge's CSV files, and what its evaluator makes of them"
    )
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


def _jobs(text: str) -> int:
    jobs = int(text)
    if not 1 <= jobs <= 16:
        raise argparse.ArgumentTypeError(f"{jobs} archives at once are no good: give 1 to 16")
    return jobs


def _steps(text: str) -> int:
    steps = int(text)
    if steps < 1:
        raise argparse.ArgumentTypeError(f"{steps} steps train nothing: give 1 or more")
    return steps


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


def _download(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from training.download.year import carry_out, describe_tree, make_plan

    plan = make_plan(
        options.year,
        options.out,
        parts=[Part(part) for part in options.part],
        machine_types=options.machine_type,
        jobs=options.jobs,
        keep=options.keep_archives,
        api=options.api,
    )
    print(plan.describe(), flush=True)  # the licence stands before the first byte
    if options.dry_run:
        plan.require_room()
        return 0
    total, initial = plan.total_bytes, plan.bytes_there
    with tqdm(total=total, initial=initial, unit="B", unit_scale=True, desc="download") as bar:
        carry_out(plan, advance=bar.update)
    print(describe_tree(plan))
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
    try:
        from training.pipeline import Run, Until, device, train
    except ValueError as error:  # Keras, of a backend that it does not know
        raise DataError(f"Keras cannot start: {error}. Set KERAS_BACKEND to tensorflow or jax, or unset it.") from error

    calibration = getattr(options, "calibration", None)
    recipe = adjusted(RECIPES[options.recipe], options.settings, calibration and ThresholdRule(calibration))
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


def _study(options: argparse.Namespace) -> int:
    from training.study.clips import divide
    from training.study.plan import STEPS
    from training.study.report import as_text, lines
    from training.study.runner import Study, run_study

    seeds = tuple(dict.fromkeys(options.seeds))
    study = Study(divide(_recordings(options)), options.steps or STEPS, seeds, options.work)
    print(study.describe(), flush=True)
    figures = run_study(study, workers=options.workers)
    table = lines(study.systems, figures)
    print(as_text(table), flush=True)
    if options.json:
        content = {"lines": [line.to_json() for line in table], "figures": [one.to_json() for one in figures]}
        options.json.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from contextlib import ExitStack, closing

    from tqdm import tqdm

    from training.contenders import BundleContender
    from training.evaluate import evaluate
    from training.ground_truth import label_recordings, read_ground_truth
    from training.official import write_csvs
    from training.printed import as_text
    from training.scored import Contender
    from training.test_clips import test_recordings

    recordings = test_recordings(_recordings(options))
    if options.ground_truth:
        recordings = label_recordings(recordings, read_ground_truth(options.ground_truth))
    with ExitStack() as stack:
        contenders: list[Contender] = [
            stack.enter_context(closing(BundleContender(folder))) for folder in (options.bundle, *options.beside)
        ]
        if options.baseline:
            from training.baselines import open_baseline  # type: ignore[import-not-found]

            contenders += [stack.enter_context(closing(open_baseline(work))) for work in options.baseline]
        total = len(recordings) * len(contenders)
        with tqdm(total=total, unit="clip", desc="evaluate", leave=False) as bar:
            evaluation = evaluate(contenders, recordings, advance=bar.update)
    print(as_text(evaluation), flush=True)  # first: a place that cannot be written must not cost the table
    if options.json:
        evaluation.write_json(options.json)
    if options.csv:
        write_csvs(evaluation, options.csv)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors that a user can mend are one sentence and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
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
