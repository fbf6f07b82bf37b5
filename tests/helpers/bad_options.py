"""Damaged models, and options without sense."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from helpers.bad_cases import FOLDER, Case, damaged


def model_cases(taught: bytes, checkpoint: bytes) -> Iterator[Case]:
    """Damage to a file of `Segmenter.save`, and to a checkpoint."""
    for kind, whole in (("taught", taught), ("checkpoint", checkpoint)):
        length = int.from_bytes(whole[:8], "little")
        changed = {f"{what} of the whole": content for what, content in damaged(whole, kind, flips=6)}
        changed |= {
            f"{what} of the header": content + whole[8 + length :]
            for what, content in damaged(whole[: 8 + length], kind, flips=8)
        }
        changed["header of 2^62 bytes"] = (2**62).to_bytes(8, "little") + whole[8:]
        nested = b'{"__metadata__": {"fewseg": "' + b"[" * 100_000 + b'"}}'
        changed["nested metadata"] = len(nested).to_bytes(8, "little") + nested
        changed["pickle"] = b"\x80\x04cos\nsystem\n(S'touch ran'\ntR."
        for what, content in changed.items():
            if kind == "taught":
                yield Case(f"taught {what}", ("load", "x.fewseg"), {"x.fewseg": content})
            else:
                yield Case(f"checkpoint {what}", (*FOLDER, "--model", "./x.safetensors"), {"x.safetensors": content})


SMALL_RUN: Final = (
    "train --data synthetic --out t --backbone tiny --random-backbone --image-size 32 --epochs 1 "
    "--episodes-per-epoch 1 --batch-size 1 --validation-episodes 1 --workers 0 --device cpu --threads 1 "
    "--no-tensorboard"
)
NUMBERS: Final = ("nan", "-1", "1e999", "x", "", "99999999999999999999999")


def option_cases() -> Iterator[Case]:
    drawn = random.Random("options")
    for command, options in {
        " ".join(
            FOLDER
        ): "tile overlap frame-stride batch-size workers model-threads tta-scales presence-threshold shots "
        "export.tolerance export.min-area ray-cpus",
        SMALL_RUN: "seed lr epochs image-size batch-size min-area weights folds shots ema-decay patience "
        "cache-megabytes",
        "evaluate --data synthetic --out e --device cpu": "shots episodes per-class image-size",
        "serve nowhere": "port limits.request-mb limits.seconds limits.running limits.json-mb",
    }.items():
        for option in options.split():
            for value in drawn.sample(NUMBERS, 3):
                yield Case(f"{command.split()[0]} --{option} {value!r}", (*command.split(), f"--{option}={value}"))
    for line in (
        "segmnt", "segment", "segment --input", "segment --input q --out",
        "segment --input q --out o --support nowhere",
        "segment --input /dev/zero --out o --support s", "segment --input q --out q/good.png --support s",
        "segment --input q --out o --support /dev/null", "segment --input q --out o --support s --formats pdf",
        "segment --input q --out o --support s --model /dev/zero",
        "segment --input q --out o --support s --labels blue",
        "segment --input q --out o --support s --device tpu:9",
        "segment --input q --out o --support s --images nowhere",
        "evaluate --data synthetic --out e --episode-lists /dev/zero", "evaluate --data nowhere@1/4 --out e",
        "evaluate --data s@5/4 --out e", "train --data s@x/y --out t", "train --config /dev/zero --out t --data s",
        f"{SMALL_RUN} --init-from /dev/zero", "prepare --root nowhere pascal5i", "export --out x --model nowhere",
        "frame nowhere.mp4 --out f.png", "serve nowhere", "serve q/good.png", "serve --host 999.9.9.9",
        "serve --port 99999",
        "serve --token short", "serve --label-studio-url nowhere --port 0",
        "explain --help --nonsense", "bench --nonsense",
    ):  # fmt: skip
        yield Case(f"line {line[:60]}", tuple(line.split()))
