"""A recipe with some of its choices made otherwise: ``--set NAME=VALUE``.

What may be set is what a user may have a reason to choose; `adjusted` reads and checks it, `departures` says it again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from models.errors import DataError
from models.vocabulary import LossChoice, Precision, SubSystem, ThresholdRule
from training.recipe import PAPER_LOSS_CHOICE, RECIPES, Backend, MixupLabels, Recipe, ScaleRule, ServedWeights


def _one_of(values: type[StrEnum]) -> tuple[Callable[[str], StrEnum], str]:
    return values, " or ".join(value.value for value in values)


def _number(least: int, most: int) -> tuple[Callable[[str], int], str]:
    def parse(text: str) -> int:
        if not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return parse, f"a number from {least} to {most}"


def _several(one: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def parse(text: str) -> tuple[Any, ...]:
        values = tuple(one(part.strip()) for part in text.split(","))
        if len(set(values)) < len(values):
            raise ValueError
        return values

    return parse


def _head(text: str) -> LossChoice:
    head = LossChoice(text)
    if head is LossChoice.SUM:
        raise ValueError
    return head


def _heard(text: str) -> SubSystem:
    heard = SubSystem(text)
    if heard is SubSystem.F:
        raise ValueError
    return heard


SETTABLE: Mapping[str, tuple[Callable[[str], Any], str]] = MappingProxyType(
    {
        "scale": _one_of(ScaleRule),
        "mixup_labels": _one_of(MixupLabels),
        "weights": _one_of(ServedWeights),
        "sub_clusters": (_several(_number(1, 64)[0]), "numbers from 1 to 64, as in 1,2,4"),
        "heads": (_several(_head), "'both heads', 'sections', or both with a comma between"),
        "default_loss": _one_of(LossChoice),
        "loss": (
            {"paper": PAPER_LOSS_CHOICE, "none": {}}.__getitem__,
            "paper (its choice for its seven types) or none",
        ),
        "snapshots": _number(1, 16),
        "steps": _number(1, 1_000_000),
        "backend": _one_of(Backend),
        "fold_networks": (_several(_heard), "A, L and R, as in A,L,R: R adds the paper's ResNets to 'plant'"),
        "target_smote": _number(0, 50),
    }
)
"""What ``--set`` may change: how its text is read, and what it may be."""


def adjusted(
    recipe: Recipe,
    settings: Iterable[str],
    calibration: ThresholdRule | None = None,
    precision: Precision = Precision.FLOAT32,
) -> Recipe:
    """``recipe`` with some choices made otherwise.

    Parameters
    ----------
    settings : each ``NAME=VALUE``.
    calibration : in place of the recipe's.
    precision : in which the exported networks compute.

    Raises
    ------
    DataError : for a name or value that cannot be set, with those that can, and for choices that do not fit together.
    """
    changes: dict[str, Any] = {"precision": precision}
    if calibration is not None:
        changes["calibration"] = calibration
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name not in SETTABLE or not equals:
            raise DataError(f"--set {setting!r} is no NAME=VALUE with a name of {', '.join(SETTABLE)}.")
        parse, allowed = SETTABLE[name]
        try:
            changes[name] = parse(text)
        except (ValueError, KeyError) as error:
            raise DataError(f"--set {name}={text!r} cannot be: give {allowed}.") from error
    try:
        return replace(recipe, **changes)
    except ValueError as error:
        raise DataError(str(error)) from error


def departures(recipe: Recipe) -> list[str]:
    """The choices in which ``recipe`` departs from the one of its name, as `adjusted` would read them."""
    usual = RECIPES[recipe.name]
    names = [name for name in SETTABLE if getattr(recipe, name) != getattr(usual, name)]
    return [f"{name}={_as_text(getattr(recipe, name))}" for name in names]


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return "paper" if value else "none"
    return str(value)
