"""From bytes or a file to a mono float32 waveform at 16 kHz, and the length rule that training and serving share.

Conventions: waveforms are float32 in [-1, 1]; levels are RMS in dB relative to full scale; a `Clip` keeps the facts of
the recording as it came (rate, channels, clipping) beside the waveform as it is scored.
"""

import hashlib
import io
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from models.errors import (
    AudioError,
    ClipTooLong,
    ClipTooShort,
    NonFiniteAudio,
    NotAudio,
    SilentClip,
    UndecodableAudio,
)

SAMPLE_RATE_HZ = 16_000
CLIP_S = 10.0
CLIP_SAMPLES = 160_000
HOP_S = 5.0
MIN_CLIP_S = 2.0
MAX_CLIP_S = 60.0
SILENT_PEAK = 1e-4
FULL_SCALE = 0.9995
"""A raw sample at or beyond this magnitude counts as clipped (16-bit full scale less a few steps)."""

_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 4_000, 768_000
_MOST_CHANNELS = 64
_BLOCK_SAMPLES = 1 << 18
"""Decoded at a time, of all channels: an ordinary clip at once."""
_FORMATS = {"WAV", "WAVEX", "FLAC", "OGG"}
_UNKNOWN_LENGTH = 0x7F00_0000
"""A WAV written to a pipe declares a length it cannot know (0, or near 2 or 4 GiB): take what came."""
_LOUDEST_PEAK = 100.0
"""Float samples lie about within -1 and 1; 40 dB beyond, they were scaled otherwise, as integers perhaps."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A decoded recording.

    ``waveform``: (samples,) float32, mono, 16 kHz. ``sample_rate_hz`` and ``channels`` are the recording's own.
    ``level_dbfs``: RMS of the waveform. ``clipped_share``: share of raw samples at full scale. ``sha256``: of the bytes
    as received, what ``sha256sum`` prints for the file.
    """

    waveform: NDArray[np.float32]
    duration_s: float
    sample_rate_hz: int
    channels: int
    level_dbfs: float
    clipped_share: float
    sha256: str

    @cached_property
    def waveform_sha256(self) -> str:
        """SHA-256 of the waveform: equal for the same sound in another lossless container."""
        return hashlib.sha256(self.waveform.tobytes()).hexdigest()


