"""A smaller bundle is what its members alone would have given, chosen by nothing but clips that calibrate."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.assessment import Assessment
from models.audio import Clip
from models.bundle import Bundle, read_bundle, write_bundle
from models.detector import Detector
from models.encoder import Device
from models.errors import BundleError, DataError
from models.manifest import Manifest
from models.vocabulary import Condition, Domain, LossChoice, ThresholdRule
from tests.models.tiny import FAN, VALVE, build_bundle, mixtures_of, with_canary
from tests.training.ensembles import MEMBERS, ensemble_of
from tests.training.report.test_page import read
from tests.training.report.test_reporter import record
from tests.training.small import run_python
from tests.training.told import ignore
from training.calibration import CalibrationScores
from training.cli import main
from training.contenders import BundleContender
from training.evaluate import evaluate
from training.kept_scores import keep_scores
from training.layout import DASH, figure
from training.prune import Pruning
from training.pruning import Curve, Pruned, Step
from training.pruning_printed import curve_table
from training.report.gather import gather
from training.report.reporter import Reporter
from training.report.smaller import curve_tables, siblings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``whole``, a bundle of six members, and ``work``, in which it was made."""
    folder = tmp_path_factory.mktemp("ensemble")
    ensemble_of(MEMBERS, folder / "whole", folder / "work")
    return folder


@pytest.fixture(scope="module")
def small(made: Path) -> Bundle:
    """The same with the three best of its members."""
    return Pruning.of(made / "whole", made / "work", 3).write(made / "small")


def test_the_smaller_bundle_is_what_its_members_alone_would_have_given(
    made: Path, small: Bundle, tmp_path: Path
) -> None:
    """Networks, mixtures, calibration and thresholds, and the score of a clip: to the last bit."""
    pruning = Pruning.of(made / "whole", made / "work", 3)
    assert len(small.manifest.members) == 3
    alone = ensemble_of([MEMBERS[place] for place in pruning.kept], tmp_path / "alone", tmp_path / "work")
    assert small.manifest.members == alone.manifest.members
    assert small.embedders == alone.embedders
    for name in ("calibration.npz", "thresholds.json", "canary.npz", *(f"sections/fan/{i:02d}.pkl" for i in range(2))):
        assert small.path_of(name).read_bytes() == alone.path_of(name).read_bytes(), name
    for key in small.manifest.sections:
        assert small.calibrations[key, Domain.SOURCE].calibration.rule is ThresholdRule.HELD_OUT
        assert small.calibrations[key, Domain.TARGET].calibration.threshold is not None
    with closing(Detector(read_bundle(made / "small"), device=Device.CPU)) as detector:
        detector.check_canary()


def test_the_manifest_says_where_it_comes_from(made: Path, small: Bundle) -> None:
    """The whole bundle's id, the curve from six to one; curves and findings of networks that went are gone."""
    whole, told = read_bundle(made / "whole"), small.manifest.training_data
    pruned = Pruned.of(told)
    assert pruned is not None
    assert (pruned.bundle, pruned.members) == (whole.id, 3)
    (curve,) = pruned.curves
    assert curve.machine_types == ("fan",)
    assert [step.members for step in curve.steps] == [6, 5, 4, 3, 2, 1]
    assert (curve.steps[0].gone, curve.steps[0].p_values_moved, curve.steps[0].decisions_changed) == (None, 0.0, 0.0)
    assert 0.0 < curve.steps[-1].p_values_moved < 1.0
    gone = {step.gone for step in curve.steps[:4]} - {None}
    assert {member.id for member in small.manifest.members} == {one.id for one in whole.manifest.members} - gone
    networks = {member.network for member in small.manifest.members}
    for name in ("curves", "scale_limited_epochs"):
        kept = told[name]
        assert isinstance(kept, dict)
        assert set(kept) == networks
    assert {name: told[name] for name in ("clips", "recordings")} == {"clips": 36, "recordings": 36}
    assert small.manifest.recipe == whole.manifest.recipe


_watched: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and event in {"open", "os.listdir", "os.scandir"}:
        _watched.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | Path) else "")


