"""A year of the challenge: what there is to do for it, and doing it, several archives at once."""

import asyncio
import shlex
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.commands import shell_line
from models.errors import DataError, DownloadError, EarwitnessError, ServerUnreachable
from training.download.catalogue import API, RECORDS, Part, numbers_of
from training.download.places import ARCHIVES, Place, as_size
from training.download.records import Archive, Record, parse_record, select
from training.download.transfer import Advance, Server
from training.download.unpacking import State, state_of, unpack
from training.recordings import survey
from training.work import alone_in

SWELLING = 1.5
"""Bytes unpacked for a byte of an archive, as far as it can be told before: recordings of four machine types gave 1.16
(a toy car) to 1.43 (an electric motor)."""

LICENCE = "CC BY-NC-SA 4.0"
"""Of all data of the challenge, as its pages say."""


@dataclass(frozen=True, slots=True)
class Task:
    """An archive, its place, how far it has come, and how many bytes of it are on the disk."""

    archive: Archive
    place: Place
    state: State
    there: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What there is to do for a year."""

    year: int
    api: str
    out: Path
    records: tuple[Record, ...]
    tasks: tuple[Task, ...]
    jobs: int
    keep: bool

    @property
    def open_tasks(self) -> list[Task]:
        """What is not done yet."""
        return [task for task in self.tasks if task.state is not State.UNPACKED]

    @property
    def total_bytes(self) -> int:
        """Of the archives that are not unpacked yet."""
        return sum(task.archive.file.size for task in self.open_tasks)

    @property
    def bytes_there(self) -> int:
        """How many of these are on the disk."""
        return sum(task.there for task in self.open_tasks)

    @property
    def needed_bytes(self) -> int:
        """What the disk must have free: what is still to come, and what it becomes.

        An archive goes when it is unpacked, so that no more of them than are fetched at once lie there; all of them
        where they are to be kept.
        """
        coming = sorted((task.archive.file.size - task.there for task in self.open_tasks), reverse=True)
        wanted = [task.archive.file.size for task in self.open_tasks if task.state is State.WANTED]
        return sum(coming if self.keep else coming[: self.jobs]) + int(SWELLING * sum(wanted))

    @property
    def free_bytes(self) -> int:
        """What the disk has free."""
        return shutil.disk_usage(next(path for path in (self.out, *self.out.absolute().parents) if path.exists())).free

    def describe(self) -> str:
        """The records with their licences, the archives, and what they take."""
        lines = [f"DCASE {self.year} task 2 from {self.api} into {self.out}"]
        for record in self.records:
            licence = record.licence or f"none stated (the challenge's data is {LICENCE})"
            lines.append(f"{record.part}: record {record.number}, {record.title or 'without title'}; licence {licence}")
        lines.append(f"Licence: all of it is for non-commercial use only ({LICENCE}): credit its authors, share alike.")
        lines += [f"  {task.archive.file.name}: {_progress(task)}" for task in self.tasks]
        lines.append(
            f"{as_size(self.total_bytes - self.bytes_there)} to fetch; {as_size(self.needed_bytes)} needed on the "
            f"disk, {as_size(self.free_bytes)} free."
        )
        return "\n".join(lines)

    def require_room(self) -> None:
        """Refuse to begin what cannot end.

        Raises
        ------
        DownloadError : where the disk is too small, with the numbers.
        """
        needed, free = self.needed_bytes, self.free_bytes
        if needed > free:
            raise DownloadError(
                f"{self.out} needs {as_size(needed)} (archives and about {SWELLING} times their size unpacked), and "
                f"its disk has {as_size(free)} free. Make room, or take less with --part and --machine-type."
            )


def _progress(task: Task) -> str:
    size = as_size(task.archive.file.size)
    if task.state is not State.WANTED or task.there == task.archive.file.size:
        return f"{size}, {'fetched' if task.state is State.WANTED else 'unpacked'} already"
    return f"{size}, {as_size(task.there)} of it there" if task.there else size


def make_plan(
    year: int,
    out: Path,
    *,
    parts: Sequence[Part] = (),
    machine_types: Sequence[str] = (),
    jobs: int = 4,
    keep: bool = False,
    api: str = API,
) -> Plan:
    """Ask the records what there is, and the disk how much of it is there. Nothing is written.

    Parameters
    ----------
    year : of `RECORDS`.
    out : a folder of its own, which may not exist yet.
    parts, machine_types : all where none is named.
    jobs : archives at once.
    keep : leave the archives beside what they become.
    api : the records API.

    Raises
    ------
    DataError : for parts and machine types that there are not, and a folder that holds something else.
    DownloadError : for records that cannot be had.
    """
    numbers = numbers_of(year, parts)
    _require_own_folder(year, out)
    contents = asyncio.run(_ask(api, list(numbers.values())))
    records = tuple(parse_record(part, numbers[part], content) for part, content in zip(numbers, contents, strict=True))
    tasks = tuple(_task(archive, out) for archive in select(records, machine_types))
    return Plan(year, api, out, records, tasks, jobs, keep)


def _task(archive: Archive, out: Path) -> Task:
    place = Place(out, archive.number, archive.file.name)
    state, size = state_of(place, archive.file.md5), archive.file.size
    return Task(archive, place, state, min(place.bytes_there(), size) if state is State.WANTED else size)


def _require_own_folder(year: int, out: Path) -> None:
    """A year's folder belongs to that year's download alone: names of machines and files recur each year."""
    if not out.exists():
        return
    archives = out / ARCHIVES
    if not out.is_dir() or (not archives.is_dir() and any(out.iterdir())):
        raise DataError(f"{out} holds something else. Name a folder that does not exist yet, for {year} alone.")
    numbers = {str(number) for number in RECORDS[year].values()}
    others = sorted(f.name for f in archives.iterdir() if f.is_dir()) if archives.is_dir() else []
    if other := next((name for name in others if name not in numbers), None):
        raise DataError(f"{out} holds record {other}, which is not of {year}. Name another folder, for {year} alone.")


async def _ask(api: str, numbers: Sequence[int]) -> list[bytes]:
    async with Server(api) as server:
        return [await server.record(number) for number in numbers]


def carry_out(plan: Plan, *, advance: Advance) -> None:
    """Fetch and unpack what is not there yet. Stopped or killed at any moment, the next plan goes on from there.

    An archive that cannot be had or unpacked does not stop the others.

    Raises
    ------
    DownloadError : for all archives that failed, a line each; `ServerUnreachable` at once.
    DataError : where another process is downloading into the same folder.
    """
    plan.require_room()
    busy = f"Another process is downloading into {plan.out}. Wait until it ends, or end it."
    with alone_in(plan.out / ARCHIVES, busy):
        failures = asyncio.run(_work(plan, advance))
    if failures:
        raise DownloadError("\n".join(map(str, failures)))


async def _work(plan: Plan, advance: Advance) -> list[EarwitnessError]:
    """Work through the tasks, ``plan.jobs`` at once, and return what failed."""
    failures: list[EarwitnessError] = []
    waiting = iter(plan.open_tasks)
    stopped = threading.Event()

    async def work(server: Server) -> None:
        for task in waiting:
            try:
                await _do(server, task, plan.keep, stopped, advance)
            except ServerUnreachable:
                raise
            except DownloadError as error:
                failures.append(error)
            except OSError as error:
                failures.append(
                    DownloadError(f"{task.archive.file.name}: {error}. Check the disk and its permissions.")
                )

    async with Server(plan.api) as server:
        awake = asyncio.create_task(_wake_each_second())
        workers = [asyncio.create_task(work(server)) for _ in range(plan.jobs)]
        try:
            await asyncio.gather(*workers)
        finally:
            awake.cancel()
            stopped.set()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return failures


async def _wake_each_second() -> None:
    """Let Ctrl-C be heard. A signal that comes just before the loop waits, or in another thread, does not wake it."""
    while True:
        await asyncio.sleep(1.0)


async def _do(server: Server, task: Task, keep: bool, stopped: threading.Event, advance: Advance) -> None:
    if task.state is State.WANTED:
        await server.fetch(task.archive.file, task.place, advance)
    await asyncio.to_thread(unpack, task.archive, task.place, keep=keep, stopped=stopped)


def describe_tree(plan: Plan) -> str:
    """What lies in the folder when all is done."""
    lines = []
    if any(task.archive.part is Part.LABELS for task in plan.tasks):
        lines.append(f"{plan.out / Part.LABELS.folder}: labels of the evaluation set.")
    if any(task.archive.part is not Part.LABELS for task in plan.tasks):
        found = survey([plan.out])
        refused = f", and {len(found.refusals)} files whose names are refused" if found.refusals else ""
        check = shell_line(f"training check {shlex.quote(str(plan.out))}")
        lines.append(f"{plan.out}: {len(found.recordings)} recordings{refused}. Next: {check}")
    return "\n".join(lines)
