"""Looks at the built site in a browser. Run: make site && python -m tests.site --axe axe.min.js.

It takes Playwright (`pip install playwright`), Chromium (Debian's, or `playwright install chromium`), and for the rules
of accessibility `axe.min.js` of the npm package `axe-core`. Every page is opened from disk, in light and wide, then in
dark and 400 pixels wide: no error in the console, nothing loaded from elsewhere, no serious violation, nothing cut off.
Then search, the schedule that moves and the tables are used by keyboard. It prints what is wrong, and then fails.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

LOOKS = {"light": (1280, 900), "dark": (400, 800)}
CUT = """() => {
  const wide = document.documentElement.clientWidth;
  const scrolls = (e) => e && e !== document.body
    && (/(auto|scroll)/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  return [...document.querySelectorAll('.md-content *')].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width > 1 && (box.right > wide + 1 || box.left < -1) && !scrolls(e.parentElement);
  }).map((e) => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 40)}`).slice(0, 3);
}"""
AXE = """async () => (await axe.run(document, {resultTypes: ['violations'], preload: false})).violations
  .filter((one) => ['serious', 'critical'].includes(one.impact))
  .map((one) => `${one.id}: ${one.nodes.length} of ${one.nodes[0].html.slice(0, 160)}`)"""


def opened(browser: Browser, file: Path, look: str, found: list[str]) -> Page:
    """Open a page in a look; what goes wrong while it is open is appended to ``found``."""
    width, height = LOOKS[look]
    page = browser.new_page(color_scheme=look, viewport={"width": width, "height": height}, reduced_motion="reduce")
    page.on("console", lambda said: found.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: found.append(f"error: {error}"))
    page.on(
        "request", lambda sent: None if sent.url.startswith(("file:", "data:", "blob:")) else found.append(sent.url)
    )
    page.on("requestfailed", lambda sent: found.append(f"not loaded: {sent.url}"))
    page.goto(file.as_uri(), wait_until="load")
    return page


def problems(browser: Browser, file: Path, look: str, axe: Path | None, shot: Path | None) -> Iterator[str]:
    """Say what is wrong with a page in a look, and write a picture of it."""
    found: list[str] = []
    page = opened(browser, file, look, found)
    found += [f"cut off: {element}" for element in page.evaluate(CUT)]
    if axe is not None:
        page.add_script_tag(path=axe)
        found += page.evaluate(AXE)
    if shot is not None:
        page.screenshot(path=shot, full_page=True)
    page.close()
    yield from found


def schedule(browser: Browser, site: Path) -> Iterator[str]:
    """Step through the schedule by keyboard, and let it play."""
    found: list[str] = []
    page = opened(browser, site / "theory" / "delays.html", "light", found)
    figure, said = page.locator(".schedule"), page.locator(".schedule-said")
    figure.get_by_label("Stages").select_option("9")
    figure.get_by_role("button", name="Step").focus()
    for _ in range(32):
        page.keyboard.press("ArrowRight")
    if said.inner_text() != "Tick 32 of 35: at stage 0 the gradient of mini-batch 16 comes 16 updates late.":
        yield f"schedule: {said.inner_text()}"
    if figure.locator("tbody tr").first.locator(".between").count() != 16:
        yield "schedule: not 16 updates are marked at stage 0"
    figure.get_by_label("Delay law").select_option("pipedream")
    figure.get_by_role("button", name="Step").focus()
    page.keyboard.press("p")
    page.wait_for_function("document.querySelector('.schedule-said').textContent.startsWith('Tick 2')", timeout=9000)
    page.close()
    yield from found


def tables(browser: Browser, site: Path) -> Iterator[str]:
    """Unfold, sort and filter a table by keyboard."""
    found: list[str] = []
    page = opened(browser, site / "out" / "report" / "accuracy.html", "light", found)
    folded = page.locator("details", has=page.locator(".filter")).first
    folded.locator("summary").press("Enter")
    table = folded.locator("table")
    head, rows = table.locator("th").first, table.locator("tbody tr:visible")
    total = rows.count()
    for order in ("ascending", "descending"):
        head.get_by_role("button").press("Enter")
        if head.get_attribute("aria-sort") != order:
            yield f"table: not {order}"
    folded.locator(".filter input").fill("mlp latest")
    if not 0 < rows.count() < total:
        yield f"table: {rows.count()} of {total} rows after filtering"
    page.close()
    yield from found


def search(browser: Browser, site: Path) -> Iterator[str]:
    """Find a word of the results from the first page."""
    found: list[str] = []
    page = opened(browser, site / "index.html", "light", found)
    page.keyboard.press("/")
    page.keyboard.type("fieller")
    page.wait_for_selector(".md-search-result__item", timeout=20_000)
    page.close()
    yield from found


def main() -> int:
    """Parse, look at every page, and print what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.site", description=__doc__)
    parser.add_argument("site", nargs="?", type=Path, default=Path("build/site"), help="default: %(default)s")
    parser.add_argument("--axe", type=Path, help="axe.min.js; without it accessibility is not looked at")
    parser.add_argument("--shots", type=Path, help="write a picture of every page into this folder")
    parser.add_argument("--only", default="*", help="pages whose path matches, as in 'out/*'")
    options = parser.parse_args()
    if options.shots is not None:
        options.shots.mkdir(parents=True, exist_ok=True)
    site, wrong = options.site.resolve(), 0
    pages = (file for file in sorted(site.rglob("*.html")) if file.name != "404.html")  # for servers
    files = [file for file in pages if file.relative_to(site).match(options.only)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for file in files:
            for look in LOOKS:
                name = file.relative_to(site).with_suffix("").as_posix()
                shot = options.shots and options.shots / f"{name.replace('/', '-')}-{look}.png"
                for problem in problems(browser, file, look, options.axe, shot):
                    print(f"{name} ({look}): {problem}", flush=True)
                    wrong += 1
        for use in (schedule, tables, search):
            for problem in use(browser, site):
                print(problem, flush=True)
                wrong += 1
        browser.close()
    print(f"{len(files)} pages in {len(LOOKS)} looks, {wrong} problems")
    return 1 if wrong or not files else 0


if __name__ == "__main__":
    sys.exit(main())