def decode(source: bytes | Path, *, channel: int | None = None, max_clip_s: float = MAX_CLIP_S) -> Clip:
    """Decode a WAV (PCM of any depth, float), FLAC or OGG file to mono 16 kHz.

    Parameters
    ----------
    source : the file's bytes, or its path.
    channel : the channel to take (from 0); None averages all of them.
    max_clip_s : longest clip accepted; decoding stops there, whatever length the file declares.

    Raises
    ------
    NotAudio, UndecodableAudio, ClipTooShort, ClipTooLong, SilentClip, NonFiniteAudio; OSError for an unreadable path.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    if not content:
        raise NotAudio("The clip has 0 bytes. Send a WAV, FLAC or OGG file.")
    _refuse_truncated_ogg(content)
    raw, rate_hz, channels, clipped_share = _read(io.BytesIO(_whole_wav(content)), channel, max_clip_s)
    peak = _peak(raw)
    if not np.isfinite(peak):
        raise NonFiniteAudio("The clip holds NaN or infinite samples. Check the recorder or the conversion to float.")
    duration_s = len(raw) / rate_hz
    if duration_s < MIN_CLIP_S:
        raise ClipTooShort(
            f"The clip lasts {duration_s:.3f} s; at least {MIN_CLIP_S:g} s are needed, and {CLIP_S:g} s are best."
        )
    waveform = raw
    if rate_hz != SAMPLE_RATE_HZ:
        waveform = soxr.resample(raw, rate_hz, SAMPLE_RATE_HZ)
        peak = _peak(waveform)
    if peak < SILENT_PEAK:
        raise SilentClip(
            f"The clip is silent: its peak is {peak:.2g} of full scale, under {SILENT_PEAK:g}. Check that the "
            "microphone is connected and not muted" + (", and choose one channel." if channels > 1 else ".")
        )
    if peak > _LOUDEST_PEAK:
        raise AudioError(
            f"The clip's peak is {peak:.3g} times full scale: its float samples are not within -1 and 1. Divide them "
            "by the recorder's full scale (32768 where they are 16-bit integers written as floats)."
        )
    power = float(np.einsum("i,i->", waveform, waveform, dtype=np.float64)) / len(
        waveform
    )  # without an array of squares
    return Clip(
        waveform=waveform,
        duration_s=duration_s,
        sample_rate_hz=rate_hz,
        channels=channels,
        level_dbfs=10.0 * float(np.log10(power)),
        clipped_share=clipped_share,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _read(file: BinaryIO, channel: int | None, max_clip_s: float) -> tuple[NDArray[np.float32], int, int, float]:
    """Decode block by block, so that memory follows the sound that is kept and not what a header declares."""
    try:
        with soundfile.SoundFile(file) as sound:
            if sound.format not in _FORMATS:
                raise NotAudio(f"{sound.format} files are not accepted. Send a WAV, FLAC or OGG file.")
            rate_hz, channels = sound.samplerate, sound.channels
            _check_layout(rate_hz, channels, channel)
            most_frames = int(max_clip_s * rate_hz)
            blocks: list[NDArray[np.float32]] = []
            frames = clipped = 0
            while len(block := sound.read(_BLOCK_SAMPLES // channels, dtype="float32", always_2d=True)):
                frames += len(block)
                if frames > most_frames:
                    raise ClipTooLong(
                        f"The clip is longer than {max_clip_s:g} s, the most that is accepted. Send shorter clips."
                    )
                if not _peak(block) < FULL_SCALE:
                    clipped += int(np.count_nonzero(np.abs(block) >= FULL_SCALE))
                taken = 0 if channels == 1 else channel
                blocks.append(block.mean(axis=1) if taken is None else np.ascontiguousarray(block[:, taken]))
            if sound.format in {"FLAC", "OGG"} and frames < sound.frames < _UNKNOWN_LENGTH:
                raise UndecodableAudio(_truncated(frames / rate_hz, sound.frames / rate_hz))
    except soundfile.LibsndfileError as error:
        _refuse_undecodable(file, error)
    if not frames:
        raise ClipTooShort("The clip holds no samples. Check that the recording was not cut off at its start.")
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return samples, rate_hz, channels, clipped / (frames * channels)


def _peak(samples: NDArray[np.float32]) -> float:
    """The largest absolute value; NaN where there is one."""
    return abs(float(np.maximum(samples.max(), -samples.min())))  # of silence it would be -0.0


def _check_layout(rate_hz: int, channels: int, channel: int | None) -> None:
    if not _LOWEST_RATE_HZ <= rate_hz <= _HIGHEST_RATE_HZ:
        raise UndecodableAudio(
            f"The clip's sample rate is {rate_hz} Hz; {_LOWEST_RATE_HZ} to {_HIGHEST_RATE_HZ} Hz are accepted."
        )
    if channels > _MOST_CHANNELS:
        raise UndecodableAudio(f"The clip has {channels} channels; at most {_MOST_CHANNELS} are accepted.")
    if channel is not None and channel >= channels:
        raise UndecodableAudio(
            f"Channel {channel} (from 0) was asked for, but the clip has {channels}. Record as the bundle was trained."
        )


def _refuse_undecodable(file: BinaryIO, error: soundfile.LibsndfileError) -> None:
    file.seek(0)
    magic = file.read(4)
    if magic in {b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"riff"}:
        raise UndecodableAudio(
            f"The clip starts like an audio file but cannot be decoded ({error.error_string}) Send it whole, as it was."
        ) from error
    raise NotAudio(f"The clip is no audio file (it starts with {magic!r}). Send a WAV, FLAC or OGG file.") from error


def _truncated(found: float, declared: float) -> str:
    return f"The clip is truncated: its header declares {declared:.3f} s, {found:.3f} s are there. Send the whole file."


def _whole_wav(content: bytes) -> bytes:
    """The content, its length told where a recorder that wrote to a pipe told none.

    libsndfile reads a truncated WAV without a word, and one that declares no sound as empty; the chunks tell.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return content
    position, bytes_a_second = 12, 0
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        position += 8
        if name == b"fmt " and position + 12 <= len(content):
            bytes_a_second = struct.unpack_from("<I", content, position + 8)[0]
        if name == b"data":
            found = len(content) - position
            if size == 0:
                return content[: position - 4] + struct.pack("<I", min(found, 0xFFFF_FFFF)) + content[position:]
            if found < size < _UNKNOWN_LENGTH and bytes_a_second:
                raise UndecodableAudio(_truncated(found / bytes_a_second, size / bytes_a_second))
            return content
        position += size + size % 2
    raise UndecodableAudio("The clip is truncated: a WAV header without sound behind it. Send the whole file.")


