"""Decoding and the length rule, on files written by an independent encoder."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import errors
from models.audio import (
    CLIP_SAMPLES,
    consecutive,
    decode,
    first_clip,
    window_starts_s,
    windows,
)


def tone(seconds: float = 10.0, rate_hz: int = 16_000, level: float = 0.3) -> NDArray[np.float64]:
    """A 440 Hz sine."""
    wave: NDArray[np.float64] = level * np.sin(2 * np.pi * 440.0 * np.arange(round(seconds * rate_hz)) / rate_hz)
    return wave


def encoded(samples: NDArray[Any], rate_hz: int = 16_000, container: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """The samples as a file's bytes."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "DOUBLE", 1e-6),
        ("WAVEX", "PCM_16", 1e-4),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.1),
    ],
)
def test_every_accepted_encoding_gives_the_waveform(container: str, subtype: str, tolerance: float) -> None:
    """Any PCM depth and float, FLAC and OGG."""
    clip = decode(encoded(tone(), container=container, subtype=subtype))
    assert (clip.duration_s, clip.sample_rate_hz, clip.channels) == (10.0, 16_000, 1)
    assert np.abs(clip.waveform - tone()).max() < tolerance
    assert clip.level_dbfs == pytest.approx(20 * np.log10(0.3 / np.sqrt(2)), abs=0.1)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_any_rate_becomes_ten_seconds_at_16_khz(rate_hz: int) -> None:
    """The same tone comes out, the recording's own rate is kept as a fact."""
    clip = decode(encoded(tone(rate_hz=rate_hz), rate_hz))
    assert clip.sample_rate_hz == rate_hz
    assert clip.waveform.shape == (CLIP_SAMPLES,)
    assert np.abs(clip.waveform - tone())[400:-400].max() < 2e-3


def test_channels_are_averaged_or_one_is_chosen() -> None:
    """Left is a tone, right is half of it."""
    stereo = np.stack([tone(), 0.5 * tone()], axis=1)
    content = encoded(stereo, subtype="PCM_24")
    assert decode(content).channels == 2
    np.testing.assert_allclose(decode(content).waveform, 0.75 * tone(), atol=1e-6)
    np.testing.assert_allclose(decode(content, channel=1).waveform, 0.5 * tone(), atol=1e-6)
    with pytest.raises(errors.UndecodableAudio, match="Channel 2"):
        decode(content, channel=2)


def test_a_path_and_its_bytes_are_the_same_clip(tmp_path: Path) -> None:
    """And the digest is that of the file; the waveform's digest is that of the sound."""
    samples = (tone() * 32768).astype(np.int16)
    (tmp_path / "a.wav").write_bytes(encoded(samples))
    clip, flac = decode(tmp_path / "a.wav"), decode(encoded(samples, container="FLAC"))
    assert clip.sha256 == hashlib.sha256(encoded(samples)).hexdigest()
    assert clip.sha256 != flac.sha256
    assert clip.waveform_sha256 == flac.waveform_sha256


def test_clipping_is_measured_on_the_raw_samples() -> None:
    """A tone of twice full scale is clipped two thirds of the time."""
    assert decode(encoded(tone())).clipped_share == 0.0
    assert decode(encoded(np.clip(tone(level=2.0), -1, 1))).clipped_share == pytest.approx(2 / 3, abs=0.02)


def piped(content: bytes, size: int) -> bytes:
    """A WAV as a recorder writes it to a pipe: the length of its data is a guess."""
    position = content.index(b"data") + 4
    return content[:position] + size.to_bytes(4, "little") + content[position + 4 :]


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x80000000 - 36, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_is_read_to_its_end(size: int) -> None:
    """arecord, ffmpeg and sox cannot know the length when they write the header."""
    assert decode(piped(encoded(tone()), size)).duration_s == 10.0