@contextmanager
def opened() -> Iterator[list[str]]:
    """What this process opens or lists meanwhile; the interpreter itself tells, so nothing can be opened past it."""
    global _watched  # noqa: PLW0603  a hook of the interpreter cannot be taken back, only silenced
    sys.addaudithook(_watch)
    found: list[str] = []
    _watched = found
    try:
        yield found
    finally:
        _watched = None


def test_nothing_but_the_bundle_and_the_kept_scores_is_read(made: Path, small: Bundle, tmp_path: Path) -> None:
    """No recording, for training or for testing: there is none, and with one at hand nothing of it is opened."""
    shutil.copytree(made / "whole", tmp_path / "whole")
    shutil.copytree(made / "work" / "scores", tmp_path / "work" / "scores")
    (tmp_path / "work" / "features").mkdir()
    (tmp_path / "work" / "features" / "log_mels.npy").write_bytes(b"none")
    test_clip = tmp_path / "fan" / "source_test" / "section_00_source_test_anomaly_0000.wav"
    test_clip.parent.mkdir(parents=True)
    test_clip.write_bytes(b"none")
    with opened() as found:
        again = Pruning.of(tmp_path / "whole", tmp_path / "work", 3).write(tmp_path / "small")
    assert again.id == small.id, "the same choice to the last byte"
    inside = {path.removeprefix(f"{tmp_path}/").split("/")[0] for path in found if path.startswith(f"{tmp_path}/")}
    assert {name for name in inside if not name.startswith(".small.")} <= {"whole", "work", "small"}
    work = {path for path in found if path.startswith(f"{tmp_path}/work")}
    assert {Path(path).parent.name for path in work} == {"scores"}


@pytest.mark.parametrize("n_members", [1, 2, 4, 5])
def test_smaller_ensembles_are_parts_of_larger_ones(made: Path, n_members: int) -> None:
    """So that a curve is one of bundles that can be had."""
    kept = [set(Pruning.of(made / "whole", made / "work", count).kept) for count in (n_members, 3)]
    assert len(kept[0]) == n_members
    assert kept[0] < kept[1] or kept[1] < kept[0]


