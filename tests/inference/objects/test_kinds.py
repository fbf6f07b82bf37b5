"""What examples say of single objects: taught, set, kept and told."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewseg.core.errors import InvalidCheckpoint, InvalidMask, InvalidOption, InvalidSupport
from fewseg.core.tensor_files import read_tensors, write_tensors
from fewseg.images.masks import read_instances, read_mask
from fewseg.inference.objects.examples import ExampleObjects
from fewseg.inference.objects.regions import border_share, is_net
from fewseg.inference.objects.shape import ObjectShape
from fewseg.inference.objects.typical import typical_object
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.tiles import segment_tiled, teach_tiled
from helpers.colour_method import ColourMethod
from helpers.touching import chain, ellipse, grid


def painted(mask: np.ndarray) -> np.ndarray:
    """A grey image that is red where the mask is."""
    image = np.full((*mask.shape, 3), 128, np.uint8)
    image[mask > 0] = (220, 30, 30)
    return image


def taught(instances: np.ndarray, value: object = "instances") -> Segmenter:
    segmenter = Segmenter(ColourMethod(), device="cpu")
    segmenter.teach("disc", painted(instances), instances, value=value)  # type: ignore[arg-type]
    return segmenter


def test_results_have_objects() -> None:
    truth = np.pad(chain(3, 14.0), 8)
    result = taught(grid(3, 3, 14.0)).segment(painted(truth))
    found = result.objects["disc"]
    assert len(found) == 3
    assert np.array_equal(found.map > 0, result.masks["disc"])
    assert all(0.5 <= one.score <= 1 for one in found)


def test_absent_labels_show_no_objects() -> None:
    result = taught(grid(2, 2, 14.0)).segment(painted(np.pad(chain(1), 30)))
    assert len(result.of_present().objects["disc"]) == 1
    absent = replace(result, present={"disc": False})
    assert len(absent.objects["disc"]) == 1
    assert len(absent.of_present().objects["disc"]) == 0


def test_instance_maps_teach_size_and_shape() -> None:
    pair = np.pad(chain(2, 14.0), 8)
    shape = taught(pair).object_shapes["disc"]
    assert shape.count == 2
    assert np.exp(shape.log_area) == pytest.approx(np.pi * 14**2, rel=0.1)
    assert taught((pair > 0).astype(np.uint8), None).object_shapes["disc"].count == 1


def test_instance_maps_teach_the_same_mask(tmp_path: Path) -> None:
    pair = np.pad(chain(2, 14.0), 8)
    Image.fromarray(pair.astype(np.uint16)).save(tmp_path / "map.png")
    of_file = Segmenter(ColourMethod(), device="cpu")
    of_file.teach("disc", painted(pair), tmp_path / "map.png", value="instances")
    plain = taught((pair > 0).astype(np.uint8), None)
    assert of_file.fingerprint == plain.fingerprint == taught(pair).fingerprint
    assert of_file.object_shapes == taught(pair).object_shapes


def test_instance_maps_of_every_kind() -> None:
    values = np.array([[0, 300, 300], [7, 0, 255]])
    expected = [[0, 3, 3], [1, 0, 2]]
    assert read_instances(values).tolist() == expected
    assert read_instances(torch.from_numpy(values)).tolist() == expected
    colours = Image.new("RGB", (2, 1))
    colours.putpixel((1, 0), (9, 0, 0))
    assert read_instances(colours).tolist() == [[0, 1]]
    assert read_mask(values, value="instances").tolist() == [[0, 1, 1], [1, 0, 1]]
    assert read_instances(np.array([[3, 3]])).tolist() == [[1, 1]]
    for wrong in (np.zeros((2, 2), np.uint8), np.array([[-1, 0]]), np.array([[0.5, 1.0]])):
        with pytest.raises(InvalidMask, match=r"object|whole numbers"):
            read_instances(wrong)


def test_tiles_give_the_same_objects() -> None:
    truth = np.pad(np.kron(chain(3, 14.0), np.ones((2, 2), np.int32)), 40)
    segmenter = Segmenter(ColourMethod(), device="cpu")
    teach_tiled(segmenter, "disc", painted(truth), truth, value="instances", tile=128)
    shape = segmenter.object_shapes["disc"]
    assert shape.count >= 3
    tiled = segment_tiled(segmenter, painted(truth), tile=128)
    assert len(tiled.objects["disc"]) == 3
    assert all(one.score > 0.5 for one in tiled.objects["disc"])


def test_stuff_is_found_and_set(caplog: pytest.LogCaptureFixture) -> None:
    road = np.zeros((64, 96), np.uint8)
    road[40:] = 1
    segmenter = Segmenter(ColourMethod(), device="cpu")
    with caplog.at_level(logging.INFO):
        segmenter.teach("road", painted(road), road)
    assert "road looks like stuff" in caplog.text
    assert segmenter.kind("road") == "stuff"
    result = segmenter.segment(painted(road))
    assert "road" not in result.objects
    with pytest.raises(KeyError, match="set_kind"):
        result.objects["road"]
    segmenter.set_kind("road", "thing")
    assert len(segmenter.segment(painted(road)).objects["road"]) == 1
    segmenter.teach("road", painted(road), road)
    assert segmenter.kind("road") == "thing"
    segmenter.set_kind("road", None)
    assert segmenter.kind("road") == "stuff"
    with pytest.raises(InvalidSupport, match="no label 'sky'"):
        segmenter.set_kind("sky", "stuff")
    with pytest.raises(InvalidOption, match="unknown kind 'object'"):
        segmenter.set_kind("road", "object")  # type: ignore[arg-type]


def test_what_looks_like_stuff() -> None:
    canvas = np.zeros((100, 120), np.bool_)
    assert border_share(canvas) == 0
    assert not is_net(canvas)
    cut = canvas.copy()
    cut[60:, 30:80] = True  # an animal that the lower border cuts
    assert border_share(cut) == pytest.approx(50 / 120)
    sky = canvas.copy()
    sky[:20, :90] = True
    assert border_share(sky) == 0.75
    assert not is_net(sky)
    crack = canvas.copy()
    for y in range(5, 95, 10):
        crack[y : y + 2, 5:115] = True
    crack[5:95, 60:62] = True
    assert is_net(crack)
    assert not is_net(ellipse((100, 120), (60, 50), (55, 8)))
    of_sky, of_cut, of_crack = map(ExampleObjects.of, (sky, cut, crack))
    kinds = {"thing": [[of_cut], [of_sky, of_cut], []], "stuff": [[of_sky], [of_sky, of_cut, of_cut], [of_crack]]}
    for kind, several in kinds.items():
        assert {typical_object(examples).kind for examples in several} == {kind}
    instances = sky.astype(np.int32)
    assert typical_object([ExampleObjects.of(sky, instances)]).kind == "thing"


def test_saved_segmenters_keep_objects(tmp_path: Path) -> None:
    segmenter = taught(grid(3, 3, 14.0))
    segmenter.set_kind("disc", "stuff")
    segmenter.teach("plain", painted(grid(2, 2)), grid(2, 2) > 0)
    segmenter.save(tmp_path / "a.fewseg")
    loaded = Segmenter.load(tmp_path / "a.fewseg", ColourMethod(), device="cpu")
    assert loaded.object_shapes == segmenter.object_shapes
    assert loaded.kind("disc") == "stuff"
    segmenter.forget("disc")
    assert loaded.supports["plain"].objects == segmenter.supports["plain"].objects


def test_files_from_before_objects_load_and_damaged_ones_are_told(tmp_path: Path) -> None:
    taught(grid(3, 3, 14.0)).save(tmp_path / "a.fewseg")
    tensors, metadata = read_tensors(tmp_path / "a.fewseg")
    about = json.loads(metadata["fewseg.segmenter"])
    entry = about["labels"][0]
    measures = entry.pop("objects")

    def load(**changed: object) -> Segmenter:
        entry.update(changed)
        write_tensors(tmp_path / "b.fewseg", tensors, {"fewseg.segmenter": json.dumps(about)})
        return Segmenter.load(tmp_path / "b.fewseg", ColourMethod(), device="cpu")

    assert load().object_shapes["disc"] == ObjectShape()
    measures[0]["areas"][0] = -1
    for wrong in ({"objects": measures}, {"objects": [{}]}, {"objects": [None, None]}, {"objects": None, "kind": "x"}):
        with pytest.raises(InvalidCheckpoint, match=r"teach|Segmenter\.save"):
            load(**wrong)
