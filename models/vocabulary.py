"""The words of the field as types: closed sets are enums, names that users choose are validated once, at the edge."""

import re
from dataclasses import dataclass
from enum import StrEnum

from models.errors import InvalidName

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
NO_ATTRIBUTE = "noAttribute"
"""How a clip without attribute is named in a section; each section's is a class of its own."""


class Domain(StrEnum):
    """``source``: the condition with many recordings. ``target``: a changed condition with a few."""

    SOURCE = "source"
    TARGET = "target"


class Split(StrEnum):
    """What a recording is for."""

    TRAIN = "train"
    TEST = "test"


class Condition(StrEnum):
    """The truth about a recording, as the challenge writes it."""

    NORMAL = "normal"
    ANOMALY = "anomaly"


class Decision(StrEnum):
    """What the detector says of a clip."""

    NORMAL = "normal"
    ANOMALOUS = "anomalous"


class ThresholdRule(StrEnum):
    """Which scores of training clips a threshold is the percentile of.

    ``paper``: of the very clips the mixtures were fitted on (paper 2.6). ``held_out``: of clips that the mixtures,
    cross-fitted in folds, have not seen. ``conditions``: of operating conditions that nothing has seen.
    """

    PAPER = "paper"
    HELD_OUT = "held_out"
    CONDITIONS = "conditions"


class LossChoice(StrEnum):
    """Whose members score a machine type (paper 2.5): networks trained with both heads, the section head, or all."""

    BOTH_HEADS = "both heads"
    SECTIONS = "sections"
    SUM = "sum"


class SubSystem(StrEnum):
    """The parts that a fused score consists of, by what hears the clip.

    ``A``: networks on its statics and dynamics. ``L``: networks on its linear spectrum. ``R``: the paper's ResNets on
    its log-mel spectrogram. ``F``: no network, the Mahalanobis distance of its dynamics.
    """

    A = "A"
    L = "L"
    R = "R"
    F = "F"


class Precision(StrEnum):
    """In which numbers the networks multiply."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class WarningCode(StrEnum):
    """The documented codes of an answer's warnings."""

    FEW_CALIBRATION_CLIPS = "few_calibration_clips"
    NO_THRESHOLD = "no_threshold"
    RATE_NOT_SUPPORTED = "rate_not_supported"
    UNKNOWN_CONDITION_OR_FAULT = "unknown_condition_or_fault"
    LEVEL_BELOW_NORMAL = "level_below_normal"
    CLIPPED = "clipped"
    RATE_BELOW_16_KHZ = "rate_below_16_khz"
    REPEATED_TO_10_S = "repeated_to_10_s"
    PARTLY_SILENT = "partly_silent"
    UNLIKE_THE_OTHERS = "unlike_the_others"
    DEMONSTRATION_BUNDLE = "demonstration_bundle"


@dataclass(frozen=True, slots=True, order=True)
class SectionKey:
    """One microphone position on one machine: what a model of normal sound belongs to."""

    machine_type: str
    section: str


def check_name(kind: str, value: str) -> str:
    """Return ``value`` if it can be a name of ``kind`` ("machine type", "section", ...), else raise `InvalidName`."""
    if not re.fullmatch(NAME_PATTERN, value):
        shown = value if len(value) <= 80 else value[:77] + "..."
        raise InvalidName(
            f"{shown!r} is not a valid {kind}: use 1 to 64 letters, digits, dots, underscores or hyphens, "
            "starting with a letter or a digit, for example 'line-3-pump'."
        )
    return value