def test_killed_in_the_middle_the_same_command_comes_to_the_same_bundle(
    made: Path, small: Bundle, tmp_path: Path
) -> None:
    """Nothing half is left in its place; and all of it without Keras or TensorFlow."""
    words = ["prune", str(made / "whole"), "--work", str(made / "work"), "--members", "3"]
    words += ["--bundle", str(tmp_path / "small")]
    killed = run_python(
        f"""
        import os, signal, sys
        from models import folders
        from training.cli import main

        whole = folders._fill

        def killed(partial, files):
            whole(partial, list(files)[:3])
            assert not {{"keras", "tensorflow"}} & set(sys.modules)
            os.kill(os.getpid(), signal.SIGKILL)

        folders._fill = killed
        main({words!r})
        """
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "small").exists()
    assert any(path.name.endswith(".partial") for path in tmp_path.iterdir())
    assert main(words) == 0
    assert read_bundle(tmp_path / "small").id == small.id
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_the_curve_is_printed_and_a_dry_run_writes_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a step with its measured time, the step asked for marked, who stays by name."""
    words = ["prune", str(made / "whole"), "--work", str(made / "work"), "--members", "3"]
    there = set(made.rglob("*"))
    assert main([*words, "--dry-run"]) == 0
    assert set(made.rglob("*")) == there
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fan: members left out one by one, by training clips alone; * as many as stay;")
    steps = [line.split() for line in lines[3:9]]
    assert [step[0] for step in steps] == ["6", "5", "4", "3*", "2", "1"]
    assert all(float(step[-1]) > 0.0 for step in steps)
    pruning = Pruning.of(made / "whole", made / "work", 3)
    stay = ", ".join(pruning.whole.manifest.members[place].id for place in pruning.kept)
    assert f"* 3 of 6 members stay: {stay}." in lines
    for missing in (words, [*words[:-2], "--bundle", str(tmp_path / "small")]):
        assert main(missing) == 2
        assert "add --bundle OUT and --members N, or --dry-run for the curve alone" in capsys.readouterr().err
    assert main([*words[:-2], "--dry-run"]) == 0
    whole = capsys.readouterr().out.splitlines()
    assert whole[0].startswith("fan: members left out one by one, by training clips alone; decisions changed")
    assert [line.split()[:-1] for line in whole[3:9]] == [[step[0].strip("*"), *step[1:-1]] for step in steps]
    assert "*" not in "".join(whole)
    for place, refusal in (("work", "exists already"), ("whole/manifest.json/small", "is no folder")):
        assert main([*words, "--bundle", str(made / place)]) == 2
        said = capsys.readouterr()
        assert refusal in said.err
        assert not said.out, "before anything is measured"
    with pytest.raises(SystemExit):
        main([*words[:-1], "0", "--bundle", str(tmp_path / "small")])
    assert "0 members score nothing" in capsys.readouterr().err


def test_the_report_shows_the_curve_and_what_stands_beside_it(made: Path, small: Bundle, tmp_path: Path) -> None:
    """Six members and three on the same clips: told apart by name, each with time and AUC at its step of the curve."""
    recordings = [record(tmp_path, condition, i) for condition in Condition for i in range(2)]
    reporter = Reporter(tmp_path / "report", ())
    with (
        closing(BundleContender(made / "small", device=Device.CPU, watch=reporter.embeddings)) as first,
        closing(BundleContender(made / "whole", device=Device.CPU)) as whole,
    ):
        assert first.lineage != whole.lineage, "no seed of the same system"
        evaluation = evaluate([first, whole], recordings, advance=ignore)
    assert [system.label for system in evaluation.systems] == ["earwitness 3 members", "earwitness 6 members"]
    reporter.write(evaluation, [first.content, whole.content])
    page, curve = read(tmp_path / "report"), Pruned.of(small.manifest.training_data)
    assert "A smaller ensemble" in page.text
    assert "pruned: bundle" not in page.text, "the curve is shown, and not listed among the facts"
    assert (tmp_path / "report" / "smaller-0.png").stat().st_size > 1000
    assert curve is not None
    labels = " ".join(page.values("aria-label"))
    assert f"{curve.curves[0].steps[3].agreement:.3f} with 3 as in this bundle" in labels
    measured = siblings([small, read_bundle(made / "whole")])
    assert [(one.bundle, one.members) for one in measured] == [(small.id, 3), (curve.bundle, 6)]
    data = replace(gather(evaluation, small, reporter.embeddings, command=""), siblings=measured)
    (table,) = curve_tables(data)
    pruning = Pruning.of(made / "whole", made / "work", 3)
    printed = curve_table(pruning.groups[0].curve, 3, {one.members: one.clip_ms for one in measured})
    assert [line[:-1] for line in table.lines] == list(printed.lines), "the very table that 'prune' prints"
    assert table.header[:-1] == printed.header
    areas = {system.bundle: figure(system.totals.mean_auc.value) for system in evaluation.systems}
    assert [line[0] for line in table.lines] == ["6", "5", "4", "3*", "2", "1"]
    assert [line[-1] for line in table.lines] == [areas[curve.bundle], DASH, DASH, areas[small.id], DASH, DASH]
    assert [line[-2] for line in table.lines][1:3] == [DASH, DASH]
    assert float(table.lines[0][-2]) > 0.0
    assert siblings([read_bundle(made / "whole"), small]) == (), "a bundle as trained has no curve to stand on"


def test_what_a_clip_takes_is_of_the_curve_s_own_machine_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fan and valve are scored by other members: beside the valve's curve stands what a clip of a valve takes."""
    bundle = build_bundle()
    curves = tuple(Curve((name,), (Step(1, None, 1.0, 0.0, 0.0),)) for name in ("fan", "valve"))
    entries = bundle.manifest.machine_types
    facts = {
        "machine_types": {**entries, "fan": entries["fan"].model_copy(update={"loss": LossChoice.BOTH_HEADS})},
        "training_data": {"pruned": Pruned("whole", 1, curves).as_json()},
    }
    fan = mixtures_of(bundle, FAN)
    pruned = replace(
        bundle,
        manifest=bundle.manifest.model_copy(update=facts),
        sections={**bundle.sections, FAN: replace(fan, members=fan.members[:1])},
    )
    scored: list[str] = []
    score = Detector.score

    def watched(detector: Detector, clip: Clip, machine_type: str, section: str, domain: Domain) -> Assessment:
        scored.append(machine_type)
        return score(detector, clip, machine_type, section, domain)

    monkeypatch.setattr(Detector, "score", watched)
    found = siblings([pruned])
    assert [(one.machine_types, one.members) for one in found] == [(("fan",), 1), (("valve",), 1)]
    assert list(dict.fromkeys(scored)) == ["fan", "valve"]


