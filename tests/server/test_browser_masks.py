"""Masks in a real browser: strokes, regions, large images, files; names of controls."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains

from fewseg.server.page.masks import Masks
from fewseg.server.page.view import ProjectView
from helpers.page import Page, PageServer, discs, wait_until
from helpers.page_fixtures import SIZE, cover, middle, opened, page, server

_ = (opened, page, server)  # fixtures


def test_strokes_are_undone_exactly_and_regions_are_looked_at_first(opened: Page, server: PageServer) -> None:
    page = opened
    server.add_label()
    page.go("red-1.png")
    page.until("document.querySelector('.label-row')", "the label arrives by itself")
    page.brush(30)
    page.drag([(100, 100), (200, 150)], SIZE)
    page.saved()
    first = server.mask("red-1.png")
    page.drag([(300, 60), (320, 200)], SIZE)
    page.saved()
    assert server.mask("red-1.png").sum() > first.sum()
    page.click("#undo-stroke")
    page.saved()
    assert np.array_equal(server.mask("red-1.png"), first)
    page.click("#redo-stroke")
    page.saved()
    both = server.mask("red-1.png")
    assert both.sum() > first.sum()

    x, y = middle("red-1.png")
    page.keys("g")
    page.drag([(x, y)], SIZE)
    page.until("!document.querySelector('#proposal .primary').hidden", "a region is offered")
    page.keys("\ue00c")  # Escape
    page.until("document.querySelector('#proposal').hidden", "the offer is gone")
    assert np.array_equal(server.mask("red-1.png"), both)
    page.drag([(x, y)], SIZE)
    page.until("!document.querySelector('#proposal .primary').hidden", "a region is offered")
    page.keys("\ue007")  # Enter
    page.saved()
    assert server.mask("red-1.png")[y, x]
    assert server.mask("red-1.png").sum() > both.sum()

    page.keys("p")
    for corner in ((20, 20), (90, 20), (90, 70), (20, 70)):
        page.drag([corner], SIZE)
    page.keys("\ue007")
    page.saved()
    assert server.mask("red-1.png")[25:65, 25:85].all()


def test_masks_are_sent_at_the_size_of_large_images(opened: Page, server: PageServer) -> None:
    page = opened
    size = (3600, 2400)
    discs("red", 3, size)[0].save(server.folder / "large.jpg", quality=80)
    server.add_label()
    server.get("rescan", method="POST")
    page.go("large.jpg")
    page.brush(360)
    page.drag([(900, 1200), (2700, 1200)], size)
    page.saved()
    painted = server.mask("large.jpg")
    assert painted.shape == (2400, 3600)
    rows, columns = np.nonzero(painted)
    assert abs(rows.mean() - 1200) < 8
    assert abs(np.ptp(rows) - 360) < 16
    assert abs(np.ptp(columns) - 2160) < 24
    assert set(np.unique(server.get(f"pictures/{server.image('large.jpg')['id']}/masks/1"))) == {0, 255}


def test_the_browser_writes_grey_png_files_that_others_read(opened: Page) -> None:
    values = np.random.default_rng(0).integers(0, 256, (37, 53), dtype=np.uint8)
    script = (
        "const [values, width, height, done] = arguments;"
        "import('/js/png.js').then(({ greyPng }) => greyPng(Uint8Array.from(values), width, height))"
        ".then((blob) => blob.arrayBuffer()).then((bytes) => done([...new Uint8Array(bytes)]));"
    )
    written = bytes(opened.browser.execute_async_script(script, values.ravel().tolist(), 53, 37))
    image = Image.open(io.BytesIO(written))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), values)


def test_every_control_has_a_name_and_every_format_is_offered(opened: Page, server: PageServer) -> None:
    from fewseg.formats import FORMATS

    page = opened
    server.add_label()
    page.go("red-1.png")
    page.until("document.querySelector('.label-row')", "the label arrives by itself")
    nameless = (
        "return [...document.querySelectorAll('button, a, input, select')].filter((e) => e.checkVisibility()"
        " && !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert page.js(nameless) == []
    page.click("#export")
    assert page.js("return [...document.querySelectorAll('dialog [name=format]')].map(b => b.value)") == list(FORMATS)
    assert page.js(nameless.replace("document", "document.querySelector('dialog')")) == []
    page.keys("\ue00c")


def make_example(page: Page, server: PageServer) -> None:
    """A label, and the first image painted with it."""
    server.add_label()
    page.go("red-1.png")
    page.brush(56)
    cover(page, "red-1.png")
    page.saved()


def test_painting_waits_for_the_mask_that_is_there(
    opened: Page, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened
    make_example(page, server)
    before = server.mask("red-1.png")
    read, broken = Masks.mask, True

    def mask(*asked: object) -> object:
        if broken:
            raise OSError("the disk is away")
        return read(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(Masks, "mask", mask)
    page.browser.get("about:blank")
    page.clear_cache()
    page.open()
    page.go("red-1.png")
    page.until("document.querySelector('.label-row')", "the labels are there")
    page.drag([(20, 20), (60, 20)], SIZE)
    page.until("document.querySelector('.notice')?.textContent.includes('still loading')", "the page says why")
    assert not page.find("#undo-stroke").is_enabled()

    def painted() -> bool:
        page.drag([(20, 20), (60, 20)], SIZE)
        return page.find("#undo-stroke").is_enabled()

    broken = False
    wait_until(painted, "the mask has come by itself")
    page.saved()
    after = server.mask("red-1.png")
    assert after[20, 40]
    assert after[before].all()
    page.errors()  # the masks that were refused


def test_a_stroke_stays_with_its_label_and_tool(opened: Page, server: PageServer) -> None:
    page = opened
    server.add_label("red")
    server.add_label("blue")
    page.go("red-1.png")
    page.until("document.querySelectorAll('.label-row').length === 2", "the labels are there")
    page.brush(30)
    places = [page.place(point, SIZE) for point in ((100, 100), (150, 100), (250, 100))]
    press = ActionChains(page.browser, duration=5)
    press.w3c_actions.pointer_action.move_to_location(*places[0])
    press.w3c_actions.pointer_action.pointer_down()
    press.w3c_actions.pointer_action.move_to_location(*places[1])
    press.perform()
    page.keys("2", "e")
    lift = ActionChains(page.browser, duration=5)
    lift.w3c_actions.pointer_action.move_to_location(*places[2])
    lift.w3c_actions.pointer_action.pointer_up()
    lift.perform()
    page.saved()
    assert server.image("red-1.png")["supports"] == [1]
    assert server.mask("red-1.png")[100, 100:250].all()
    page.keys("2")
    page.drag([(100, 200), (200, 200)], SIZE)
    page.saved()
    assert server.image("red-1.png")["supports"] == [1, 2]


def test_undo_leaves_no_example_that_nobody_made(opened: Page, server: PageServer) -> None:
    page = opened
    make_example(page, server)
    page.until("document.querySelector('#progress').classList.contains('done')", "all images are segmented")
    page.go("red-2.png")
    page.until("document.querySelector('#promote')", "a mask is found")
    found = server.mask("red-2.png")

    def stroke() -> bool:
        page.drag([(20, 20), (60, 60)], SIZE)  # again, while the mask is still loading
        return page.find("#undo-stroke").is_enabled()

    # Taken back before it is sent, and after.
    wait_until(stroke, "there is a stroke")
    page.chord("\ue009", "z")
    page.saved()
    assert server.image("red-2.png")["supports"] == []
    assert np.array_equal(server.mask("red-2.png"), found)
    wait_until(stroke, "there is a stroke")
    page.saved()
    assert server.image("red-2.png")["supports"] == [1]
    page.chord("\ue009", "z")
    page.saved()
    assert server.image("red-2.png")["supports"] == []

    # An example that is removed takes its steps along.
    page.go("red-1.png")
    page.until("document.querySelector('.is-example')", "the image is an example")
    wait_until(stroke, "there is a stroke")
    page.saved()
    page.click("[data-focus=next-step]")
    page.until("document.querySelector('#undo-stroke').disabled", "its steps are gone")
    page.chord("\ue009", "z")
    page.saved()
    assert server.image("red-1.png")["supports"] == []


def test_the_expected_quality_stands_beside_the_labels_name(
    opened: Page, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened
    report = {
        "examples": 6,
        "adapted": True,
        "iou_before": 0.314,
        "iou_after": 0.62,
        "expected_iou": 0.62,
        "spread": 0.08,
    }
    own = {"state": "working", "report": None}
    monkeypatch.setattr(ProjectView, "_adaptation", lambda self, label, plan: own)
    server.add_label()
    page.until("document.querySelector('#labels .quality')?.textContent === 'adapting …'", "a fit is under way")
    own = {"state": "done", "report": report}
    server.add_label("blue")
    wanted = "expected IoU 0.31 → 0.62 ± 0.08"
    page.until(f"document.querySelector('#labels .quality')?.textContent === '{wanted}'", "the fit is done")
    page.go("red-1.png")
    page.until(f"document.querySelector('.label-row .quality')?.textContent === '{wanted}'", "the panel says so, too")
    title = page.js("return document.querySelector('.label-row .quality').title")
    assert "mean IoU 0.31 as taught → 0.62 adapted" in title
    assert "says nothing of others" in title
