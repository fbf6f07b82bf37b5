"""Several clients teach and segment at once over loopback: is anything lost, how quick is it, how much memory?

    python benchmarks/server_load.py --clients 8 --seconds 20

Starts `fewseg serve` in a process of its own. Every client has a session with its own label, taught with its own
images; every answer is compared with the library's prediction for the same image, so a mix-up between sessions shows.
Memory of the second half of the time is compared with that of the first.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from fewseg.client import Client, RemotePrediction, ServerError
from fewseg.inference.segmenter import Segmenter

T = TypeVar("T")


def main() -> None:
    """Run and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument(
        "--waiting", type=int, default=4, help="places in the server's queue: few, so that it overflows"
    )
    parser.add_argument("--checkpoint", default="default")
    options = parser.parse_args()
    command = [sys.executable, "-m", "fewseg.cli", "serve", "--port", "0", "--model", options.checkpoint]
    server = subprocess.Popen(
        [*command, "--limits.waiting", str(options.waiting)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert server.stdout is not None
        address = re.findall(r"http://\S+?:\d+", server.stdout.readline())[0]
        print(json.dumps(measure(address, server.pid, options), indent=2))
    finally:
        server.terminate()
        server.wait(20)


def measure(address: str, pid: int, options: argparse.Namespace) -> dict[str, object]:
    """Numbers of one run."""
    library = Segmenter.from_pretrained(options.checkpoint, device="cpu")
    workers = [Worker(address, number, library) for number in range(options.clients)]
    memory = [resident(pid)]
    end = time.monotonic() + options.seconds
    threads = [threading.Thread(target=worker.run, args=(end,)) for worker in workers]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.25)
        memory.append(resident(pid))
    times = [t for worker in workers for t in worker.times]
    half = len(memory) // 2
    left = len(json.loads(Client(address).request("GET", "/sessions")))
    return {
        "clients": options.clients,
        "answers": len(times),
        "answers_per_second": round(len(times) / options.seconds, 2),
        "seconds_median": round(statistics.median(times), 3),
        "seconds_95th": round(float(np.quantile(times, 0.95)), 3),
        "turned_away_and_came_again": sum(worker.refused for worker in workers),
        "wrong": sum(worker.wrong for worker in workers),
        "failed": dict(Counter(e for worker in workers for e in worker.errors)),
        "sessions_left": left,
        "memory_mb": {"start": memory[0], "first_half": max(memory[:half]), "second_half": max(memory[half:])},
    }


class Worker:
    """One client with one session."""

    def __init__(self, address: str, number: int, library: Segmenter) -> None:
        self.client = Client(address, retries=0)
        self.label, random = f"label {number}", np.random.default_rng(number)
        self.shots = [sample(random, number) for _ in range(2)]
        self.query = sample(random, number)[0]
        for image, mask in self.shots:
            library.teach(self.label, image, mask)
        self.expected = library.segment(self.query).masks[self.label]
        library.forget(self.label)
        self.times: list[float] = []
        self.errors: list[str] = []
        self.refused = self.wrong = 0

    def run(self, end: float) -> None:
        """Teach, then segment until `end`; teach again now and then, so that sessions come and go."""
        while time.monotonic() < end:
            with self.client.session(self.label) as session:
                for image, mask in self.shots:
                    self._again(functools.partial(session.teach, self.label, image, mask))
                for _ in range(5):
                    start = time.monotonic()
                    prediction = self._again(functools.partial(session.segment, self.query))
                    self.times.append(time.monotonic() - start)
                    self.wrong += int(prediction is None or self._agreement(prediction) < 0.999)

    def _agreement(self, prediction: RemotePrediction) -> float:
        """The share of the image's pixels where server and library agree."""
        return float((prediction.masks[self.label] == self.expected).mean())

    def _again(self, ask: Callable[[], T]) -> T | None:
        """The answer, asked for again while the queue is full; None after any other error, which is counted."""
        while True:
            try:
                return ask()
            except ServerError as error:
                if error.status != 503:
                    self.errors.append(f"{error.status} {error}")
                    return None
                self.refused += 1
                time.sleep(0.05)


def sample(random: np.random.Generator, number: int) -> tuple[Image.Image, np.ndarray]:
    """A disc of the client's own colour on noise, and its mask."""
    pixels = random.integers(90, 160, (360, 480, 3), np.uint8)
    y, x = np.mgrid[:360, :480]
    inside = (x - random.integers(120, 360)) ** 2 + (y - random.integers(120, 240)) ** 2 < 80**2
    pixels[inside] = np.random.default_rng(1000 + number).integers(0, 256, 3)
    return Image.fromarray(pixels), inside


def resident(pid: int) -> int:
    """Megabytes of memory that a process has (Linux; 0 elsewhere)."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) // 1024 if found else 0


if __name__ == "__main__":
    main()
