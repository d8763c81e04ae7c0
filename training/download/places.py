"""Where things lie under the folder that a year is downloaded into.

::

    OUT/dev_data/<machine type>/{train,...}/     the tree that `training.recordings` reads
    OUT/eval_data/<machine type>/{train,...}/
    OUT/ground_truth/ground_truth_*.csv
    OUT/archives/<record>/<name>                 an archive, once its checksum is right; gone when it is unpacked
    OUT/archives/<record>/<name>.partial         what has been fetched of it, and in .etag the server's word for which
                                                 version it is of
    OUT/archives/<record>/<name>.unpacking/      its tree while it is being unpacked
    OUT/archives/<record>/<name>.json            that it is unpacked
"""

from dataclasses import dataclass
from pathlib import Path

ARCHIVES = "archives"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one archive lies, and all that belongs to it."""

    out: Path
    number: int
    name: str

    def _beside(self, ending: str) -> Path:
        return self.out / ARCHIVES / str(self.number) / f"{self.name}{ending}"

    @property
    def archive(self) -> Path:
        """The archive itself, whole and verified."""
        return self._beside("")

    @property
    def partial(self) -> Path:
        """What has been fetched of it so far."""
        return self._beside(".partial")

    @property
    def etag(self) -> Path:
        """Which version on the server the partial file is of."""
        return self._beside(".etag")

    @property
    def staging(self) -> Path:
        """The tree it becomes, relative to ``out``, before its folders are renamed into place."""
        return self._beside(".unpacking")

    @property
    def marker(self) -> Path:
        """Which folders it has become."""
        return self._beside(".json")

    def bytes_there(self) -> int:
        """Bytes of it that are on the disk, fetched whole or in part."""
        return next((path.stat().st_size for path in (self.archive, self.partial) if path.is_file()), 0)


def as_size(count: int) -> str:
    """Bytes for a person: '640 kB', '1.2 GB'."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
