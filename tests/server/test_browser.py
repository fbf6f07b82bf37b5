"""The annotation page in a real browser: the whole loop, nothing lost, keys only, a phone."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.browsers import FIREFOX
from helpers.colour_method import iou
from helpers.page import CARD, Page, PageServer, wait_until
from helpers.page_fixtures import SIZE, cover, opened, page, server, truth

_ = (opened, page, server)  # fixtures


def test_the_whole_loop(opened: Page, server: PageServer) -> None:
    page = opened
    # An empty project says what to do; the first label is named there.
    assert page.find("#guide").is_displayed()
    page.find("#guide input").send_keys("red\ue007")
    page.until("document.querySelector('.chip .text')?.textContent === 'red'", "the label is there")

    # Painted once, saved by itself, at the image's size.
    page.go("red-1.png")
    page.brush(56)
    cover(page, "red-1.png")
    page.saved()
    assert server.image("red-1.png")["supports"] == [1]
    painted = server.mask("red-1.png")
    assert painted.shape == (SIZE[1], SIZE[0])
    assert iou(painted, truth("red-1.png")) > 0.9

    # Masks of all images arrive without a word; the one without red is flagged.
    page.go(None)
    page.until("document.querySelector('#progress').classList.contains('done')", "all images are segmented")
    page.until("document.querySelectorAll('#grid [data-masks=\"1\"]').length === 3", "three images show a mask")
    assert "Absent?" in page.js(f"return {CARD}.textContent", "green")
    assert not page.find("#guide").is_displayed()
    assert iou(server.mask("red-2.png"), truth("red-2.png")) > 0.8

    # A found mask is corrected, which makes it an example; another is promoted as it is.
    page.go("red-2.png")
    page.until("document.querySelector('#promote')", "promotion is offered")
    before = server.mask("red-2.png")
    page.keys("e")
    row = int(np.nonzero(before)[0].mean())
    page.drag([(10, row), (470, row)], SIZE)
    page.saved()
    corrected = server.mask("red-2.png")
    assert corrected.sum() < before.sum()
    assert not (corrected & ~before).any()
    page.go("red-3.png")
    page.until("document.querySelector('#promote')", "promotion is offered")
    page.until("document.querySelector('#progress').classList.contains('done')", "all images are segmented")
    found = server.mask("red-3.png")
    page.click("#promote")
    page.until(
        "document.querySelector('#image-name').textContent === 'green.png'", "it goes on to what is to be checked"
    )
    page.go("red-3.png")
    page.until("document.querySelector('.is-example')", "the image is an example")
    assert np.array_equal(server.mask("red-3.png"), found)
    assert server.get("project")["labels"][0]["shots"] == 3

    # The project's last change is taken back.
    page.go(None)
    page.click("#undo")
    page.until("document.querySelectorAll('#grid .badge.example').length === 2", "one example less")

    # Exported into the folder.
    page.until("document.querySelector('#progress').classList.contains('done')", "all images are segmented")
    page.click("#export")
    page.click("dialog [value=labelme]")
    page.click("dialog footer .primary")
    page.until("document.querySelector('.notice')?.textContent.startsWith('Wrote')", "it is exported")
    written = {path.suffix for path in (server.folder / "fewseg-export").rglob("*") if path.is_file()}
    assert {".png", ".json"} <= written
    coco = next((server.folder / "fewseg-export").rglob("coco*.json"))
    assert {c["name"] for c in json.loads(coco.read_text())["categories"]} == {"red"}


def paint_with_the_server_gone(page: Page, server: PageServer) -> None:
    page.go("red-1.png")
    page.brush(50)
    server.stop()
    page.until("!document.querySelector('#banner').hidden", "the banner says that the server is gone")
    cover(page, "red-1.png")
    page.until("document.querySelector('#saved').dataset.state === 'offline'", "the browser keeps it")


def test_nothing_is_lost_with_the_server_gone_and_the_page_killed(server: PageServer, tmp_path: Path) -> None:
    server.add_label()
    page = Page(server.address, tmp_path / "profile")
    page.open()
    paint_with_the_server_gone(page, server)
    kept = (
        "const done = arguments[0]; const open = indexedDB.open('fewseg', 1); open.onsuccess = () => {"
        "const ask = open.result.transaction('drafts').objectStore('drafts').count();"
        "ask.onsuccess = () => { open.result.close(); done(ask.result); } }"
    )
    wait_until(lambda: page.browser.execute_async_script(kept) == 1, "the stroke is in the browser's store")
    page.kill()
    server.start()
    assert server.image("red-1.png")["supports"] == []

    page = Page(server.address, tmp_path / "profile")
    try:
        page.open()
        wait_until(lambda: server.image("red-1.png")["supports"] == [1], "the kept stroke arrives")
        assert iou(server.mask("red-1.png"), truth("red-1.png")) > 0.9
        page.saved()
        assert page.browser.execute_async_script(kept) == 0
        assert page.errors() == []

        # A server that comes back finds the page again, and the page's strokes reach it.
        page.go("red-2.png")
        server.stop()
        page.until("!document.querySelector('#banner').hidden", "the banner says that the server is gone")
        cover(page, "red-2.png")
        server.start()
        page.until("document.querySelector('#banner').hidden", "the page finds the server again")
        page.saved()
        assert server.image("red-2.png")["supports"] == [1]
    finally:
        page.quit()


def test_strokes_wait_for_their_own_folder(opened: Page, server: PageServer, tmp_path: Path) -> None:
    page = opened
    other = PageServer(tmp_path / "other" / "pictures")  # the same names of folder and images
    shutil.copytree(server.folder, other.folder, ignore=shutil.ignore_patterns(".*"))
    other.port, other.address = server.port, server.address
    server.add_label()
    paint_with_the_server_gone(page, server)
    page.js("window.before = true")
    other.start()
    try:
        page.until("!window.before && !document.body.classList.contains('starting')", "the page starts afresh")
        other.add_label()
        page.go("red-1.png")
        page.until("document.querySelector('.label-row')", "the label arrives by itself")
        page.saved()
        assert other.image("red-1.png")["supports"] == []
    finally:
        other.stop()
    server.start()
    wait_until(lambda: server.image("red-1.png")["supports"] == [1], "the stroke arrives in its folder")
    assert iou(server.mask("red-1.png"), truth("red-1.png")) > 0.9
    page.saved()
    page.errors()  # servers that were away


def test_a_server_that_wants_its_token_gets_the_strokes_later(opened: Page, server: PageServer) -> None:
    page = opened
    server.add_label()
    page.go("red-1.png")
    page.js(
        "const real = fetch; window.denied = 0; window.fetch = (url, init) => init.method === 'PUT' && denied++ < 1"
        " ? Promise.resolve(new Response('', { status: 401 })) : real(url, init)"
    )
    page.brush(50)
    cover(page, "red-1.png")
    page.until("document.querySelector('.notice')?.textContent.includes('token')", "the page says what is missing")
    assert page.find("#saved").get_attribute("data-state") != "refused"
    page.saved()
    assert server.image("red-1.png")["supports"] == [1]


def test_a_filter_is_walked_through_to_its_end(opened: Page, server: PageServer) -> None:
    page = opened
    server.add_label()
    mask = io.BytesIO()
    Image.fromarray(truth("red-1.png").astype(np.uint8) * 255).save(mask, "png")
    names = ["green.png", "red-1.png", "red-3.png"]
    for name in names:
        path = f"pictures/{server.image(name)['id']}/annotations/1"
        server.get(path, method="PUT", data=mask.getvalue(), headers={"Content-Type": "image/png"})
    page.click("[data-filter=labelled]")
    page.until("document.querySelectorAll('#grid .card').length === 3", "the filter is on")
    page.go("green.png")
    page.until("document.querySelector('.is-example')", "the image is an example")
    page.click("[data-focus=next-step]")
    wait_until(lambda: server.image("green.png")["supports"] == [], "the image passes the filter no more")
    for place, name in enumerate(names, 1):
        page.until("document.querySelector('#image-name').textContent === arguments[0]", f"{name} is next", name)
        assert page.find("#image-position").text == f"{place} / 3"
        assert page.find("#zoom-percent").text.removesuffix(" %").isdigit()
        page.keys("j")


def test_keys_alone_suffice(opened: Page, server: PageServer) -> None:
    page = opened
    enter, tab, escape = "\ue007", "\ue004", "\ue00c"

    def tab_to(selector: str) -> None:
        for _ in range(60):
            if page.js("return document.activeElement.matches(arguments[0])", selector):
                return
            page.keys(tab)
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#guide input")
    page.keys("red", enter)
    page.until("document.querySelector('.chip .text')?.textContent === 'red'", "the label is there")
    tab_to("#grid .card")
    page.keys("\ue014")  # right: green.png comes first
    assert "red-1" in page.js("return document.activeElement.textContent")
    page.keys(enter)
    page.until("!document.querySelector('#editor').hidden", "the image opens")
    page.keys("]", "]", "]")
    tab_to("#stage")
    page.keys("\ue012")  # the cross appears in the middle
    page.keys(enter, *["\ue012"] * 4, *["\ue015"] * 4, enter)
    page.saved()
    stroke = server.mask("red-1.png")
    assert stroke[SIZE[1] // 2, SIZE[0] // 2]
    assert stroke.sum() > 500
    page.chord("\ue009", "z")  # Control
    page.until("document.querySelector('#undo-stroke').disabled", "the stroke is undone")
    page.chord("\ue009", "\ue008", "z")
    page.saved()
    assert np.array_equal(server.mask("red-1.png"), stroke)
    page.keys(escape, escape)
    page.until("document.querySelector('#editor').hidden", "Escape leads back")
    page.keys("?")
    page.until("document.querySelector('dialog[open] kbd')", "the sheet of keys opens")
    page.keys(escape)
    page.until("!document.querySelector('dialog')", "the sheet closes")


@pytest.mark.skipif(FIREFOX, reason="only Chromium plays a phone")
def test_a_phone(opened: Page, server: PageServer) -> None:
    page = opened
    label = server.add_label()
    page.resize((390, 844), phone=True)
    page.open()
    widest = (
        "return Math.max(...['html', 'body', '#gallery', '#editor'].map((s) => document.querySelector(s).scrollWidth))"
    )
    assert page.js(widest) <= 390
    page.go("red-1.png")
    assert page.js(widest) <= 390
    small = (
        "return [...document.querySelectorAll('#editor button, #bar button')].filter((b) => b.checkVisibility())"
        ".map((b) => [b.getBoundingClientRect(), b.outerHTML]).filter(([r]) => Math.min(r.width, r.height) < 28)"
    )
    assert page.js(small) == []  # a finger hits every button
    # One finger paints, two zoom: a stroke that a second finger interrupts leaves nothing.
    x, y = page.place((240, 160), SIZE)
    page.touch("touchStart", (x, y))
    page.touch("touchMove", (x + 40, y))
    page.touch("touchEnd")
    page.saved()
    painted = server.mask("red-1.png", label)
    assert painted[160, 240]
    fitted = page.js("return document.querySelector('#zoom-percent').textContent")
    page.touch("touchStart", (x - 40, y + 60))
    page.touch("touchStart", (x - 40, y + 60), (x + 40, y + 60))
    page.touch("touchMove", (x - 80, y + 60), (x + 80, y + 60))
    page.touch("touchEnd")
    assert page.js("return document.querySelector('#zoom-percent').textContent") != fitted
    assert page.find("#undo-stroke").is_enabled()
    page.js("document.querySelector('#undo-stroke').click()")
    page.until("document.querySelector('#undo-stroke').disabled", "there was one stroke only")
    for opener in ("#help", "#export", "#add-label"):
        page.click(opener)
        page.until("document.querySelector('dialog[open]')", "the dialog opens")
        fits = (
            "const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth && d.clientWidth <= 390"
        )
        assert page.js(fits)
        page.keys("\ue00c")
        page.until("!document.querySelector('dialog')", "the dialog closes")
    page.saved()
