"""The command line's errors: a sentence and exit status 2, whatever goes wrong at the edge."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.frontend import LogMelSpec
from models.vocabulary import Domain, SectionKey
from training.baselines import mobilenetv2
from training.baselines.folder import write_trained
from training.baselines.trained import Network, Trained
from training.cli import main
from training.scored import SystemName

ROOT = Path(__file__).parents[2]


def training(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`python -m training`."""
    return subprocess.run(
        [sys.executable, "-m", "training", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("path\n", "names no recordings"),
        ("path,colour\na.wav,red\n", "colour"),
        ("path,machine_type\nmissing.wav,fan\n", "missing.wav"),
    ],
)
def test_unusable_data_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, words: str
) -> None:
    """A missing manifest, an empty one, a strange column, a missing file."""
    manifest = tmp_path / "recordings.csv"
    if content is not None:
        manifest.write_text(content)
    places = ["--work", tmp_path / "work", "--bundle", tmp_path / "bundle"]
    assert main(["train", *map(str, [manifest, *places]), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
    assert not (tmp_path / "work").exists()


def test_a_backend_that_keras_does_not_know_is_said_in_a_sentence(tmp_path: Path) -> None:
    """KERAS_BACKEND misspelt."""
    arguments = (tmp_path, "--work", tmp_path / "work", "--bundle", tmp_path / "bundle")
    result = training("train", *arguments, KERAS_BACKEND="tensorflaw")
    assert result.returncode == 2
    assert "tensorflaw" in result.stderr
    assert "Traceback" not in result.stderr


def test_it_is_said_where_a_study_or_a_baseline_needs_keras(tmp_path: Path) -> None:
    """A classifier of sections opens its networks by Keras; `evaluate` does not otherwise need it."""
    key, work = SectionKey("fan", "00"), tmp_path / "work"
    write_trained(
        work,
        Trained(
            kind=SystemName.MOBILENETV2,
            seed=0,
            recordings="0" * 64,
            clips=1,
            front_end=LogMelSpec(),
            networks={"fan": Network((key,), mobilenetv2.BUDGET)},
            thresholds={(key, Domain.SOURCE): None},
            arrays={},
        ),
    )
    clip = tmp_path / "fan" / "source_test" / "section_00_source_test_normal_0000.wav"
    clip.parent.mkdir(parents=True)
    clip.touch()
    bundle = ROOT / "models" / "bundles" / "demonstration"
    for words in (("study", tmp_path, "--work", work), ("evaluate", bundle, tmp_path, "--baseline", work)):
        result = training(*words, KERAS_BACKEND="tensorflaw")
        assert result.returncode == 2
        assert "Set KERAS_BACKEND to tensorflow or jax" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("option", [("--seed", -1), ("--seed", 2**32), ("--workers", 0), ("--workers", -2)])
def test_numbers_that_would_fail_after_the_training_are_refused_first(tmp_path: Path, option: tuple[str, int]) -> None:
    """numpy takes no negative seed, scikit-learn none above 32 bits."""
    result = training("train", tmp_path, "--work", tmp_path / "work", "--bundle", tmp_path / "bundle", *option)
    assert result.returncode == 2
    assert f"argument {option[0]}: " in result.stderr
    assert "Traceback" not in result.stderr


def test_the_scale_can_be_fixed_as_a_diverged_run_advises(tmp_path: Path) -> None:
    """Said in the plan, as every choice made otherwise; and the plan of one stage names that stage alone."""
    made = training("synthesize", tmp_path, "--machine-types", "fan", "--train-clips", 2, "--test-clips", 0)
    assert made.returncode == 0, made.stderr
    options = ("--recipe", "smoke", "--work", tmp_path / "work", "--set", "scale=fixed", "--dry-run")
    plan = training("fit", tmp_path, *options)
    assert plan.returncode == 0, plan.stderr
    assert ", scale=fixed\n" in plan.stdout
    assert "network both-heads-s2" in plan.stdout
    assert "mixtures" not in plan.stdout
    refused = training("fit", tmp_path, *options[:-2], "scale=loose", "--dry-run")
    assert refused.returncode == 2
    assert "error: --set scale='loose' cannot be: give published or fixed." in refused.stderr


def test_a_name_that_is_no_text_is_said_in_a_sentence(tmp_path: Path) -> None:
    """A folder named in Latin-1, as old recorders and memory sticks name them."""
    folder = os.fsencode(tmp_path) + b"/Gebl\xe4se"
    os.mkdir(folder)
    Path(os.fsdecode(folder), "monday.wav").write_bytes(b"RIFF")
    result = training("manifest", os.fsdecode(folder), tmp_path / "out.csv")
    assert result.returncode == 2
    assert "not UTF-8" in result.stderr
    assert "Rename" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.csv").exists()