def _refuse_truncated_ogg(content: bytes) -> None:
    """libsndfile reads an Ogg stream as far as it goes; its last page must be whole, and say that it is (RFC 3533)."""
    if content[:4] != b"OggS":
        return
    page = content[content.rfind(b"OggS") :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = len(page) > 26 and len(page) >= 27 + page[26] + sum(sizes)
    if not (whole and page[5] & 4):
        raise UndecodableAudio("The clip is truncated: its Ogg stream has no last page. Send the whole file.")


def silent_cuts_s(waveform: NDArray[np.float32]) -> list[float]:
    """Where the ten-second clips of `consecutive` begin that are silent, in seconds.

    A recorder that ran on while the machine or the microphone was off must not teach that silence is normal.
    """
    peaks = np.abs(consecutive(waveform)).max(axis=1)
    return [CLIP_S * place for place in np.flatnonzero(peaks < SILENT_PEAK).tolist()]


def windows(waveform: NDArray[np.float32], hop_s: float = HOP_S) -> NDArray[np.float32]:
    """The length rule: ten-second windows of a clip, (windows, 160000).

    A clip of 2 to 10 s is repeated cyclically to one window. A longer one gives a window every ``hop_s``; the last
    window ends with the clip.

    Raises
    ------
    ClipTooShort : for less than 2 s.
    """
    if len(waveform) <= CLIP_SAMPLES:
        return _repeated(waveform)[None]
    return np.stack([waveform[start : start + CLIP_SAMPLES] for start in _starts(len(waveform), hop_s)])


def window_starts_s(samples: int) -> list[float]:
    """Where the windows of a clip of so many samples begin, in seconds."""
    return [start / SAMPLE_RATE_HZ for start in _starts(samples, HOP_S)]


def consecutive(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """A plant's own recording cut for training: consecutive ten-second clips, (clips, 160000).

    What is left at the end of a longer recording is dropped: windows that overlap would count a moment twice.
    """
    if len(waveform) < CLIP_SAMPLES:
        return windows(waveform)
    clips: NDArray[np.float32] = waveform[: len(waveform) // CLIP_SAMPLES * CLIP_SAMPLES].reshape(-1, CLIP_SAMPLES)
    return clips


def silent_share(waveform: NDArray[np.float32]) -> float:
    """The share of a waveform's tenths of a second whose peak is under `SILENT_PEAK`; the last, if shorter, is not."""
    frame = SAMPLE_RATE_HZ // 10
    whole = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    return float((np.abs(whole).max(axis=1) < SILENT_PEAK).mean())


def first_clip(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first ten seconds, (160000,): the challenge's training clips and registered target clips."""
    clip: NDArray[np.float32] = windows(waveform[:CLIP_SAMPLES])[0]
    return clip


def _starts(samples: int, hop_s: float) -> list[int]:
    last = max(0, samples - CLIP_SAMPLES)
    starts = list(range(0, last, int(hop_s * SAMPLE_RATE_HZ)))
    return [*starts, last]


def _repeated(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(waveform) < MIN_CLIP_S * SAMPLE_RATE_HZ:
        raise ClipTooShort(f"{len(waveform) / SAMPLE_RATE_HZ:.3f} s of sound; at least {MIN_CLIP_S:g} s are needed.")
    repeated: NDArray[np.float32] = np.resize(waveform, CLIP_SAMPLES)
    return repeated
