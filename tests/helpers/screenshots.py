"""`python tests/helpers/screenshots.py docs/img/painting`: takes the guide's images while it paints."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from fewseg import Segmenter
from fewseg.tools.demo.photographs import sources
from helpers.page import Page, PageServer

SIZE = (960, 870)
COINS = ((342, 183, 75), (538, 190, 68), (346, 427, 72), (548, 430, 65))
"""Coins of the first image as the stage shows it at 1280 x 800: middle and radius."""


def write_images(folder: Path) -> None:
    """Windows of the demo's photograph of coins, and three photographs without any."""
    coins = Image.open(sources()["coins"].path).convert("RGB")
    windows = [(x, y) for y in (10, 155) for x in range(0, coins.width - 150, 75)]
    for number, (x, y) in enumerate(windows, 1):
        window = coins.crop((x, y, x + 160, y + 145)).resize(SIZE, Image.Resampling.LANCZOS)
        window.save(folder / f"coins-{number:02}.jpg", quality=90)
    for name in ("cat", "rocket", "astronaut"):
        Image.open(sources()[name].path).convert("RGB").save(folder / f"{name}.jpg", quality=90)


def keep(page: Page, file: Path) -> None:
    """The window, small enough for a page."""
    page.browser.save_screenshot(str(file.with_suffix(".png")))
    image = Image.open(file.with_suffix(".png")).convert("RGB")
    image.thumbnail((1280, 1280), Image.Resampling.LANCZOS)
    image.save(file.with_suffix(".webp"), quality=78, method=6)
    file.with_suffix(".png").unlink()


def done(page: Page) -> None:
    page.until("document.querySelector('#progress').classList.contains('done')", "all images are segmented")
    page.until("[...document.querySelectorAll('#grid img')].every((image) => image.complete)", "all are loaded")


def take(page: Page, out: Path) -> None:
    """Every image of the guide, in its order."""
    page.find("#guide input").send_keys("coin")
    page.until("[...document.querySelectorAll('#grid img')].every((image) => image.complete)", "all are loaded")
    keep(page, out / "first-use")
    page.keys("\ue007")
    page.go("coins-01.jpg")
    page.brush(100)
    scale = 560 / (SIZE[1] + 48 * SIZE[1] / 512)
    for cx, cy, radius in COINS[:3]:
        x, y = SIZE[0] / 2 + (cx - 466) / scale, SIZE[1] / 2 + (cy - 280) / scale
        rings = [(r, t) for r in (0.35 * radius, radius - 28) for t in np.linspace(0, 2 * np.pi, 17)]
        page.drag([(x + r / scale * np.cos(t), y + r / scale * np.sin(t)) for r, t in rings], SIZE)
    page.keys("g")
    cx, cy, _ = COINS[3]
    page.drag([(SIZE[0] / 2 + (cx - 466) / scale, SIZE[1] / 2 + (cy - 280) / scale)], SIZE)
    page.until("!document.querySelector('#proposal .primary').hidden", "a region is offered")
    keep(page, out / "region")
    page.keys("\ue007")
    page.saved()
    done(page)
    page.go(None)
    done(page)
    seen = "document.querySelectorAll('#grid .card:not([data-state=failed]) [data-masks=\"1\"]').length >= 8"
    page.until(seen + " && !document.getAnimations().length", "the masks are shown")
    page.until("!document.querySelector('#suggestions').hidden", "there are suggestions")
    keep(page, out / "gallery")
    page.resize((390, 844), phone=True, dark=True)
    page.go("coins-07.jpg")
    page.keys("b", "u")
    page.until("document.querySelector('#promote')", "promotion is offered")
    time.sleep(1)  # for the uncertainty map, of which the document does not tell
    keep(page, out / "phone")


if __name__ == "__main__":
    folder, out = Path(tempfile.mkdtemp()) / "coins", Path(sys.argv[1])
    folder.mkdir()
    out.mkdir(parents=True, exist_ok=True)
    write_images(folder)
    server = PageServer(folder, Segmenter.from_pretrained)
    server.start()
    page = Page(server.address, Path(tempfile.mkdtemp()))
    try:
        page.open()
        take(page, out)
    finally:
        page.quit()
        server.stop()
