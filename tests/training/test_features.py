"""The feature store: what its rows hold, what is computed again and what never is, and that a kill costs little."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

import training.features
from models.audio import CLIP_SAMPLES, decode, first_clip
from models.errors import DataError, NotTrainable
from models.frontend import LogMelSpec, log_mel
from models.vocabulary import Condition, Domain, Split
from tests.training.small import run_python
from training.features import CONTRAST_SPEEDS, FeatureStore, count_clips, extract_features
from training.parallel import FEW_TASKS
from training.recordings import Recording

SPEC = LogMelSpec()
REPOSITORY = Path(__file__).parents[2]


def noise(seconds: float, seed: int, rate_hz: int = 16_000) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))).astype(np.float32)


def record(
    folder: Path, n: int, *, seconds: float = 2.0, challenge: bool = True, rate_hz: int = 16_000
) -> list[Recording]:
    """So many files of noise, each another one."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        soundfile.write(folder / f"{i:03d}.wav", noise(seconds, i, rate_hz), rate_hz, subtype="PCM_16")
    return [described(folder / f"{i:03d}.wav", challenge) for i in range(n)]


def described(path: Path, challenge: bool) -> Recording:
    return Recording(
        path, "fan", "00", Domain.SOURCE, Split.TRAIN, Condition.NORMAL, "", recording=str(path), challenge=challenge
    )


def extract(
    recordings: list[Recording],
    work: Path,
    *,
    spec: LogMelSpec = SPEC,
    contrast: bool = False,
    workers: int | None = 1,
) -> FeatureStore:
    done: list[int] = []
    store = extract_features(recordings, work, spec=spec, contrast=contrast, workers=workers, advance=done.append)
    assert sum(done) == len(store.clips) == count_clips(recordings, contrast=contrast)
    return store


