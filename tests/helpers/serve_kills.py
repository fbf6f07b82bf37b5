"""`fewseg serve`, killed at random moments while somebody paints: what was answered is there after the next start."""

from __future__ import annotations

import http.client
import json
import random
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from fewseg.models.checkpoints import save_method
from fewseg.models.methods import create_method
from fewseg.server.project.project import Project
from helpers.annotating import png, write_images
from helpers.forked import kill, start


@dataclass(frozen=True)
class Drawn:
    """What a person has made of a project."""

    labels: tuple[tuple[int, str], ...] = ()
    masks: frozenset[tuple[str, int, bytes]] = frozenset()
    """Image, label, and the mask's pixels."""
    checked: frozenset[str] = frozenset()
    undo: tuple[Drawn, ...] = ()
    redo: tuple[Drawn, ...] = ()

    @property
    def now(self) -> Drawn:
        """Without the history."""
        return replace(self, undo=(), redo=())

    def to(self, **values: Any) -> Drawn:
        """After a change that can be undone."""
        return replace(self, **values, undo=(*self.undo, self.now), redo=())

    def undone(self) -> Drawn:
        """After the last change was undone."""
        return replace(self.undo[-1], undo=self.undo[:-1], redo=(*self.redo, self.now))

    def redone(self) -> Drawn:
        """After the change that was undone last was made again."""
        return replace(self.redo[-1], undo=(*self.undo, self.now), redo=self.redo[:-1])


def drawn(folder: Path) -> Drawn:
    """What a project has, without its history; every mask is read, and nothing may have been found damaged."""
    project = Project(folder)
    try:
        assert project.notices == [], project.notices
        state = project.state
        masks = ((image, label, project.mask(image, label).tobytes()) for image, label in state.annotations)
        return Drawn(tuple((label.id, label.name) for label in state.labels), frozenset(masks), state.checked)
    finally:
        project.close()


class Painter:
    """Somebody who paints at random; knows what was answered, and which change is under way."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        write_images(folder, "rbrbrb")
        project = Project(folder)
        for name in ("disc", "ring"):
            project.add_label(name)
        self.images = [(image.id, image.width, image.height) for image in project.images.values()]
        project.close()
        self.sure = self.perhaps = drawn(folder)
        self.answered = 0

    def paint(self, address: str) -> None:
        """Change after change, until the server is gone."""
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        with suppress(OSError, http.client.HTTPException):
            while True:
                method, path, body, self.perhaps = self._change()
                connection.request(method, f"/api/v1{path}", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                said = answer.read()
                assert answer.status < 300, (method, path, answer.status, said[:300])
                self.sure, self.answered = self.perhaps, self.answered + 1

    def _change(self) -> tuple[str, str, bytes | None, Drawn]:
        """A request, and what is drawn after it."""
        now, rng = self.sure, self.rng
        image, width, height = rng.choice(self.images)
        kinds = ["undo"] * bool(now.undo) + ["redo"] * 2 * bool(now.redo) + ["remove"] * bool(now.masks)
        kind = rng.choice(["paint"] * 6 + ["check", "rename", *kinds])
        if kind == "paint":
            label = rng.choice(now.labels)[0]
            mask = np.random.default_rng(rng.getrandbits(60)).random((height, width)) < 0.3
            others = frozenset(m for m in now.masks if m[:2] != (image, label))
            path = f"/pictures/{image}/annotations/{label}"
            return "PUT", path, png(mask), now.to(masks=others | {(image, label, mask.tobytes())})
        if kind == "remove":
            gone = rng.choice(sorted(now.masks))
            after = now.to(masks=now.masks - {gone})
            return "DELETE", f"/pictures/{gone[0]}/annotations/{gone[1]}", None, after
        if kind == "check":
            body = json.dumps({"checked": image not in now.checked}).encode()
            return "PUT", f"/pictures/{image}/checked", body, now.to(checked=now.checked ^ {image})
        if kind == "rename":
            number, name = rng.choice(now.labels)[0], f"label {rng.random()}"
            labels = tuple((n, name if n == number else old) for n, old in now.labels)
            return "PATCH", f"/labels/{number}", json.dumps({"name": name}).encode(), now.to(labels=labels)
        return "POST", f"/{kind}", None, now.undone() if kind == "undo" else now.redone()


@contextmanager
def serving(folder: Path, model: Path) -> Iterator[Path]:
    """The command, killed at the end; gives the file of what it says."""
    said = model.with_name("said")
    words = f"serve {folder} --port 0 --model {model} --device cpu --adapt off"
    server = start(words, said)
    try:
        yield said
    finally:
        kill(server)


def address(said: Path, seconds: float = 120) -> str:
    """Where it serves, once it says so."""
    end = time.monotonic() + seconds
    while not (match := re.search(r"API: (\S+)/api/v1", said.read_text() if said.exists() else "")):
        assert time.monotonic() < end, f"the server did not start: {said.read_text()[-600:]}"
        time.sleep(0.01)
    return match[1]


def predicted(folder: Path, model: Path) -> dict[tuple[str, str], bytes]:
    """Every mask that the page shows, once all are predicted."""
    with serving(folder, model) as said:
        connection = http.client.HTTPConnection(urlsplit(address(said)).netloc, timeout=60)

        def get(path: str) -> bytes:
            connection.request("GET", f"/api/v1{path}")
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, (path, answer.status, content[:300])
            return content

        while True:
            images = json.loads(get("/project"))["pictures"]
            if all(image["state"] not in ("waiting", "working") for image in images):
                break
            time.sleep(0.1)
        assert all(image["state"] in ("done", "untaught") for image in images), images
        places = [(image["id"], label) for image in images for label in image["masks"]]
        return {(image, label): get(f"/pictures/{image}/masks/{label}") for image, label in places}


def problems(folder: Path, kills: int, seed: int) -> list[str]:
    """What is wrong after each of some kills, and of the predictions at the end; empty where nothing is."""
    images, model, rng = folder / "images", folder / "model.safetensors", random.Random(seed)
    torch.manual_seed(0)
    save_method(create_method("dcama", backbone="tiny", image_size=64), model)
    painter, found = Painter(images, seed), list[str]()
    for number in range(kills):
        with serving(images, model) as said:
            if number % 5 == 4:  # while it starts
                time.sleep(rng.uniform(0, 0.5))
                painting = threading.Thread()
            else:
                painting = threading.Thread(target=painter.paint, args=[address(said)])
            painting.start()
            until = painter.answered + rng.randrange(20)
            while painting.is_alive() and painter.answered < until:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.05))
        painting.join()
        there = drawn(images)
        if there == painter.perhaps.now:
            painter.sure = painter.perhaps
        elif there != painter.sure.now:
            found.append(f"kill {number}: not what was answered")
            painter.sure = there
        painter.perhaps = painter.sure
    shown = predicted(images, model)
    shutil.rmtree(images / ".fewseg" / "cache")
    if shown != predicted(images, model):
        found.append("the masks that the page shows are not those of an empty cache")
    print(f"serve: {painter.answered} changes were answered", flush=True)
    return found
