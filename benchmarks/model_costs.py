"""Time and memory of named models by input size: a query with one example, weights random.

    python benchmarks/model_costs.py --models foris-small prototype-dinov2-small --sizes 256 512

Each line is a process of its own, for its peak of memory: processor seconds of one query (example encoded before), and
the resident memory at most, the libraries' included. Weights do not change either, so none are downloaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from fewseg.models.methods import create_method
from fewseg.models.methods.contract import episode
from fewseg.models.zoo import ZOO


def measure(name: str, size: int, threads: int, repeats: int) -> dict[str, float]:
    """Processor seconds of a query, the least of the repeats, and megabytes at the peak."""
    torch.set_num_threads(threads)
    model = ZOO[name]
    torch.manual_seed(0)
    options = {} if model.embedded else dict(model.config)
    method = create_method(model.method, backbone=model.backbone, image_size=size, **options)
    seconds = []
    with torch.inference_mode():
        query, images, masks = episode(method, 1, 1)
        support = method.encode_support(images, masks)
        for _ in range(repeats):
            start = time.process_time()
            method.segment(query, support)
            seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parameters = sum(p.numel() for p in method.parameters()) / 1e6
    return {"seconds": min(seconds), "megabytes": peak, "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(ZOO), default=list(ZOO), metavar="NAME")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.models[0], options.sizes[0], options.threads, options.repeats)))
        return
    print("| model | input | parameters | processor s a query | peak memory |")
    print("|---|---|---|---|---|")
    for name in options.models:
        for size in options.sizes:
            words = ["--models", name, "--sizes", str(size), "--threads", str(options.threads)]
            own = [sys.executable, __file__, "--one", *words, "--repeats", str(options.repeats)]
            found = json.loads(subprocess.run(own, check=True, capture_output=True, text=True).stdout)
            cells = f"{found['parameters']:.0f} M | {found['seconds']:.2f} | {found['megabytes']:.0f} MB"
            print(f"| {name} | {size} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