BAD_CLIPS = {
    "0 bytes": (b"", errors.NotAudio, "0 bytes"),
    "a JPEG": (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(2000), errors.NotAudio, "no audio file"),
    "text": (b"hello, this is no sound" * 50, errors.NotAudio, "no audio file"),
    "truncated WAV": (encoded(tone())[:100_000], errors.UndecodableAudio, "declares 10.000 s, 3.12"),
    "WAV header alone": (encoded(tone())[:44], errors.UndecodableAudio, "truncated"),
    "truncated FLAC": (encoded(tone(), container="FLAC")[:20_000], errors.UndecodableAudio, "whole"),
    "100 ms": (encoded(tone(0.1)), errors.ClipTooShort, "0.100 s"),
    "truncated OGG": (
        encoded(tone(), container="OGG", subtype="VORBIS")[:-10],
        errors.UndecodableAudio,
        "no last page",
    ),
    "OGG cut early": (encoded(tone(), container="OGG", subtype="VORBIS")[:5_000], errors.UndecodableAudio, "no last"),
    "RF64": (encoded(tone(), container="RF64"), errors.NotAudio, "RF64 files are not accepted"),
    "integers as floats": (encoded(30_000 * tone(), subtype="FLOAT"), errors.AudioError, "times full scale"),
    "huge floats": (encoded(1e30 * tone(), subtype="FLOAT"), errors.AudioError, "Divide them"),
    "no samples": (encoded(tone(0.0)), errors.ClipTooShort, "no samples"),
    "61 s": (encoded(tone(61.0)), errors.ClipTooLong, "60 s"),
    "digital silence": (encoded(np.zeros(CLIP_SAMPLES)), errors.SilentClip, "peak is 0 of full scale.*microphone"),
    "near silence": (encoded(tone(level=6e-5), subtype="FLOAT"), errors.SilentClip, "peak is 6e-05 of full scale"),
    "opposite channels": (encoded(np.stack([tone(), -tone()], 1)), errors.SilentClip, "choose one channel"),
    "NaN": (encoded(np.full(CLIP_SAMPLES, np.nan), subtype="FLOAT"), errors.NonFiniteAudio, "NaN"),
    "infinity": (encoded(np.full(CLIP_SAMPLES, np.inf), subtype="FLOAT"), errors.NonFiniteAudio, "infinite"),
    "1 kHz rate": (encoded(tone(rate_hz=1000), 1000), errors.UndecodableAudio, "1000 Hz"),
    "AIFF": (encoded(tone(), container="AIFF"), errors.NotAudio, "AIFF"),
}


@pytest.mark.parametrize("case", BAD_CLIPS)
def test_bad_clips_are_refused_with_their_value(case: str) -> None:
    """Each its own error, whose message says what is wrong."""
    content, error, words = BAD_CLIPS[case]
    with pytest.raises(error, match=words):
        decode(content)


def test_an_hour_of_flac_silence_costs_a_minute_of_memory() -> None:
    """The bomb is a few hundred kilobytes; decoding stops at the longest clip accepted."""
    import tracemalloc

    bomb = encoded(np.zeros(3600 * 16_000), container="FLAC")
    assert len(bomb) < 2_000_000
    tracemalloc.start()
    with pytest.raises(errors.ClipTooLong):
        decode(bomb)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_short_clips_repeat_cyclically() -> None:
    """Three seconds fill ten: three whole turns and a third."""
    waveform = np.arange(48_000, dtype=np.float32)
    window = windows(waveform)
    assert window.shape == (1, CLIP_SAMPLES)
    np.testing.assert_array_equal(window[0], np.tile(waveform, 4)[:CLIP_SAMPLES])


@given(samples=st.integers(CLIP_SAMPLES, 6 * CLIP_SAMPLES))
@settings(max_examples=60, deadline=None)
def test_windows_cover_a_long_clip_from_its_start_to_its_end(samples: int) -> None:
    """A window every five seconds, none further apart, the last ends with the clip."""
    waveform = np.arange(samples, dtype=np.float32)
    cut, starts = windows(waveform), np.round(np.array(window_starts_s(samples)) * 16_000)
    assert cut.shape == (len(starts), CLIP_SAMPLES)
    np.testing.assert_array_equal(cut[:, 0], starts)
    assert cut[0, 0] == 0
    assert cut[-1, -1] == samples - 1
    assert np.all(np.diff(starts) > 0)
    assert np.all(np.diff(starts)[:-1] == 80_000)


def test_training_cuts_do_not_overlap_and_drop_the_remainder() -> None:
    """25 s are two clips; 4 s are one, repeated."""
    waveform = np.arange(25 * 16_000, dtype=np.float32)
    np.testing.assert_array_equal(consecutive(waveform).ravel(), waveform[: 2 * CLIP_SAMPLES])
    np.testing.assert_array_equal(consecutive(waveform[:64_000]), windows(waveform[:64_000]))
    np.testing.assert_array_equal(first_clip(waveform), waveform[:CLIP_SAMPLES])


def test_under_two_seconds_nothing_is_repeated() -> None:
    """The rule's lower end."""
    with pytest.raises(errors.ClipTooShort):
        windows(np.ones(31_999, np.float32))
