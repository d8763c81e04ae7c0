"""The report as files: one page that needs nothing but itself, and its figures as pictures beside it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from training.printed import row_table
from training.report.alarms import false_alarm_plate, p_value_plates
from training.report.background import counts, facts
from training.report.cards import cards
from training.report.choice import Wrong
from training.report.contents import ReportData
from training.report.networks import map_plates, training_plates
from training.report.separation import roc_plates, score_plates
from training.report.smaller import curve_plates, curve_tables
from training.report.summary import cautions, findings, lead, tiles
from training.report.theme import DARK, LIGHT, Key, Plate, as_png, as_svg
from training.report.words import typeset
from training.storage import write_atomically

PAGE = "report.html"

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Picture:
    """A panel on the page."""

    title: str
    alt: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Pictures:
    """A plate on the page."""

    pictures: tuple[Picture, ...]
    keys: tuple[Key, ...]


def write_report(data: ReportData, folder: Path) -> None:
    """Write ``report.html`` and the figures' PNG files into ``folder``, over those of an earlier report.

    Equal data gives equal files.

    Raises
    ------
    AudioError, OSError : where a clip that is shown cannot be read any more, or the folder not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def show(plates: Iterable[Plate]) -> list[Pictures]:
        shown = []
        for plate in plates:
            (folder / f"{plate.name}.png").write_bytes(as_png(plate))
            shown.append(_pictures(plate))
        return shown

    found, alarms, clips = list(findings(data)), false_alarm_plate(data), list(cards(data))
    page = _template().render(
        data=data,
        light=LIGHT,
        dark=DARK,
        tiles=list(tiles(data)),
        lead=lead(found),
        findings=found,
        cautions=list(cautions(data)),
        alarms=show([alarms] if alarms else []),
        p_values=show(p_value_plates(data)),
        scores=show(score_plates(data)),
        curves=show(roc_plates(data)),
        wrong=any(card.wrong is not Wrong.HIGHEST for card in clips),
        cards=list(zip(clips, show(card.plate for card in clips), strict=True)),
        maps=show(map_plates(data)),
        training=show(training_plates(data)),
        smaller=show(curve_plates(data)),
        smaller_tables=list(curve_tables(data)),
        results=row_table(data.rows),
        counts=counts(data),
        facts=list(facts(data)),
    )
    write_atomically(
        folder / PAGE, lambda file: file.write(page.encode(errors="backslashreplace"))
    )  # a path may be no text


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    return environment.get_template("page.html")


def _pictures(plate: Plate) -> Pictures:
    # The one thing that is not escaped: what matplotlib drew, in which it has escaped all text itself.
    pictures = (Picture(one.title, one.alt, Markup(as_svg(plate, i))) for i, one in enumerate(plate.panels))  # noqa: S704
    return Pictures(tuple(pictures), tuple(plate.keys))
