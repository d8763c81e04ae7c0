"""A section whose first clips all alarm has met a condition that its training did not hold, or a fault.

Which of the two, no detector can tell, and "anomalous" five times over would hide that it cannot.
"""

from collections import Counter

from models.assessment import Assessment, Notice
from models.vocabulary import Decision, Domain, SectionKey, WarningCode

FIRST_CLIPS = 5
"""By chance so many of a section's first clips alarm once in a hundred thousand sections, at a rate of one in ten."""


class FirstClips:
    """Counts the clips of each section and domain until one of them is normal; of one loaded bundle."""

    def __init__(self) -> None:
        self._alarms: Counter[tuple[SectionKey, Domain, int | None]] = Counter()
        self._heard_normal: set[tuple[SectionKey, Domain, int | None]] = set()

    def observe(self, assessment: Assessment, target_version: int | None) -> Notice | None:
        """Count a clip, and say so where it is one of at least five that have all alarmed, the first of its section.

        Other target clips (``target_version``) begin anew.
        """
        place = SectionKey(assessment.machine_type, assessment.section), assessment.domain, target_version
        if assessment.decision is Decision.NORMAL:
            self._heard_normal.add(place)
        if assessment.decision is not Decision.ANOMALOUS or place in self._heard_normal:
            return None
        self._alarms[place] += 1
        if self._alarms[place] < FIRST_CLIPS:
            return None
        return Notice(
            WarningCode.UNKNOWN_CONDITION_OR_FAULT,
            f"All {self._alarms[place]} clips of this section since the service started are anomalous. Either it runs "
            "under a condition that was not recorded for training, or it has a fault. If it is sound, register three "
            "or more normal clips with POST /target-samples and score with domain 'target', or train on such ones.",
        )
