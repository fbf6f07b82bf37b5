"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fewseg.methods import METHODS
from helpers.toy_method import Toy


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than ten seconds; leave out with -m 'not slow'")


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
