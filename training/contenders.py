"""A bundle as a contender: its scores are `models.detector.Detector`'s, terms and thresholds included, as served."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.audio import Clip
from models.bundle import Bundle
from models.decision import Calibration
from models.detector import Detector
from models.encoder import EMBEDDING_SIZE, Device
from models.scoring import SectionModel, score_section
from models.systems import Embeddings, Features, joined, split
from models.vocabulary import Domain, LossChoice, SectionKey, SubSystem
from training.listing import listed
from training.progress import Advance
from training.recordings import Place, Recording
from training.scored import PartKind, PartName, Scored, SystemName
from training.test_clips import CutClip, ahead, read_clips

BATCH_WINDOWS = 32
"""Windows that are encoded together."""

Watch = Callable[[Scored, NDArray[np.float32]], None]
"""Sees a clip and its windows' embeddings, (windows, members of its type, 128), which nobody else keeps."""

_UNHEARD = np.zeros((1, 1, EMBEDDING_SIZE), np.float32)
"""What is watched of a clip that no network hears: a bundle of the dynamics alone has no map."""


@dataclass(frozen=True, slots=True, eq=False)
class _Analysed:
    """A clip on its way to the networks."""

    cut: CutClip
    features: Features


class BundleContender:
    """A bundle on its device, see `training.scored.Contender`.

    Parameters
    ----------
    folder : the bundle's.
    device : where the networks run.
    watch : called with each clip once it is scored.

    Raises
    ------
    BundleError, DeviceUnavailable : where the bundle cannot be opened.
    """

    def __init__(self, folder: Path, *, device: Device = Device.AUTO, watch: Watch | None = None) -> None:
        self._watch = watch
        self._detector = Detector.load(folder, device=device)
        manifest = self._detector.bundle.manifest
        name, seed, rule = (manifest.recipe.get(word) for word in ("name", "seed", "calibration"))
        self.name = SystemName.EARWITNESS
        self.bundle: str | None = self._detector.bundle.id
        self.recipe = name if isinstance(name, str) else None
        self.seed = seed if isinstance(seed, int) else None
        self.rule: str | None = rule if isinstance(rule, str) else None
        self.members = max(map(len, map(self._detector.members_of, manifest.machine_types)))
        keys = self._detector.sections
        self._known = frozenset(keys)
        self._adapted = frozenset(key for key in keys if self._detector.bundle_target(key) is not None)

    @property
    def content(self) -> Bundle:
        """The bundle itself, as it was opened."""
        return self._detector.bundle

    @property
    def lineage(self) -> str:
        """Every choice but the recipe's seed: how many members are left, sections, attributes, numbers of clips."""
        manifest = self._detector.bundle.manifest
        told: dict[str, Any] = {
            "recipe": {name: value for name, value in manifest.recipe.items() if name != "seed"},
            "clips": {name: manifest.training_data.get(name) for name in ("clips", "recordings", "contrast_clips")},
            "members": self.members,
            "machine_types": manifest.model_dump(mode="json", include={"machine_types"}),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def calibrations(self) -> Mapping[Place, Calibration]:
        """The scores that its thresholds are taken from."""
        return {
            (key.machine_type, key.section, domain): calibration
            for (key, domain), calibration in self._detector.calibrations.items()
        }

    def lacks(self, recording: Recording) -> str | None:
        """Why this recording cannot be scored: its section is not the bundle's, or has no target clips."""
        if recording.key not in self._known:
            machine_types = self._detector.bundle.manifest.machine_types
            if recording.machine_type not in machine_types:
                return f"the bundle does not know the machine type, only {listed(sorted(machine_types))}"
            sections = machine_types[recording.machine_type].sections
            return f"the bundle does not know the section, only {listed(sorted(sections))}"
        if recording.domain is Domain.TARGET and recording.key not in self._adapted:
            return "the bundle has no target clips there"
        return None

    def score(self, recordings: Sequence[Recording], advance: Advance) -> Iterator[Scored]:
        """Decode and analyse in threads, a few recordings ahead; encode the windows of several clips together."""
        waiting: list[_Analysed] = []
        ready = 0
        for analysed in ahead(self._analyse, sorted(recordings, key=lambda recording: recording.machine_type)):
            if waiting and waiting[0].cut.recording.machine_type != analysed[0].cut.recording.machine_type:
                yield from self._assess(waiting)
                waiting = []
            waiting += analysed
            ready += 1
            if sum(len(one.features.log_mels) for one in waiting) >= BATCH_WINDOWS:
                yield from self._assess(waiting)
                advance(ready)
                waiting, ready = [], 0
        yield from self._assess(waiting)
        advance(ready)

    def close(self) -> None:
        """Give back the threads."""
        self._detector.close()

    def _analyse(self, recording: Recording) -> list[_Analysed]:
        return [_Analysed(cut, self._detector.analyse(cut.clip)) for cut in read_clips(recording, self._decode)]

    def _decode(self, path: Path, max_clip_s: float) -> Clip:
        return self._detector.decode(path, max_clip_s=max_clip_s)

    def _assess(self, analysed: Sequence[_Analysed]) -> Iterator[Scored]:
        """Encode clips of one machine type together, and assess each."""
        if not analysed:
            return
        inputs = joined([self._detector.inputs(one.features) for one in analysed])
        embeddings = split(
            self._detector.encode(inputs, analysed[0].cut.recording.machine_type),
            [len(one.features.log_mels) for one in analysed],
        )
        for one, own in zip(analysed, embeddings, strict=True):
            key, domain = one.cut.recording.key, one.cut.recording.domain
            scores = self._detector.rate(key, domain, one.features, own)
            assessment = self._detector.assess(key, domain, one.cut.clip, scores)
            terms = [system.terms for system in assessment.systems.values()]
            parts = {
                (PartKind.TERM, name): value for term in terms for name, value in term.items() if value is not None
            }
            scored = Scored(
                recording=one.cut.recording,
                start_s=one.cut.start_s,
                anomaly_score=assessment.anomaly_score,
                decision_score=assessment.decision_score,
                threshold=assessment.threshold,
                decision=assessment.decision,
                parts={**parts, **self._losses(key, domain, one.features, own)},
            )
            if self._watch is not None:
                self._watch(scored, np.concatenate(list(own.values()), axis=1) if own else _UNHEARD)
            yield scored

    def _losses(
        self, key: SectionKey, domain: Domain, features: Features, embeddings: Embeddings
    ) -> Mapping[PartName, float]:
        """Anomaly scores of the members of each loss apart, of those that score the machine type (Table 4)."""
        model = self._detector.bundle.sections[key]
        if not isinstance(model, SectionModel):  # fused systems are trained with both losses at once
            return {}
        places: defaultdict[LossChoice, list[int]] = defaultdict(list)
        for place, member in enumerate(self._detector.members_of(key.machine_type)):
            places[self._detector.bundle.manifest.members[member].heads].append(place)
        scores = {}
        for loss, own in places.items():
            part = replace(model, members=tuple(model.members[place] for place in own))
            terms = score_section(part, embeddings[SubSystem.R][:, own], features.t_max, domain)
            scores[PartKind.LOSS, loss.value] = float(np.mean(terms.anomaly_score))
        return scores
