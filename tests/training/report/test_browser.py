"""The page in a real browser: nothing is fetched, nothing complains, all sounds can be played, nothing overflows.

Chromium opens a page of the test's own that shows the report in frames as wide as a desktop and a phone, and writes
down what it finds there. Where there is no Chromium the tests are skipped, but not in CI: `.ci/run` installs it.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.training.report.made import EARWITNESS, OTHER, SOURCE, clips_of, report_data
from training.report.page import PAGE, write_report

WIDTHS = (1280, 390)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
    *("--enable-logging=stderr", "--virtual-time-budget=30000", "--dump-dom"),
)

PROBE = """<!doctype html><meta charset="utf-8"><body><script>
const found = [];
async function probe(address, width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `border: 0; width: ${width}px; height: 800px`;
  frame.src = address;
  document.body.append(frame);
  await new Promise((done) => { frame.onload = done; });
  const page = frame.contentDocument;
  const players = [...page.querySelectorAll("audio")];
  await Promise.all(players.map((player) => player.readyState > 0 || player.error || new Promise((done) => {
    player.onloadedmetadata = done;
    player.onerror = done;
  })));
  const wide = [...page.querySelectorAll("body *")].filter((one) =>
    !one.closest(".scroll, .skip, svg") && one.getBoundingClientRect().right > width + 1);
  const tables = [...page.querySelectorAll(".scroll")];
  found.push({
    width,
    title: page.title,
    page: page.documentElement.scrollWidth,
    wide: wide.map((one) => one.outerHTML.slice(0, 120)),
    scrolling: tables.filter((one) => one.scrollWidth > one.clientWidth).length,
    sounds: players.map((player) => player.error ? player.error.message : player.duration),
    fetched: frame.contentWindow.performance.getEntriesByType("resource")
      .map((entry) => entry.name).filter((name) => !name.startsWith("data:")),
    drawings: [...page.querySelectorAll(".drawing svg")].filter((one) =>
      one.getBoundingClientRect().height > 50).length,
    unset: [...page.querySelectorAll(".drawing svg text")].filter((one) =>
      getComputedStyle(one).fill === "rgb(0, 0, 0)").length,
  });
}
(async () => {
  for (const width of WIDTHS) await probe(ADDRESS, width);
  const result = document.createElement("pre");
  result.textContent = JSON.stringify(found);
  document.body.replaceChildren(result);
})();
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """A Chromium; in CI it must be there."""
    if BROWSER is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no Chromium: install it (Debian: apt-get install chromium)")
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return BROWSER


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    clips = clips_of(folder, {SOURCE: (3, 2), OTHER: (2, 2)}, shift=-1.0)
    write_report(report_data({EARWITNESS: clips}), folder / "report")
    return folder / "report" / PAGE


def opened(browser: str, page: Path, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What was found at each width, and what the console said."""
    probe = folder / "probe.html"
    probe.write_text(PROBE.replace("WIDTHS", json.dumps(WIDTHS)).replace("ADDRESS", json.dumps(page.as_uri())))
    result = subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    written = re.search(r"<pre>(.*)</pre>", result.stdout, re.DOTALL)
    assert written, result.stdout[-2000:] + result.stderr[-2000:]
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(written[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console


def test_the_report_in_a_browser(browser: str, report: Path, tmp_path: Path) -> None:
    """As wide as a desktop and as a phone; on the phone wide tables scroll in their box and not the page."""
    found, console = opened(browser, report, tmp_path)
    assert console == []
    assert [one["width"] for one in found] == list(WIDTHS)
    content = report.read_text()
    for one in found:
        assert one["title"] == "Earwitness report: fan, valve"
        assert one["fetched"] == []
        assert one["page"] <= one["width"]
        assert one["wide"] == []
        assert one["sounds"] == pytest.approx([2.0] * content.count("<audio"), abs=0.01)
        assert one["drawings"] == content.count('class="drawing"') > 10
        assert one["unset"] == 0, "text that has lost its colour"
    desktop, phone = found
    assert desktop["scrolling"] == 0
    assert phone["scrolling"] > 0


def test_a_page_that_asks_for_more_would_be_found_out(browser: str, report: Path, tmp_path: Path) -> None:
    """The probe can fail: a picture from elsewhere is refused aloud, and a wide element is named."""
    page = tmp_path / "bad.html"
    bad = '<img src="http://127.0.0.1:9/x.png" alt=""><p style="width: 2000px">wide</p></main>'
    page.write_text(
        report.read_text().replace("</main>", bad).replace("data:audio/flac;base64,", "data:audio/flac;base64,AAAA")
    )
    found, console = opened(browser, page, tmp_path)
    assert any("Content Security Policy" in line and "127.0.0.1:9" in line for line in console)
    assert found[1]["page"] > 390
    assert any("wide" in one for one in found[1]["wide"])
    assert all(isinstance(sound, str) for sound in found[0]["sounds"]), "no sound that cannot be decoded passes"
