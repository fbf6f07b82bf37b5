"""Finishing a folder in a real browser: to check, accepted, checked, not here; nearly found; after an outage."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.browsers import FIREFOX
from helpers.page import CARD, Page, PageServer, discs, wait_until
from helpers.page_fixtures import SIZE, cover, opened, page, server, truth

_ = (opened, page, server)  # fixtures

DELETE, ESCAPE = "\ue017", "\ue00c"
NAME = "document.querySelector('#image-name').textContent"


def taught(page: Page, server: PageServer, further: int = 0) -> int:
    """One example of red, and all other images segmented."""
    for number in range(further):
        discs("red", 20 + number, SIZE)[0].save(server.folder / f"s-{number}.png")
    if further:
        server.get("rescan", method="POST")
    label = server.add_label()
    page.go("red-1.png")
    page.brush(56)
    cover(page, "red-1.png")
    page.saved()
    page.until("document.querySelector('#progress').classList.contains('done')", "all images are segmented")
    return label


def checked(page: Page) -> str:
    return str(page.js("return document.querySelector('#checked').textContent"))


def test_a_folder_is_checked_to_its_end(opened: Page, server: PageServer) -> None:
    page = opened
    label = taught(page, server)
    page.go(None)
    page.until("!document.querySelector('#review').hidden", "the way to what is to be checked is offered")
    assert "1 of 4 checked" in checked(page).replace("/", "")
    page.find("#order").send_keys("To check first")
    page.until("document.querySelector('#order').value === 'open'", "the order is chosen")
    page.click("#review")
    page.until("document.querySelector('#refuse')", "a mask is shown to decide about")
    first = page.js(f"return {NAME}")
    assert first.startswith("red-")
    page.until("document.querySelector('#promote')", "it may be accepted")

    # Delete refuses and goes on; Ctrl Z takes it back and returns.
    page.keys(DELETE)
    page.until(f"{NAME} !== arguments[0]", "the next image opens", first)
    wait_until(lambda: server.image(first)["absent"] == [label], "the mask is refused")
    assert not server.mask(first).any()
    page.until("document.querySelector('#checked .done').textContent === '2'", "it counts as checked")
    page.chord("\ue009", "z")
    page.until(f"{NAME} === arguments[0]", "the image is open again", first)
    assert server.image(first)["absent"] == []
    page.until("document.querySelector('#promote')", "its mask is back")
    page.keys(DELETE)
    page.until(f"{NAME} !== arguments[0]", "the next image opens", first)

    # C checks and keeps the mask; the last image says that all is done.
    second = page.js(f"return {NAME}")
    page.until("document.querySelector('#promote')", "a mask is shown")
    before = server.mask(second)
    page.keys("c")
    page.until(f"{NAME} === 'green.png'", "the image without red comes last")
    assert np.array_equal(server.mask(second), before)
    assert server.image(second)["confirmed"] == [label]
    page.keys("c")
    page.until("document.querySelector('#notices').textContent.includes('Every image is checked')", "it is finished")
    page.until("document.querySelector('#checked.all-done')", "the bar says so")
    assert server.get("project")["labels"][0]["shots"] == 1
    page.go(None)
    page.click("[data-filter=open]")
    page.until("!document.querySelector('#empty').hidden", "nothing is left")
    assert page.find("#review").is_displayed() is False


def test_it_stays_where_one_wishes(opened: Page, server: PageServer) -> None:
    page = opened
    taught(page, server)
    page.go("red-2.png")
    page.until("document.querySelector('#promote')", "a mask is shown")
    page.js("[...document.querySelectorAll('#display input[role=switch]')].at(-1).click()")
    page.keys("a")
    page.until("document.querySelector('.is-example')", "it is an example")
    assert page.js(f"return {NAME}") == "red-2.png"
    page.js("[...document.querySelectorAll('#display input[role=switch]')].at(-1).click()")


def test_erasing_everything_says_not_here(opened: Page, server: PageServer) -> None:
    page = opened
    label = taught(page, server)
    page.go("red-2.png")
    page.until("document.querySelector('#promote')", "a mask is shown")
    page.keys("e")
    page.brush(320)
    rows, columns = np.nonzero(truth("red-2.png"))

    def erased() -> bool:
        page.drag([(columns.min(), int(rows.mean())), (columns.max(), int(rows.mean()))], SIZE)
        return page.find("#undo-stroke").is_enabled()

    wait_until(erased, "the mask has come and is erased")
    page.saved()
    assert server.image("red-2.png")["absent"] == [label]
    page.until("document.querySelector('#next-step').textContent.includes('Not here')", "the page says so")
    page.chord("\ue009", "z")
    page.saved()
    assert server.image("red-2.png")["absent"] == []


def test_filters_orders_and_thresholds(opened: Page, server: PageServer) -> None:
    page = opened
    taught(page, server, further=2)
    page.go(None)
    names = "return [...document.querySelectorAll('#grid .card-name')].map((e) => e.textContent)"
    page.find("#search").send_keys("red-")
    page.until("document.querySelectorAll('#grid .card').length === 3", "names are searched")
    page.js("const s = document.querySelector('#search'); s.value = ''; s.dispatchEvent(new Event('input'))")
    page.until("document.querySelectorAll('#grid .card').length === 6", "all are shown again")
    page.find("#order").send_keys("Most presence first")
    page.until("document.querySelectorAll('#grid .card-name')[5]?.textContent === 'green.png'", "green comes last")
    page.click("[data-filter=checked]")
    page.until("document.querySelectorAll('#grid .card').length === 1", "one image is checked")
    assert page.js(names) == ["red-1.png"]
    page.click("[data-filter=all]")
    page.click("#how-sure summary")
    slide = (
        "const input = document.querySelectorAll('#how-sure input')[arguments[0]];"
        "input.value = arguments[1]; input.dispatchEvent(new Event('input'))"
    )
    page.js(slide, 0, 1.0)
    page.until(
        "document.querySelector('#how-sure .hint').textContent === 'red in 1 of 6'", "nothing else is sure enough"
    )
    wait_until(lambda: server.get("project")["labels"][0]["presence_threshold"] == 1.0, "the project keeps it")
    page.click("#how-sure .quiet")
    page.until("document.querySelector('#how-sure .hint').textContent === 'red in 5 of 6'", "the model decides again")


def test_what_was_nearly_found_is_shown(opened: Page, server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened
    label = taught(page, server, further=3)
    threshold = 1.0
    body = f'{{"presence_threshold": {threshold}}}'.encode()
    headers = {"Content-Type": "application/json"}
    server.get(f"labels/{label}", method="PATCH", data=body, headers=headers)
    page.go(None)
    page.until("!document.querySelector('#found').hidden", "the page says that little was found")
    assert "5 may show it" in page.find("#found").text
    page.click("#found button")
    page.until("document.querySelectorAll('#grid .card').length === 5", "those are shown")
    page.until("document.querySelectorAll('#grid [data-masks=\"1\"]').length === 5", "with what was found")
    page.go("red-2.png")
    page.until("document.querySelector('#show-found')", "the editor offers it")
    page.keys("a")
    page.until(
        "document.querySelector('#notices').textContent.includes('No mask of red is shown')", "A takes nothing hidden"
    )
    assert server.image("red-2.png")["supports"] == []
    page.keys("f")
    page.until("document.querySelector('#promote')", "it may be accepted now")
    found = server.mask("red-2.png")

    def painted() -> bool:
        page.drag([(20, 20), (40, 20)], SIZE)
        return page.find("#undo-stroke").is_enabled()

    wait_until(painted, "there is a stroke")
    page.saved()
    assert server.mask("red-2.png")[found].all()  # the stroke was added to what was found


def test_after_an_outage_all_is_there_again(opened: Page, server: PageServer) -> None:
    page = opened
    taught(page, server)
    page.go("red-2.png")
    server.stop()
    page.until("!document.querySelector('#banner').hidden", "the banner says that the server is gone")
    page.clear_cache()
    page.js(
        "location.hash = [...document.querySelectorAll('#strip .card')]"
        ".find((c) => c.textContent.includes('red-3')).hash"
    )
    page.until(f"{NAME} === 'red-3.png'", "the image opens")
    discs("red", 40, SIZE)[0].save(server.folder / "new.png")
    server.start()
    page.until("document.querySelector('#banner').hidden", "the page finds the server again")
    page.until(f"{CARD} !== undefined", "a new file is shown by itself", "new.png")
    lit = (
        "(() => { const c = document.querySelector('#scene');"
        "return c.getContext('2d').getImageData(c.width >> 1, c.height >> 1, 1, 1).data[3] === 255 })()"
    )
    page.until(lit, "the image is on the stage")
    page.go(None)
    page.until("!document.querySelector('#grid .broken')", "every thumbnail is there")
    page.until("[...document.querySelectorAll('#grid img')].every((i) => i.naturalWidth)", "every thumbnail is loaded")
    page.errors()  # what was asked for while the server was gone


def test_pieces_and_outlines(opened: Page, server: PageServer) -> None:
    page = opened
    server.add_label()
    page.go("red-1.png")
    page.until("document.querySelector('.label-row')", "the labels are there")
    page.brush(40)
    page.drag([(60, 60), (120, 60), (120, 120), (60, 120), (60, 60)], SIZE)  # a ring
    page.drag([(300, 100), (300, 101)], SIZE)  # and a dot
    page.saved()
    ring = server.mask("red-1.png")
    assert ring[100, 300]
    assert not ring[90, 90]
    page.keys("d")
    page.drag([(300, 100)], SIZE)
    page.saved()
    without = server.mask("red-1.png")
    assert not without[80:125, 270:330].any()
    assert without[60, 60]
    page.click("#tool-options > button")
    page.saved()
    assert server.mask("red-1.png")[90, 90]
    page.chord("\ue009", "z")
    page.saved()
    assert np.array_equal(server.mask("red-1.png"), without)

    page.keys("p")  # a square, of which a corner is dragged
    for corner in ((200, 180), (300, 180), (300, 280), (200, 280)):
        page.drag([corner], SIZE)
    page.keys("\ue007")
    page.saved()
    page.keys("o")
    page.drag([(250, 230)], SIZE)  # the piece is chosen
    page.drag([(300, 280), (380, 300)], SIZE)
    page.saved()
    dragged = server.mask("red-1.png")
    assert dragged[285, 340]
    assert np.array_equal(dragged[:170], without[:170])


def test_annotations_in_the_folder_are_offered(opened: Page, server: PageServer) -> None:
    page = opened
    shape = {"label": "disc", "points": [[10, 10], [90, 10], [90, 90]], "shape_type": "polygon"}
    content = {
        "imagePath": "red-1.png",
        "imageWidth": SIZE[0],
        "imageHeight": SIZE[1],
        "shapes": [shape],
        "version": "5",
    }
    (server.folder / "red-1.json").write_text(json.dumps(content))
    page.open()
    page.until("!document.querySelector('#existing').hidden", "the annotations are offered")
    assert "disc (1)" in page.find("#existing").text
    page.click("#existing .primary")
    page.until("document.querySelector('.chip .text')?.textContent === 'disc'", "the label is there")
    page.until("document.querySelectorAll('#grid .badge.example').length === 1", "and its example")
    assert server.mask("red-1.png")[20, 80]
    assert page.find("#existing").is_displayed() is False


@pytest.mark.skipif(FIREFOX, reason="only Chromium plays a phone")
def test_reviewing_on_a_phone(opened: Page, server: PageServer) -> None:
    page = opened
    label = taught(page, server)
    page.resize((390, 844), phone=True)
    page.open()
    widest = "return Math.max(...['html', 'body', '#gallery'].map((s) => document.querySelector(s).scrollWidth))"
    assert page.js(widest) <= 390
    page.click("#review")
    page.until("document.querySelector('#refuse')", "an image to check is open")
    name = page.js(f"return {NAME}")
    inside = (
        "return [...document.querySelectorAll('#next-step button')].map((b) => b.getBoundingClientRect())"
        ".every((r) => r.left >= 0 && r.right <= 390 && r.height >= 36)"
    )
    assert page.js(inside)
    page.click("#refuse")
    page.until(f"{NAME} !== arguments[0]", "the next one opens", name)
    wait_until(lambda: server.image(name)["absent"] == [label], "it is refused")
