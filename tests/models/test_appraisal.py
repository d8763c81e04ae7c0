"""Which of a few target clips is unlike the others."""

from dataclasses import replace

import numpy as np
import pytest

from models.appraisal import similarities
from models.bundle import Bundle
from models.mixture_system import MixtureSystem
from models.mixtures import fit_mixture
from models.references import References, cosine_distances, refer_to
from models.scoring import MemberModel, SectionModel
from tests.models.tiny import FAN


@pytest.mark.parametrize(
    ("spacings", "usual", "expected"),
    [
        ([1.0, 1.0, 1.0], 0.0, [1.0, 1.0, 1.0]),
        ([1.0, 1.0, 4.0], 0.0, [1.0, 1.0, 0.25]),
        ([1.0, 1.0, 4.0], 2.0, [1.0, 1.0, 0.5]),
        ([1.0, 1.0, 4.0], 9.0, [1.0, 1.0, 1.0]),
        ([6.0, 6.0, 6.0], 2.0, [1.0, 1.0, 1.0]),
        ([0.0, 0.0, 0.0], 0.0, [1.0, 1.0, 1.0]),
    ],
    ids=["alike", "by the others", "by source clips", "no farther than source clips", "all far", "the same sound"],
)
def test_similarity_is_to_what_is_to_be_expected(spacings: list[float], usual: float, expected: list[float]) -> None:
    """The others' spacings or that of source clips, whichever is larger."""
    np.testing.assert_allclose(similarities(np.array(spacings), usual), expected)


@pytest.mark.parametrize("kind", ["mixture", "references"])
def test_the_usual_spacing_of_members_is_that_of_their_source_clips(tiny_bundle: Bundle, kind: str) -> None:
    """The mean of 1 - cosine over all pairs of clips that the members know, each clip with itself among them."""
    x = np.random.default_rng(0).normal(size=(2, 30, 128)) + 0.5
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    members = []
    for own in x:
        section = refer_to(own) if kind == "references" else fit_mixture(own, 3, centers=own[:3], seed=0)
        attributes = {} if isinstance(section, References) else {"noAttribute": section}
        members.append(MemberModel(section, attributes, None))
    way = MixtureSystem(replace(tiny_bundle, sections={FAN: SectionModel(tuple(members), None)}))
    expected = np.mean([cosine_distances(own, own).mean() for own in x])
    assert way.usual_spacing(FAN) == pytest.approx(expected, rel=1e-4)
