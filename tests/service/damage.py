"""Thousands of damaged clips and forms: always the same ones, each made from a whole one by a few small accidents."""

import hashlib
import io
import random
from collections.abc import Callable, Iterable, Iterator

import httpx
import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile

from tests.service.bundles import FAN_0, sound, wav

FIELDS = {"machine_type": "fan", "section": "00", "domain": "source"}
Body = tuple[str, bytes]
"""A content type, and a body of it."""

_SEED = 20261124
_BOUNDARY = "multipart/form-data; boundary=between-the-parts"
_EXTREMES = (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x01\x00\x00\x00")
_OGG_POLYNOMIAL = 0x04C11DB7
_SERIAL, _CHECKSUM, _SEGMENTS = slice(14, 18), slice(22, 26), 26
"""Where an Ogg page (RFC 3533, section 6) has its stream's number, its checksum and the number of its segments."""


def whole() -> list[Body]:
    """A short clip in each container, and as a form."""
    short = sound(FAN_0, 950, seconds=3.0)
    clips = [
        ("audio/wav", wav(short)),
        ("audio/wav", _undated(short)),
        ("audio/wav", wav(short, subtype="PCM_24", rate=22_050)),
        ("audio/flac", wav(short, kind="FLAC")),
        ("audio/ogg", sealed(wav(short, subtype="VORBIS", kind="OGG"))),
    ]
    form = httpx.Request(
        "POST",
        "http://x",
        data=FIELDS,
        files={"audio": ("clip.flac", clips[3][1])},
        headers={"Content-Type": _BOUNDARY},
    )
    return [*clips, (_BOUNDARY, form.read())]


def damaged(count: int) -> Iterator[Body]:
    """The first ``count`` bodies of the corpus."""
    rng = random.Random(_SEED)
    bodies = whole()
    for _ in range(count):
        content_type, content = rng.choice(bodies)
        body = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 4))):
            if body:
                rng.choice(ACCIDENTS)(body, rng)
        damage = bytes(body)
        if content_type == "audio/ogg" and rng.random() < 0.5:  # or no damage would pass the checksums
            damage = sealed(damage)
        if rng.random() < 0.05:  # what it is called is not what it is
            content_type = rng.choice(bodies)[0]
        yield content_type, damage


def fingerprint(bodies: Iterable[Body]) -> str:
    """The SHA-256 of ``bodies``."""
    return hashlib.sha256(repr(list(bodies)).encode()).hexdigest()


def flipped(body: bytearray, rng: random.Random) -> None:
    """Some bits, most of them near the beginning, where the headers are."""
    for _ in range(rng.choice((1, 3, 30))):
        at = int(len(body) * rng.random() ** rng.choice((1, 8)))
        body[at] ^= 1 << rng.randrange(8)


def cut(body: bytearray, rng: random.Random) -> None:
    """The end is missing."""
    del body[rng.randrange(len(body)) :]


def excised(body: bytearray, rng: random.Random) -> None:
    """A part in the middle is missing."""
    at = rng.randrange(len(body))
    del body[at : at + rng.randrange(1, 5000)]


def repeated(body: bytearray, rng: random.Random) -> None:
    """A part comes twice."""
    at = rng.randrange(len(body))
    body[at:at] = body[at : at + rng.randrange(1, 5000)]


def extreme(body: bytearray, rng: random.Random) -> None:
    """A number of the header is as large or small as it can be."""
    at = rng.randrange(min(200, max(1, len(body) - 4)))
    body[at : at + 4] = rng.choice(_EXTREMES)


def inserted(body: bytearray, rng: random.Random) -> None:
    """Noise comes between."""
    at = rng.randrange(len(body))
    body[at:at] = rng.randbytes(rng.randrange(1, 2000))


ACCIDENTS: tuple[Callable[[bytearray, random.Random], None], ...] = (flipped, cut, excised, repeated, extreme, inserted)


def _undated(waveform: NDArray[np.float32]) -> bytes:
    """A WAV file of floats; libsndfile would write the time of day into it."""
    file = io.BytesIO()
    wavfile.write(file, 16_000, waveform)
    return file.getvalue()


def sealed(ogg: bytes) -> bytes:
    """The Ogg pages of ``ogg`` with stream number 1 (an encoder draws one) and the checksums that they then have."""
    pages = []
    for rest in ogg.split(b"OggS")[1:]:
        page = bytearray(b"OggS" + rest)
        if len(page) > _SEGMENTS:
            sizes = page[_SEGMENTS + 1 : _SEGMENTS + 1 + page[_SEGMENTS]]
            length = _SEGMENTS + 1 + len(sizes) + sum(sizes)
            page[_SERIAL] = (1).to_bytes(4, "little")
            page[_CHECKSUM] = bytes(4)
            page[_CHECKSUM] = _ogg_checksum(page[:length]).to_bytes(4, "little")
        pages.append(bytes(page))
    return ogg.split(b"OggS")[0] + b"".join(pages)


def _ogg_checksum(page: bytes | bytearray) -> int:
    """The CRC-32 of RFC 3533: like zlib's, but with the bits the other way round and nothing inverted."""
    checksum = 0
    for byte in page:
        checksum = (checksum << 8 & 0xFFFFFFFF) ^ _TABLE[checksum >> 24 ^ byte]
    return checksum


def _row(index: int) -> int:
    value = index << 24
    for _ in range(8):
        value = (value << 1 & 0xFFFFFFFF) ^ (_OGG_POLYNOMIAL if value >> 31 else 0)
    return value


_TABLE = [_row(index) for index in range(256)]
