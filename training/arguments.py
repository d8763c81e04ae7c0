"""What can be typed after `python -m training`: every command with its arguments."""

import argparse
from pathlib import Path
from typing import TypeAlias

from models.commands import shell_line
from models.vocabulary import Precision, ThresholdRule
from training.choices import SETTABLE
from training.download.catalogue import API, RECORDS, Part
from training.recipe import RECIPES

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser() -> argparse.ArgumentParser:
    """The parser; its ``run`` names the command's function in `training.cli`."""
    whole = argparse.ArgumentParser(prog=shell_line("training"), description="From recordings to a bundle, offline.")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_synthesize, _download, _manifest, _check, _stages, _extend, _prune, _baseline, _study, _evaluate):
        add(commands)
    return whole


def _synthesize(commands: Commands) -> None:
    synthesize = commands.add_parser("synthesize", help="generate machine recordings in DCASE 2021 layout")
    synthesize.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    synthesize.add_argument("--seed", type=_seed, default=0)
    synthesize.add_argument("--machine-types", nargs="+", metavar="TYPE", help="of the seven; all by default")
    synthesize.add_argument("--sections", type=int, default=2, help="sections a machine type (default 2)")
    synthesize.add_argument("--train-clips", type=int, default=40, help="source clips a section (default 40)")
    synthesize.add_argument(
        "--test-clips", type=int, default=10, help="normal and faulty clips a domain (default 10 each)"
    )
    synthesize.set_defaults(run="synthesize")


def _download(commands: Commands) -> None:
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
    download.set_defaults(run="download")


def _manifest(commands: Commands) -> None:
    manifest = commands.add_parser("manifest", help="draft a manifest from a folder of your own recordings")
    manifest.add_argument("folder", type=Path, metavar="FOLDER")
    manifest.add_argument("out", type=Path, metavar="OUT.csv")
    _names(manifest)
    manifest.set_defaults(run="manifest")


def _check(commands: Commands) -> None:
    check = commands.add_parser("check", help="what was found, what is wrong, and whether it can be trained on")
    _data(check)
    check.set_defaults(run="check")


def _stages(commands: Commands) -> None:
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
        stage.add_argument("--recipe", choices=sorted(RECIPES), default="plant", help="default: plant")
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
        if name in {"train", "export", "backends"}:
            stage.add_argument(
                "--precision",
                choices=[precision.value for precision in Precision],
                default=Precision.FLOAT32.value,
                help="in which the exported networks compute; mixtures and thresholds are of it (default float32)",
            )
        if name in {"train", "backends"}:
            stage.add_argument("--bundle", type=Path, required=True, metavar="OUT", help="must not exist yet")
            stage.add_argument(
                "--calibration",
                choices=[rule.value for rule in ThresholdRule],
                help="which scores a source threshold is the percentile of; default: the recipe's",
            )
            stage.add_argument(
                "--demonstration", action="store_true", help="mark the bundle as one for demonstration only"
            )
        stage.set_defaults(run="train")


def _baseline(commands: Commands) -> None:
    baseline = commands.add_parser("baseline", help="train a baseline, to stand beside a bundle in the tables")
    baseline.add_argument(
        "kind",
        choices=["autoencoder", "mobilenetv2", "floor"],
        metavar="KIND",
        help="autoencoder or mobilenetv2, the challenge's of 2021, or floor, which costs nothing",
    )
    _data(baseline)
    baseline.add_argument("--work", type=Path, required=True, help="the baseline's own folder; a killed run resumes")
    baseline.add_argument("--seed", type=_seed, default=0)
    baseline.add_argument("--workers", type=_workers, help="processes for the features; default: one a core")
    baseline.add_argument("--dry-run", action="store_true", help="print device, networks and estimated time, and stop")
    baseline.set_defaults(run="baseline")


def _extend(commands: Commands) -> None:
    extend = commands.add_parser("extend", help="add machines to a bundle, or refresh them, on its own networks")
    extend.add_argument("old", type=Path, metavar="BUNDLE", help="the bundle, which stays as it is")
    _data(extend)
    extend.add_argument("--bundle", type=Path, required=True, metavar="OUT", help="the new one; must not exist yet")
    extend.add_argument("--work", type=Path, required=True, help="folder for the features; a killed run resumes")
    extend.set_defaults(run="extend")


def _prune(commands: Commands) -> None:
    prune = commands.add_parser("prune", help="leave out of an ensemble the members that matter least")
    prune.add_argument("whole", type=Path, metavar="BUNDLE", help="the bundle, which stays as it is")
    prune.add_argument("--work", type=Path, required=True, help="the work folder that the bundle was made in")
    prune.add_argument("--members", type=_members, metavar="N", help="how many shall score a clip")
    prune.add_argument("--bundle", type=Path, metavar="OUT", help="the new one; must not exist yet")
    prune.add_argument(
        "--dry-run", action="store_true", help="print the curve, with --members who would stay, and stop"
    )
    prune.set_defaults(run="prune")


def _study(commands: Commands) -> None:
    study = commands.add_parser("study", help="compare what the paper leaves open, at equal and short training budget")
    _data(study)
    study.add_argument("--work", type=Path, required=True, help="folder of its own; a killed study resumes")
    study.add_argument("--steps", type=_steps, help="optimiser steps of each training (default 200)")
    study.add_argument("--seeds", type=_seed, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    study.add_argument("--workers", type=_workers, help="processes for the features; default: one a core")
    study.add_argument("--json", type=Path, metavar="F", help="write all figures as JSON")
    study.set_defaults(run="study")


def _evaluate(commands: Commands) -> None:
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
    evaluate.add_argument("--report", type=Path, metavar="DIR", help="write a page with figures and sounds to read")
    evaluate.set_defaults(run="evaluate")


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


def _members(text: str) -> int:
    members = int(text)
    if members < 1:
        raise argparse.ArgumentTypeError(f"{members} members score nothing: give 1 or more")
    return members


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
