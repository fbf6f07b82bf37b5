"""The page in a real browser without a window, and the server that it talks to.

Debian's Chromium, or with FEWSEG_BROWSER=firefox Firefox through geckodriver.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as ChromeService
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.firefox.service import Service as FirefoxService
from selenium.webdriver.remote.webelement import WebElement

from fewseg import Segmenter
from fewseg.server.app import create_app
from helpers.browsers import FIREFOX, PROGRAMS
from helpers.colour_method import COLOURS, ColourMethod

BROWSER, DRIVER = (shutil.which(name) for name in PROGRAMS)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
CARD = "[...document.querySelectorAll('#grid .card')].find((card) => card.textContent.includes(arguments[0]))"
"""The thumbnail of the image whose name is the script's first argument."""
PATIENCE = 30.0
"""Seconds that the page may take for anything; it takes a fraction of one on a quiet machine."""


def discs(name: str, seed: int, size: tuple[int, int] = (480, 320)) -> tuple[Image.Image, np.ndarray]:
    """A grey image with one disc of the named colour somewhere, and where that is."""
    generator = np.random.default_rng(seed)
    radius = size[1] // 5
    cx, cy = (int(generator.integers(radius + 10, side - radius - 10)) for side in size)
    y, x = np.mgrid[: size[1], : size[0]]
    inside = (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    pixels[inside] = COLOURS[name]
    return Image.fromarray(pixels), inside


class PageServer:
    """`fewseg serve` in a thread, on one port, to be stopped and started again."""

    def __init__(self, folder: Path, segmenter: Callable[[], Segmenter] | None = None) -> None:
        self.folder, self.segmenter = folder, segmenter or (lambda: Segmenter(ColourMethod()))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self.server: uvicorn.Server | None = None

    def start(self) -> None:
        app = create_app(self.segmenter(), folder=self.folder)
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, log_level="critical", timeout_graceful_shutdown=0, lifespan="on"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server is not None and self.server.started, "the server starts")

    def stop(self) -> None:
        if self.server is not None:
            self.server.should_exit = True
            self.thread.join(PATIENCE)
        self.server = None

    def get(self, path: str, **request: Any) -> Any:
        """What the API answers: JSON values, or an image as an array."""
        asked = urllib.request.Request(f"{self.address}api/v1/{path}", **request)
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            body = answer.read()
        return np.asarray(Image.open(io.BytesIO(body))) if body[1:4] == b"PNG" else json.loads(body or b"null")

    def add_label(self, name: str = "red") -> int:
        body = json.dumps({"name": name}).encode()
        return int(self.get("labels", data=body, headers={"Content-Type": "application/json"})["id"])

    def image(self, name: str) -> dict[str, Any]:
        return next(p for p in self.get("project")["pictures"] if p["name"] == name)

    def mask(self, name: str, label: int = 1) -> np.ndarray:
        """The mask that counts, (H, W) of bool."""
        return np.asarray(self.get(f"pictures/{self.image(name)['id']}/masks/{label}") > 0)


