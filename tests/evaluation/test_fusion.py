"""Fusing n one-shot predictions, against plain loops over pixels."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from fewseg.cli import main
from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.core.types import SupportSet
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.evaluation.evaluate import EvaluationSettings, evaluate
from fewseg.evaluation.fusion import Fusion, fuse, fused_support, segment_fused
from fewseg.evaluation.report import class_table, markdown_table
from fewseg.models.checkpoints import load_method
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.prototype import Prototype, PrototypeConfig
from fewseg.models.ops.fusion import hsnet_vote, majority_vote, mean_probability, weighted_average

Array = NDArray[Any]


def plain(name: str, logits: Array, weights: Array | None = None) -> Array:
    """The mask (H, W) of one episode's one-shot logits (n, 2, H, W), pixel by pixel."""
    n, _, height, width = logits.shape
    votes = np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            votes[y, x] = sum(logits[k, 1, y, x] > logits[k, 0, y, x] for k in range(n))
    out = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            if name == "vote":
                out[y, x] = votes[y, x] > n - votes[y, x]
            elif name == "hsnet-vote":
                out[y, x] = votes[y, x] / max(1, votes.max()) >= 0.5
            elif name == "average":
                p = [expit(logits[k, 1, y, x] - logits[k, 0, y, x]) for k in range(n)]
                out[y, x] = sum(p) / n > 0.5
            else:
                assert weights is not None
                sums = [sum(weights[k] * logits[k, c, y, x] for k in range(n)) / n for c in range(2)]
                out[y, x] = sums[1] > sums[0]
    return out


OPERATIONS = {"vote": majority_vote, "hsnet-vote": hsnet_vote, "average": mean_probability}


@pytest.mark.parametrize("shots", [1, 2, 3, 4, 5])
def test_operations_against_loops(shots: int) -> None:
    rng = np.random.default_rng(shots)
    logits = rng.normal(0, 3, (6, shots, 2, 5, 7)).astype(np.float32)
    logits[1, :, 1] -= 6  # few votes anywhere: HSNet's divisor is the image's largest vote, not n
    logits[2, :, 1] -= 100  # no vote at all
    logits[3, :, 1] += 100  # every vote
    logits[4] = np.round(logits[4] / 6)  # equal logits: no vote
    x = torch.from_numpy(logits)
    for name, operation in OPERATIONS.items():
        found = operation(x).argmax(1).numpy() == 1
        for b in range(6):
            if name == "average" and b == 4:
                continue  # means of exactly one half: rounding decides
            np.testing.assert_array_equal(found[b], plain(name, logits[b]), err_msg=f"{name} {b}")
    weights = rng.uniform(0, 1, (6, shots)).astype(np.float32)
    weights[5] = 0  # no shot is any use: background
    found = weighted_average(x, torch.from_numpy(weights)).argmax(1).numpy() == 1
    for b in (0, 1, 2, 3, 5):
        np.testing.assert_array_equal(found[b], plain("guided", logits[b], weights[b]))
    expected = np.einsum("bk,bkchw->bchw", weights, logits) / shots  # not divided by the sum of the weights
    np.testing.assert_allclose(weighted_average(x, torch.from_numpy(weights)).numpy(), expected, atol=1e-5)


def test_ties_of_votes() -> None:
    """Columns: 0, 1, 2, 3, 4 of 4 votes. Half is no majority, but half of the largest vote is enough for HSNet."""
    logits = torch.zeros(1, 4, 2, 1, 5)
    for column in range(5):
        logits[0, :column, 1, 0, column] = 1
        logits[0, column:, 0, 0, column] = 1
    assert majority_vote(logits).argmax(1).flatten().tolist() == [0, 0, 0, 1, 1]
    assert hsnet_vote(logits).argmax(1).flatten().tolist() == [0, 0, 1, 1, 1]
    assert hsnet_vote(logits[..., :4]).argmax(1).flatten().tolist() == [0, 0, 1, 1]  # of 3: 2 are enough, 1 is not
    assert hsnet_vote(logits[..., :3]).argmax(1).flatten().tolist() == [0, 1, 1]  # of 2: 1 is enough
    assert hsnet_vote(logits[..., :1]).argmax(1).flatten().tolist() == [0]


