"""The commands of `python -m training`. Heavy imports wait until the command is known."""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from models.commands import shell_line
from models.errors import DataError, EarwitnessError
from models.vocabulary import Precision, ThresholdRule
from training.arguments import parser
from training.choices import adjusted
from training.download.catalogue import Part
from training.recipe import RECIPES


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
    with _keras_started():
        from training.keras_backend import device
        from training.pipeline import train
        from training.run import Run, Until

    calibration = getattr(options, "calibration", None)
    precision = Precision(getattr(options, "precision", Precision.FLOAT32))
    recipe = adjusted(RECIPES[options.recipe], options.settings, calibration and ThresholdRule(calibration), precision)
    until = {"features": Until.FEATURES, "fit": Until.FIT, "export": Until.EXPORT}.get(options.command, Until.BUNDLE)
    run = Run.of(_recordings(options), recipe, options.seed, options.work)
    print(run.describe(device(), until), flush=True)
    if options.dry_run:
        return 0
    bundle = getattr(options, "bundle", None)
    train(run, bundle, until=until, workers=options.workers, demonstration=getattr(options, "demonstration", False))
    if bundle is not None:
        print(f"{bundle}: written. Serve it with '{shell_line(f'service serve --bundle {shlex.quote(str(bundle))}')}'.")
    return 0


def _extend(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from training.extend import extend
    from training.features import count_clips
    from training.recordings import training_recordings

    recordings = training_recordings(_recordings(options))
    with tqdm(total=2 * count_clips(recordings, contrast=False), unit="clip", desc="extend", leave=False) as bar:
        bundle = extend(options.old, recordings, options.bundle, options.work, advance=bar.update)
    sections = ", ".join(f"{one.machine_type} {one.section}" for one in sorted({each.key for each in recordings}))
    print(f"{options.bundle}: written, bundle {bundle.id}, with {sections}. Serve it in place of the old one.")
    return 0


def _prune(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from training.bundling import refuse_place
    from training.prune import Pruning
    from training.pruning_printed import as_text, clip_ms
    from training.timing import ROUNDS

    if not options.dry_run:
        if options.bundle is None or options.members is None:
            raise DataError(
                "A smaller bundle needs a place and a size: add --bundle OUT and --members N, or --dry-run for the "
                "curve alone."
            )
        refuse_place(options.bundle)
    pruning = Pruning.of(options.whole, options.work, options.members)
    with tqdm(total=len(pruning.groups) * (1 + ROUNDS), unit="round", desc="time", leave=False) as bar:
        ms = [clip_ms(pruning, group, bar.update) for group in pruning.groups]
    print(as_text(pruning, ms), flush=True)
    if options.dry_run:
        return 0
    bundle = pruning.write(options.bundle)
    print(f"{options.bundle}: written, bundle {bundle.id}. Serve it in place of {options.whole}.")
    return 0


def _study(options: argparse.Namespace) -> int:
    with _keras_started():
        from training.study.runner import Study, run_study
    from training.study.clips import divide
    from training.study.plan import STEPS
    from training.study.report import as_text, lines

    seeds = tuple(dict.fromkeys(options.seeds))
    study = Study(divide(_recordings(options)), options.steps or STEPS, seeds, options.work)
    print(study.describe(), flush=True)
    figures = run_study(study, workers=options.workers)
    table = lines(study.systems, figures)
    print(as_text(table), flush=True)
    if options.json:
        content = {"lines": [line.to_json() for line in table], "figures": [one.to_json() for one in figures]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return 0


def _baseline(options: argparse.Namespace) -> int:
    with _keras_started():
        from training.baselines.run import BaselineRun, train_baseline
        from training.keras_backend import device
    from training.scored import SystemName

    run = BaselineRun.of(_recordings(options), SystemName(options.kind), options.seed, options.work)
    print(run.describe(device()), flush=True)
    if options.dry_run:
        return 0
    train_baseline(run, workers=options.workers)
    print(f"{options.work}: {options.kind} finished. 'evaluate BUNDLE DATA... --baseline {options.work}' compares.")
    return 0


@contextmanager
def _keras_started() -> Iterator[None]:
    """What starts Keras: it raises ValueError of a backend that it does not know."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"Keras cannot start: {error}. Set KERAS_BACKEND to tensorflow or jax, or unset it.") from error


def _evaluate(options: argparse.Namespace) -> int:
    from contextlib import ExitStack, closing

    from tqdm import tqdm

    from training.contenders import BundleContender
    from training.evaluate import evaluate
    from training.ground_truth import label_recordings, read_ground_truth
    from training.official import require_own_names, write_csvs
    from training.printed import as_text
    from training.scored import Contender
    from training.test_clips import test_recordings

    recordings = test_recordings(_recordings(options))
    if options.ground_truth:
        recordings = label_recordings(recordings, read_ground_truth(options.ground_truth))
    if options.csv:
        require_own_names(recordings)
    reporter = _reporter(options) if options.report else None
    watch = {"watch": reporter.embeddings} if reporter else {}
    with ExitStack() as stack:
        bundles = [stack.enter_context(closing(BundleContender(options.bundle, **watch)))]
        bundles += [stack.enter_context(closing(BundleContender(folder))) for folder in options.beside]
        contenders: list[Contender] = [*bundles]
        if options.baseline:
            from training.baselines import open_baseline

            with _keras_started():
                contenders += [stack.enter_context(closing(open_baseline(work))) for work in options.baseline]
        total = len(recordings) * len(contenders)
        with tqdm(total=total, unit="clip", desc="evaluate", leave=False) as bar:
            evaluation = evaluate(contenders, recordings, advance=bar.update)
    print(as_text(evaluation), flush=True)  # first: a place that cannot be written must not cost the table
    if options.json:
        evaluation.write_json(options.json)
    if options.csv:
        write_csvs(evaluation, options.csv)
    if reporter is not None:
        print(f"{reporter.write(evaluation, [bundle.content for bundle in bundles])}: written. Open it in a browser.")
    return 0


def _reporter(options: argparse.Namespace) -> Any:
    """Before the evaluation: what would keep a report from being written must not cost an hour first."""
    from datetime import UTC, datetime

    from training.report.reporter import Reporter

    command = ("python", "-m", "training", *options.arguments)
    return Reporter(options.report, command, made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "synthesize": _synthesize,
    "download": _download,
    "manifest": _manifest,
    "check": _check,
    "train": _train,
    "extend": _extend,
    "prune": _prune,
    "baseline": _baseline,
    "study": _study,
    "evaluate": _evaluate,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors that a user can mend are one sentence and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(words, argparse.Namespace(arguments=words))
    try:
        return _COMMANDS[options.run](options)
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