def changed(bundle: Bundle, folder: Path, **facts: Any) -> Path:
    """The bundle written once more with another manifest."""
    manifest = Manifest.model_validate(dict(bundle.manifest) | {"files": {}} | facts)
    write_bundle(folder, replace(bundle, manifest=manifest, folder=None))
    return folder


def test_what_cannot_be_pruned_is_said_in_a_sentence(made: Path, small: Bundle, tmp_path: Path) -> None:
    """Too few members, a bundle that is pruned or extended already, fused systems, another's work folder, no bundle."""
    whole, work = read_bundle(made / "whole"), made / "work"
    with pytest.raises(DataError, match="no more than 6 members score a clip, and 6 are asked: ask for 1 to 5"):
        Pruning.of(made / "whole", work, 6)
    with pytest.raises(DataError, match=f"Prune the whole bundle {whole.id} to 2 members"):
        Pruning.of(made / "small", work, 2)
    told = {**whole.manifest.training_data, "extended": []}
    extended = changed(whole, tmp_path / "extended", training_data=told)
    with pytest.raises(DataError, match="was extended"):
        Pruning.of(extended, work, 3)
    other = changed(whole, tmp_path / "other", recipe={**whole.manifest.recipe, "seed": 1})
    with pytest.raises(DataError, match="does not hold what each member"):
        Pruning.of(other, work, 3)
    with pytest.MonkeyPatch.context() as patch:
        fused = replace(whole, manifest=whole.manifest.model_copy(update={"fusion": "p_values"}))
        patch.setattr("training.prune.read_bundle", lambda _: fused)
        with pytest.raises(DataError, match="fuses systems by p-value"):
            Pruning.of(made / "whole", work, 3)
    with pytest.raises(BundleError, match="there is no bundle here"):
        Pruning.of(tmp_path / "nothing", work, 3)


def test_where_losses_are_summed_every_machine_type_keeps_a_member(tmp_path: Path) -> None:
    """The fan is scored by both members, the valve by the second alone: that one stays, however much it disagrees."""
    random, bundle = np.random.default_rng(3), build_bundle()
    scores = {
        (key, domain): CalibrationScores(random.normal(size=(30, 2 if key == FAN else 1)), ThresholdRule.PAPER)
        for key, domain in bundle.calibrations
    }
    calibrations = {
        place: replace(one, calibration=scores[place].calibration(one.calibration.percentile))
        for place, one in bundle.calibrations.items()
    }
    whole = write_bundle(tmp_path / "whole", with_canary(replace(bundle, calibrations=calibrations)))
    keep_scores(tmp_path / "work", whole.manifest.recipe, scores)
    pruning = Pruning.of(tmp_path / "whole", tmp_path / "work", 1)
    assert [group.curve.machine_types for group in pruning.groups] == [("fan", "valve")]
    assert pruning.kept == (1,)
    small = pruning.write(tmp_path / "small")
    for key in (FAN, VALVE):
        assert len(mixtures_of(small, key).members) == 1
        place = key, Domain.SOURCE
        np.testing.assert_array_equal(
            small.calibrations[place].calibration.scores, np.sort(scores[place].by_member[:, -1])
        )
