"""Commands that are killed at random moments, and go on: the files must be those of an undisturbed run.

    PYTHONPATH=src:tests python -m helpers.kills [--kills 100] [--only segment] [--seed 0]

Every kill is `kill -9` of the command and its workers, at a random moment between its start and its end. A command that
was killed some times is run to its end, and its folder compared with an undisturbed one's, byte by byte; times are left
out, and the columns of them in `metrics.jsonl` and `results.md`. Of `serve`, see `helpers.serve_kills`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fewseg.core.locks import is_lock
from fewseg.models.checkpoints import save_method
from fewseg.models.methods import create_method
from helpers import serve_kills
from helpers.colour_method import blob, write_support
from helpers.forked import kill, start
from helpers.tiny_benchmarks import make_coco20i

_TIMES = ("times.json", "config.yaml")
"""Files left out: the second holds the device's name alone."""


@dataclass(frozen=True)
class Case:
    """A command that works in a folder."""

    words: str
    """What follows `fewseg`; {data} is a folder with what it reads, {out} the one that it writes."""
    make: Callable[[Path], None]
    """Writes what it reads."""
    inside: bool = False
    """Whether it writes into what it reads: every run gets a copy."""


def _photos(folder: Path) -> None:
    write_support(folder / "support", "red", "blue", shots=6)
    for i in range(24):
        (folder / "photos").mkdir(exist_ok=True)
        blob("red", "blue", place=0.3 + 0.02 * i)[0].save(folder / f"photos/{i}.png")
    torch.manual_seed(0)
    save_method(create_method("dcama", backbone="tiny", image_size=64), folder / "model.safetensors")


CASES = {
    "segment": Case(
        "segment --support {data}/support --input {data}/photos --out {out} --model {data}/model.safetensors "
        "--device cpu --model-threads 1 --adapt off --formats coco labelme",
        _photos,
    ),
    "evaluate": Case(
        "evaluate --data {data}/support --out {out} --model {data}/model.safetensors --device cpu --shots 1 "
        "--episodes-per-class 12 --min-area 0 --save-examples 1",
        _photos,
    ),
    "train": Case(
        "train --data synthetic --out {out} --backbone tiny --random-backbone --image-size 64 --epochs 2 "
        "--episodes-per-epoch 8 --batch-size 2 --threads 1 --workers 0 --device cpu --checkpoint-every 1 "
        "--no-tensorboard",
        lambda folder: folder.mkdir(exist_ok=True),
    ),
    "prepare": Case(
        "prepare coco20i --root {out} --workers 2", lambda folder: make_coco20i(folder, train=1, val=1), inside=True
    ),
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that a run leaves, without what no two runs share."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not is_lock(path) and path.name not in _TIMES:
            content = path.read_bytes()
            if path.name == "metrics.jsonl":
                lines = [json.loads(line) for line in content.splitlines()]
                content = json.dumps([{k: v for k, v in x.items() if "second" not in k} for x in lines]).encode()
            if path.name == "results.md":
                content = re.sub(rb"\| *[\d.]+ *\|$", b"|", content, flags=re.MULTILINE)
            files[path.relative_to(folder).as_posix()] = content
    return files


def finish(case: Case, data: Path, out: Path) -> float:
    """Run to the end; gives the seconds. Raises `RuntimeError` with what it said where it failed."""
    begin = time.monotonic()
    process = start(case.words.format(data=data, out=out), data.with_name("said"))
    process.join()
    if process.exitcode:
        said = (data.with_name("said")).read_text()
        raise RuntimeError(f"{case.words.split()[0]} ended with {process.exitcode}: {said[-600:]}")
    return time.monotonic() - begin


def kill_after(case: Case, data: Path, out: Path, seconds: float) -> None:
    """Run it for so long, unless it ends before."""
    process = start(case.words.format(data=data, out=out), data.with_name("said"))
    process.join(seconds)
    kill(process)


def differences(case: Case, folder: Path, moments: Sequence[float]) -> list[str]:
    """Files that are not those of an undisturbed run, after kills at these moments (shares of its time) and a last run.

    Both runs write into one place, for names of folders are in the results.
    """
    data, out = folder / "data", folder / "out"
    data.mkdir(parents=True)
    case.make(data)

    def begin() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if case.inside:
            shutil.copytree(data, out)

    begin()
    seconds = finish(case, data, out)
    expected = contents(out)
    begin()
    for moment in moments:
        kill_after(case, data, out, moment * seconds)
    finish(case, data, out)
    found = contents(out)
    return sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--in-a-row", type=int, default=5)
    parser.add_argument("--only", choices=[*CASES, "serve"], action="append")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, done, wrong = random.Random(args.seed), 0, 0
    names = itertools.cycle(args.only or [*CASES, "serve"])
    while done < args.kills:
        name, moments = next(names), [rng.random() for _ in range(min(args.in_a_row, args.kills - done))]
        with tempfile.TemporaryDirectory() as folder:
            if name == "serve":
                found = serve_kills.problems(Path(folder), len(moments), rng.getrandbits(32))
            else:
                found = differences(CASES[name], Path(folder), moments)
        done, wrong = done + len(moments), wrong + bool(found)
        said = found or ("all that was answered" if name == "serve" else "the files of an undisturbed run")
        print(f"{name}: {len(moments)} kills, {done} in all: {said}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
