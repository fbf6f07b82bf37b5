"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from fewseg.models.methods import METHODS
from helpers.toy_method import Toy


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than ten seconds; leave out with -m 'not slow'")
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:  # threads of one worker that wait for those of another spin
        threads = max(1, (os.cpu_count() or 1) // workers)
        torch.set_num_threads(threads)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # for the processes that tests start


@pytest.fixture(scope="module")
def toy_known() -> Iterator[None]:
    """Checkpoints of the toy method can be read again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, Toy.name, Toy)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Equal to the last bit needs the same number of threads everywhere; one is quickest for models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