def extraction_program(folder: Path, killed_after: int | None = None) -> str:
    """Python that extracts the files of ``sounds`` into ``work`` with two processes, and may kill itself in the middle.

    After so many clips it prints the processes that it has started, and is gone; with None it prints a line a clip.
    """
    return textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from tests.training.test_features import SPEC, described
        from training.features import extract_features

        done = 0
        def advance(clips):
            global done
            done += clips
            if {killed_after} is None:
                print("done", flush=True)
            if done == {killed_after}:
                children = Path("/proc/self/task").glob("*/children")
                print(*(pid for own in children for pid in own.read_text().split()), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        files = sorted(Path({str(folder / "sounds")!r}).iterdir())
        extract_features([described(file, True) for file in files], Path({str(folder / "work")!r}), spec=SPEC,
                         contrast=False, workers=2, advance=advance)
        """
    )


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How often a recording was decoded, in this process."""
    calls: list[int] = []

    def counting(content: bytes, **options: object) -> object:
        calls.append(1)
        return decode(content, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(training.features, "decode", counting)
        yield calls


def test_rows_hold_the_front_end_s_log_mels_of_the_first_ten_seconds(tmp_path: Path) -> None:
    recordings = record(tmp_path, 1, seconds=12.0) + record(tmp_path / "short", 1, seconds=3.0)
    store = extract(recordings, tmp_path / "work")
    assert store.log_mels.shape == (2, 313, 128)
    assert store.log_mels.dtype == np.float32
    assert isinstance(store.log_mels, np.memmap)
    assert not store.log_mels.flags.writeable
    for row, recording in enumerate(recordings):
        waveform = first_clip(decode(recording.path).waveform)
        np.testing.assert_array_equal(store.log_mels[row], log_mel(waveform, SPEC))
        np.testing.assert_allclose(store.levels_dbfs[row], 20 * np.log10(np.sqrt(np.mean(waveform.astype(float) ** 2))))


def test_a_plant_s_recording_is_cut_into_consecutive_clips(tmp_path: Path) -> None:
    """27 s at 48 kHz are two clips; the remainder is dropped, as models.audio does."""
    [recording] = record(tmp_path, 1, seconds=27.0, challenge=False, rate_hz=48_000)
    store = extract([recording], tmp_path / "work")
    assert [(clip.recording, clip.start_s, clip.speed) for clip in store.clips] == [
        (recording, 0.0, 1.0),
        (recording, 10.0, 1.0),
    ]
    waveform = decode(recording.path).waveform
    for row in range(2):
        own = waveform[row * CLIP_SAMPLES : (row + 1) * CLIP_SAMPLES]
        np.testing.assert_array_equal(store.log_mels[row], log_mel(own, SPEC))


def test_a_challenge_s_long_recording_is_one_clip_and_a_plant_s_short_one_too(tmp_path: Path) -> None:
    [long] = record(tmp_path / "long", 1, seconds=25.0)
    [short] = record(tmp_path / "short", 1, seconds=4.0, challenge=False)
    assert count_clips([long, short], contrast=False) == 2
    assert count_clips([replace(long, challenge=False)], contrast=True) == 10


def test_a_recording_written_to_a_pipe_is_counted_by_what_is_there(tmp_path: Path) -> None:
    """Its header cannot know the length: `arecord` and ffmpeg write about 2 or 4 GiB."""
    [recording] = record(tmp_path, 1, seconds=21.0, challenge=False)
    content = bytearray(recording.path.read_bytes())
    at = content.index(b"data") + 4
    for declared in (0x7FFFFFFF, 0xFFFFFFFF):
        content[at : at + 4] = declared.to_bytes(4, "little")
        recording.path.write_bytes(content)
        assert count_clips([recording], contrast=False) == 2


def test_contrast_copies_are_the_clip_at_other_speeds_repeated_or_cut(tmp_path: Path) -> None:
    recordings = record(tmp_path, 1, seconds=10.0)
    store = extract(recordings, tmp_path / "work", contrast=True)
    assert [clip.speed for clip in store.clips] == [1.0, *CONTRAST_SPEEDS]
    waveform = decode(recordings[0].path).waveform
    for row, speed in enumerate(CONTRAST_SPEEDS, 1):
        copy = soxr.resample(waveform, 16_000 * speed, 16_000)
        assert len(copy) == pytest.approx(CLIP_SAMPLES / speed, abs=2)
        np.testing.assert_array_equal(store.log_mels[row], log_mel(first_clip(copy), SPEC))


def test_a_faster_copy_sounds_higher(tmp_path: Path) -> None:
    time_s = np.arange(CLIP_SAMPLES) / 16_000
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(2 * np.pi * 2000 * time_s), 16_000)
    store = extract([described(tmp_path / "tone.wav", challenge=True)], tmp_path / "work", contrast=True)
    peaks = {clip.speed: int(store.log_mels[row].mean(axis=0).argmax()) for row, clip in enumerate(store.clips)}
    assert [speed for speed, _ in sorted(peaks.items(), key=lambda item: item[1])] == sorted(peaks)


def test_the_standardisation_is_of_all_frames_at_their_own_speed(tmp_path: Path) -> None:
    recordings = record(tmp_path, 3)
    store = extract(recordings, tmp_path / "work", contrast=True)
    own = store.log_mels[::5].astype(np.float64).reshape(-1, 128)
    np.testing.assert_allclose(store.mean, own.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(store.deviation, own.std(axis=0), rtol=1e-9)
    again = extract(recordings, tmp_path / "work", contrast=True)
    np.testing.assert_array_equal(again.mean, store.mean)
    np.testing.assert_array_equal(again.deviation, store.deviation)


def test_only_a_changed_file_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modification time says nothing, its bytes do; whatever else the store holds is not even looked at."""
    recordings = record(tmp_path, 4)
    work = tmp_path / "work"
    before = extract(recordings, work)
    kept = np.array(before.log_mels)
    with counted(monkeypatch) as calls:
        os.utime(recordings[0].path, (1, 1))
        assert extract(recordings, work).digest == before.digest
        assert not calls
        times = recordings[2].path.stat()
        soundfile.write(recordings[2].path, noise(2.0, 99), 16_000, subtype="PCM_16")
        os.utime(recordings[2].path, ns=(times.st_atime_ns, times.st_mtime_ns))
        after = extract(recordings, work)
        assert len(calls) == 1
    assert after.digest != before.digest
    assert not np.array_equal(after.log_mels[2], kept[2])
    np.testing.assert_array_equal(after.log_mels[[0, 1, 3]], kept[[0, 1, 3]])
    fresh = extract(recordings, tmp_path / "fresh")
    np.testing.assert_array_equal(after.log_mels, fresh.log_mels)
    np.testing.assert_array_equal(after.mean, fresh.mean)
    assert after.digest == fresh.digest


def test_another_front_end_is_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = record(tmp_path, 2)
    extract(recordings, tmp_path / "work")
    louder = replace(SPEC, floor=1e-4)
    with counted(monkeypatch) as calls:
        store = extract(recordings, tmp_path / "work", spec=louder)
        assert len(calls) == 2
    np.testing.assert_array_equal(store.log_mels[0], log_mel(first_clip(decode(recordings[0].path).waveform), louder))


def test_several_processes_give_what_one_gives(tmp_path: Path) -> None:
    recordings = record(tmp_path, FEW_TASKS + 6)
    alone, together = extract(recordings, tmp_path / "one"), extract(recordings, tmp_path / "two", workers=2)
    np.testing.assert_array_equal(together.log_mels, alone.log_mels)
    assert together.digest == alone.digest


def test_a_plain_script_may_extract(tmp_path: Path) -> None:
    """Without the guard that spawned processes usually ask of a script."""
    record(tmp_path / "sounds", FEW_TASKS + 1)
    script = tmp_path / "script.py"
    script.write_text(f"print('started')\n{extraction_program(tmp_path)}")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "started\n" + "done\n" * (FEW_TASKS + 1)), run.stderr


def test_every_recording_that_cannot_be_used_is_named_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = record(tmp_path, 5)
    recordings[1].path.write_bytes(b"\xff\xd8\xff\xe0 a picture")
    soundfile.write(recordings[3].path, np.zeros(32_000), 16_000)
    with pytest.raises(DataError, match="2 recordings cannot be used") as refused:
        extract_features(recordings, tmp_path / "work", spec=SPEC, contrast=False, workers=1, advance=lambda _: None)
    assert str(recordings[1].path) in str(refused.value)
    assert str(recordings[3].path) in str(refused.value)
    record(tmp_path, 5)
    with counted(monkeypatch) as calls:
        store = extract(recordings, tmp_path / "work")
        assert len(calls) == 2
    np.testing.assert_array_equal(store.log_mels, extract(recordings, tmp_path / "fresh").log_mels)


def test_silence_inside_a_recording_is_no_normal_clip(tmp_path: Path) -> None:
    """Nor a level of -200 dBFS that no clip could ever lie below."""
    (recording,) = record(tmp_path / "sounds", 1, seconds=40.0, challenge=False)
    sound = noise(40.0, 0)
    sound[10 * 16_000 : 20 * 16_000] = 0.0
    soundfile.write(recording.path, sound, 16_000, subtype="PCM_16")
    with pytest.raises(DataError, match="silent for ten seconds from 10 s on"):
        extract([recording], tmp_path / "work")


def test_no_recordings_and_an_unreadable_header_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotTrainable):
        extract([], tmp_path / "work")
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"a\.wav cannot be read"):
        count_clips([described(tmp_path / "a.wav", challenge=False)], contrast=False)


def test_a_disk_too_small_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = record(tmp_path, 1)
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(DataError, match="larger disk"):
        extract(recordings, tmp_path / "work")
    assert not list((tmp_path / "work").rglob("*.npy"))


def test_the_room_of_the_features_is_taken_before_they_are_computed(tmp_path: Path) -> None:
    """A sparse file would end the process without a word where another one fills the disk meanwhile."""
    memory_map = training.features._open(tmp_path / "rows.npy", np.dtype(np.float32), (40, 313, 128))
    found = (tmp_path / "rows.npy").stat()
    assert found.st_blocks * 512 >= found.st_size >= memory_map.nbytes
    assert not memory_map.any()


def anonymous_bytes() -> int:
    """Memory of this process's own, without the mapped file's pages, which the system takes back at will."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_memory_does_not_follow_the_number_of_clips(tmp_path: Path) -> None:
    """160 clips have 26 MB of features, which never stand in memory together; counted in a process of its own."""
    record(tmp_path / "warm", 2)
    record(tmp_path / "many", 160)
    result = run_python(
        f"""
        from pathlib import Path
        from tests.training.test_features import SPEC, anonymous_bytes, described
        from training.features import extract_features

        def extract(sounds):
            files = [described(file, True) for file in sorted(sounds.iterdir())]
            most = []
            extract_features(files, folder / "work", spec=SPEC, contrast=False, workers=1,
                             advance=lambda _: most.append(anonymous_bytes()))
            return max(*most, anonymous_bytes())

        folder = Path({str(tmp_path)!r})
        before = extract(folder / "warm")
        print(extract(folder / "many") - before)
        """
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 160 * 313 * 128 * 4 / 2


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
def test_a_kill_in_the_middle_costs_only_what_was_not_yet_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL: the workers leave too, the next run keeps what was done, and its result is that of a run left alone."""
    n, killed_after = 220, 150
    recordings = record(tmp_path / "sounds", n)
    run = subprocess.run(
        [sys.executable, "-c", extraction_program(tmp_path, killed_after)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in run.stdout.split()]
    assert len(workers) >= 2
    deadline = time.monotonic() + 120
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)

    [rows] = (tmp_path / "work").glob("*/rows.npy")
    done = int(np.count_nonzero(np.load(rows)["sha256"] != b""))
    assert 100 <= done < n
    with counted(monkeypatch) as calls:
        resumed = extract(recordings, tmp_path / "work")
        assert len(calls) == n - done
    alone = extract(recordings, tmp_path / "alone", workers=2)
    np.testing.assert_array_equal(resumed.log_mels, alone.log_mels)
    np.testing.assert_array_equal(resumed.mean, alone.mean)
    assert resumed.digest == alone.digest


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