class Page:
    """One browser with one page."""

    def __init__(self, address: str, profile: Path, size: tuple[int, int] = (1280, 800)) -> None:
        self.browser: Any = _firefox(profile) if FIREFOX else _chromium(profile, size)
        self.address = address
        self.resize(size)

    def resize(self, size: tuple[int, int], phone: bool = False, dark: bool = False) -> None:
        if FIREFOX:  # no phones or colour schemes there; the frame around the page is some pixels wide
            self.browser.set_window_size(*size)
            frame = self.js("return [outerWidth - innerWidth, outerHeight - innerHeight]")
            self.browser.set_window_size(size[0] + frame[0], size[1] + frame[1])
            return
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.browser.execute_cdp_cmd(
            "Emulation.setTouchEmulationEnabled", {"enabled": phone, "maxTouchPoints": 5 if phone else 1}
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self) -> None:
        self.browser.get("about:blank")
        self.browser.get(self.address)
        self.until("!document.body.classList.contains('starting')", "the page starts")
        if FIREFOX:
            self.js(_NOTE_ERRORS)

    def js(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def until(self, condition: str, what: str, *values: Any) -> None:
        wait_until(lambda: bool(self.js(f"return {condition}", *values)), what)

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def keys(self, *keys: str) -> None:
        chain = ActionChains(self.browser, duration=0)
        for key in keys:
            chain.send_keys(key)
        chain.perform()

    def chord(self, *keys: str) -> None:
        """The last key while the others are held."""
        chain = ActionChains(self.browser, duration=0)
        for key in keys[:-1]:
            chain.key_down(key)
        chain.send_keys(keys[-1])
        for key in keys[:-1]:
            chain.key_up(key)
        chain.perform()

    def go(self, name: str | None) -> None:
        """Open an image by its file's name, or all images."""
        if name is None:
            self.js("location.hash = '#/'")
            self.until("document.querySelector('#editor').hidden", "the gallery is shown")
            return
        self.until(f"{CARD} !== undefined", f"{name} is listed", name)
        self.js(f"location.hash = {CARD}.hash", name)
        self.until("document.querySelector('#image-name').textContent === arguments[0]", f"{name} opens", name)

    def brush(self, image_pixels: float) -> None:
        """Choose the brush's width, in pixels of the open image."""
        self.js(
            "const scale = parseFloat(document.querySelector('#zoom-percent').textContent) / 100;"
            "const input = document.querySelector('#tool-options input');"
            "input.value = arguments[0] * scale; input.dispatchEvent(new Event('input'))",
            image_pixels,
        )

    def drag(self, points: Sequence[tuple[float, float]], size: tuple[int, int]) -> None:
        """Press at the first point of the open image (its pixels; `size` is the image's) and draw to the others."""
        # A banner moves the stage, and the page fits the image to it in the next frame only.
        self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        places = [self.place(point, size) for point in points]
        chain = ActionChains(self.browser, duration=5)
        chain.w3c_actions.pointer_action.move_to_location(*places[0])
        chain.w3c_actions.pointer_action.pointer_down()
        for place in places[1:]:
            chain.w3c_actions.pointer_action.move_to_location(*place)
        chain.w3c_actions.pointer_action.pointer_up()
        chain.perform()

    def place(self, point: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
        """Where an image pixel of an image that is shown whole lies in the window."""
        box = self.js("return document.querySelector('#stage').getBoundingClientRect().toJSON()")
        margin = min(24, box["width"] / 20)
        scale = min((box["width"] - 2 * margin) / size[0], (box["height"] - 2 * margin) / size[1])
        return (
            round(box["x"] + box["width"] / 2 + (point[0] - size[0] / 2) * scale),
            round(box["y"] + box["height"] / 2 + (point[1] - size[1] / 2) * scale),
        )

    def saved(self) -> None:
        self.until("document.querySelector('#saved').dataset.state === 'saved'", "the server has everything")

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """`touchStart`, `touchMove` or `touchEnd` with the fingers that are down then (Chromium only)."""
        where = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        self.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": where})

    def clear_cache(self) -> None:
        if not FIREFOX:
            self.browser.execute_cdp_cmd("Network.clearBrowserCache", {})

    def errors(self) -> list[str]:
        """What the console complained about since the last call."""
        if FIREFOX:
            return list(self.js("return window.noted.splice(0)"))
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]

    def kill(self) -> None:
        """As when the power goes: the browser gets no chance to say goodbye."""
        os.kill(self.browser_pid(), signal.SIGKILL)
        self.browser.service.stop()

    def browser_pid(self) -> int:
        if FIREFOX:
            return int(self.browser.capabilities["moz:processID"])
        driver = self.browser.service.process.pid
        for status in Path("/proc").glob("[0-9]*/stat"):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == driver:
                return int(status.parent.name)
        raise AssertionError("the browser's process is not found")

    def quit(self) -> None:
        self.browser.quit()


_NOTE_ERRORS = (
    "window.noted = []; const log = console.error;"
    "console.error = (...said) => { noted.push(said.join(' ')); log(...said) };"
    "addEventListener('error', (event) => noted.push(event.message));"
    "addEventListener('unhandledrejection', (event) => noted.push(String(event.reason)))"
)
"""geckodriver hands no console over; what goes wrong while the page starts is not seen."""


def _chromium(profile: Path, size: tuple[int, int]) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=ChromeService(DRIVER))


def _firefox(profile: Path) -> webdriver.Firefox:
    profile.mkdir(exist_ok=True)
    options = webdriver.FirefoxOptions()
    options.binary_location = BROWSER or ""
    for flag in ("-headless", "-profile", str(profile)):
        options.add_argument(flag)
    return webdriver.Firefox(options=options, service=FirefoxService(DRIVER))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE:g} s in vain until {what}"
        time.sleep(0.03)