@pytest.mark.parametrize("operation", [*OPERATIONS.values()])
def test_probabilities_stay_on_the_side_of_the_mask(operation: Any) -> None:
    logits = 3 * torch.randn(2, 4, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    for x in (logits, logits.bfloat16(), 100 * logits):
        out = operation(x)
        assert out.dtype == x.dtype
        assert out.isfinite().all()
        assert torch.equal(out.float().softmax(1)[:, 1] > 0.5, out.argmax(1) == 1)
    alone = logits[:, :1]
    torch.testing.assert_close(operation(alone).softmax(1), alone[:, 0].softmax(1), atol=2e-3, rtol=0)


class Counting:
    """Counts what a method is asked to encode, and keeps what it predicted."""

    def __init__(self, method: FewShotMethod, monkeypatch: pytest.MonkeyPatch) -> None:
        self.supports = self.queries = self.predictions = 0
        encode_support, encode_query, segment = method.encode_support, method.encode_query, method.segment

        def count_support(images: Tensor, masks: Tensor) -> SupportSet:
            self.supports += images.shape[0] * images.shape[1]
            return encode_support(images, masks)

        def count_query(images: Tensor) -> Any:
            self.queries += images.shape[0]
            return encode_query(images)

        def count_segment(query: Any, support: SupportSet) -> Tensor:
            self.predictions += query.batch
            return segment(query, support)

        monkeypatch.setattr(method, "encode_support", count_support)
        monkeypatch.setattr(method, "encode_query", count_query)
        monkeypatch.setattr(method, "segment", count_segment)


def prototype() -> FewShotMethod:
    """Over the default model's backbone, whose features mean something."""
    return Prototype(load_method().backbone, PrototypeConfig(64, scales=(8, 16))).eval()


def episode(batch: int, shots: int, size: int = 96) -> tuple[Tensor, Tensor, Tensor]:
    """Small images; shots of several kinds, so that they disagree."""
    dataset = SyntheticDataset(per_class=6, size=size)
    episodes = draw_test_episodes(dataset, tuple(range(batch)), shots, 1, 0)
    tensors = collate([episode_tensors(dataset, e, size) for e in episodes])
    return tensors.query, tensors.images, tensors.masks


def iou(predicted: Array, truth: Array) -> float:
    """Mean of foreground and background, an empty union 0."""
    values = [((predicted == c) & (truth == c)).sum() / max(1, ((predicted == c) | (truth == c)).sum()) for c in (0, 1)]
    return float(sum(values) / 2)


@pytest.mark.parametrize(
    ("name", "fusion"),
    [*(("prototype", f) for f in get_args(Fusion)), ("default", "hsnet-vote"), ("default", "guided")],
)
@torch.inference_mode()
def test_strategies_against_loops_over_the_shots(name: str, fusion: Fusion) -> None:
    """Every prediction is made anew from images and masks, one shot at a time."""
    method = load_method() if name == "default" else prototype()
    size = 160 if name == "default" else 96  # it finds nothing in smaller ones, and all shots would weigh the same
    query, images, masks = episode(2, 3, size)
    masks[1, 2] = 0  # a shot without foreground
    found = fuse(method, query, images, masks, fusion)
    assert found.shape == (2, 2, size, size)
    assert found.dtype == torch.float32
    if fusion == "one-pass":
        torch.testing.assert_close(found, method(query, images, masks))
        return
    for b in range(2):

        def predict(image: Tensor, shot: int, b: int = b) -> Array:
            return method(image[None], images[b : b + 1, [shot]], masks[b : b + 1, [shot]])[0].double().numpy()

        logits = np.stack([predict(query[b], i) for i in range(3)])
        weights = np.zeros(3)
        for i, j in itertools.product(range(3), range(3)) if fusion == "guided" else ():
            weights[i] += iou(predict(images[b, j], i).argmax(0), masks[b, j].numpy()) / 3
        expected = plain(fusion, logits, weights)
        assert ((found[b].argmax(0).numpy() == 1) == expected).mean() > 0.999  # a pixel may be a tie but for rounding
        if fusion == "guided":
            assert 0 < weights.min() < weights.max() <= 1
            weighted = (weights[:, None, None, None] * logits).mean(0)
            np.testing.assert_allclose(found[b].numpy(), weighted, atol=3e-4)


@pytest.mark.parametrize(
    ("fusion", "queries", "predictions"), [("one-pass", 1, 1), ("vote", 1, 3), ("guided", 1 + 3, 3 * 3 + 3)]
)
@torch.inference_mode()
def test_everything_is_encoded_once(
    monkeypatch: pytest.MonkeyPatch, fusion: Fusion, queries: int, predictions: int
) -> None:
    method = prototype()
    query, images, masks = episode(1, 3)
    seen = Counting(method, monkeypatch)
    support = fused_support(method, images, masks, fusion)
    first = segment_fused(method, query, support)
    assert (seen.supports, seen.queries, seen.predictions) == (3, queries, predictions)
    both = segment_fused(method, torch.cat([query, query.flip(-1)]), support)  # one support for several queries
    torch.testing.assert_close(both[:1], first, atol=1e-4, rtol=1e-4)
    assert seen.supports == 3


@torch.inference_mode()
def test_misfits_are_named() -> None:
    method = prototype()
    query, images, masks = episode(1, 2)
    with pytest.raises(InvalidOption, match="unknown fusion 'votes'; did you mean 'vote'"):
        fuse(method, query, images, masks, "votes")  # type: ignore[arg-type]
    with pytest.raises(InvalidSupport, match="masks"):
        fuse(method, query, images, masks[:, :1], "vote")


def test_evaluation_says_which_was_used() -> None:
    dataset = SyntheticDataset(per_class=6, size=96)
    method = prototype()
    one, three = (draw_test_episodes(dataset, (0, 5), shots, 2, 0) for shots in (1, 3))
    results = [evaluate(method, dataset, three, EvaluationSettings(fusion=fusion)) for fusion in get_args(Fusion)]
    assert [result.to_json()["fusion"] for result in results] == list(get_args(Fusion))
    assert len({result.miou for result in results}) > 2
    rows = markdown_table(results).splitlines()[2:]
    assert [row.split("|")[3].strip() for row in rows] == list(get_args(Fusion))
    assert "3-shot, hsnet-vote" in class_table(results)
    # One shot: there is nothing to fuse.
    alone = [evaluate(method, dataset, one, EvaluationSettings("model", fusion=fusion)) for fusion in get_args(Fusion)]
    assert len({result.miou for result in alone}) == 1


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--device cpu --shots 2 --episodes-per-class 1 --save-examples 1"
    data = ["--data", "synthetic@plain disc", "--out", str(tmp_path)]
    assert main(["evaluate", *data, "--fusion", "hsnet-vote", *words.split()]) == 0
    assert "| hsnet-vote |" in capsys.readouterr().out
    written = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [result["fusion"] for result in written["results"]] == ["hsnet-vote"]
    assert main(["evaluate", *data, "--fusion", "votes", *words.split()]) == 2
