"""Screens of the page, as `docs/web.md` shows them: a server of its own, a browser, and a user's road through it.

    python scripts/page_screens.py            # writes docs/images/page-*.png
    python scripts/page_screens.py --output screens --all

It needs a Chromium (`apt-get install chromium`) and `pip install playwright`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SERVE = [sys.executable, "-c", "from tunesmith.cli.main import run; run()", "serve", "--port", "0", "--log", "none"]
ROWS = ROOT / "src" / "tunesmith" / "assets" / "hotel"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LONG = 600_000  # ms
SHOWN = ("job", "chat", "file", "dark", "phone-chat")  # in the docs


@contextmanager
def serving(home: Path) -> Iterator[tuple[str, str]]:
    """A server with a base and a worker: its address, and a key."""
    models = ["--model", "ember", "--model", "gpt-3.5-turbo=ember"]
    process = subprocess.Popen([*SERVE, "--home", str(home), *models], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = "".join(process.stdout.readline() for _ in range(5))
        key = re.search(r"sk-ts-\S+", said)
        address = re.search(r"in a browser: (\S+)/", said)
        assert key, said
        assert address, said
        yield address[1], key[0]
    finally:
        process.terminate()
        process.wait()


def opened(browser: Browser, url: str, key: str, **look: Any) -> Page:
    """A browser's page after the login."""
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **look}).new_page()
    page.goto(url)
    page.get_by_label("Your API key").fill(key)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Jobs").wait_for()
    return page


def tuned(page: Page, url: str, shoot: Callable[[Page, str], None]) -> str:
    """Bring a file, start a job, and wait for it; returns its address."""
    page.goto(f"{url}/files")
    page.locator("#file").set_input_files(ROWS / "test.jsonl")
    page.wait_for_url("**/files/file-*")
    page.goto(f"{url}/files")
    page.locator("#file").set_input_files(ROWS / "train.jsonl")
    page.get_by_role("heading", name="As the model sees them").wait_for(timeout=LONG)
    page.get_by_label("Validation file").select_option("test.jsonl")
    shoot(page, "file")
    page.get_by_label("Name").fill("concierge")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/jobs/**")
    page.locator("#state.running").wait_for(timeout=LONG)
    expect(page.locator("#step")).to_have_text(re.compile(r"^([4-9]\d|\d{3,}) /"), timeout=LONG)
    shoot(page, "job")
    page.locator("#state.succeeded").wait_for(timeout=LONG)
    return page.url


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--all", action="store_true", help="those that the docs do not show, too")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    def shoot(page: Page, name: str) -> None:
        if options.all or name in SHOWN:
            page.screenshot(path=options.output / f"page-{name}.png")

    with (
        tempfile.TemporaryDirectory() as home,
        serving(Path(home)) as (url, key),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        shoot(page, "login")
        page = opened(browser, url, key, color_scheme="light")
        job = tuned(page, url, shoot)
        shoot(page, "done")
        page.get_by_role("link", name="Try it").click()
        talk(page, "Can I bring my dog?")
        talk(page, "And when is breakfast?")
        shoot(page, "chat")
        for name, path in (("jobs", "/"), ("models", "/models"), ("files", "/files")):
            page.goto(url + path)
            page.wait_for_timeout(1500)
            shoot(page, name)
        dark = opened(browser, url, key, color_scheme="dark")
        dark.goto(job)
        dark.wait_for_timeout(1500)
        shoot(dark, "dark")
        phone = opened(browser, url, key, viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True)
        for name, path in (("phone-jobs", "/"), ("phone-job", job.removeprefix(url)), ("phone-chat", "/chat")):
            phone.goto(url + path)
            phone.wait_for_timeout(1500)
            if name == "phone-chat":
                talk(phone, "Where is the pool?")
            shoot(phone, name)
        browser.close()


def talk(page: Page, words: str) -> None:
    """Ask, and wait for all answers."""
    page.get_by_label("Your message").fill(words)
    page.keyboard.press("Enter")
    page.locator(".under-way").first.wait_for()
    expect(page.locator(".under-way")).to_have_count(0, timeout=LONG)


if __name__ == "__main__":
    main()
