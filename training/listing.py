"""Names in a sentence: the first few, and how many more there are."""

from collections.abc import Iterable

SHOWN = 6


def listed(names: Iterable[str], shown: int = SHOWN) -> str:
    """``a, b and 3 more``, in the order given."""
    ordered = list(names)
    more = len(ordered) - shown
    return ", ".join(ordered[:shown]) + (f" and {more} more" if more > 0 else "")
