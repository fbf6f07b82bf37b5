"""Files of earlier versions: checkpoints, taught segmenters and a page's folder are read as the same models.

`saved/` holds what the version of November 2026 wrote: the light decoder was an option of dcama then, and much had
other names. `expected.json` is what that version computed. Weights are drawn by their old names (`golden/fill.py`).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from fewseg import Segmenter, create_method, save_method
from fewseg.core.errors import InvalidCheckpoint, InvalidOption
from fewseg.models.checkpoints import fingerprint, load_method
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.dcama_light import DCAMALight
from fewseg.models.methods.saved_names import first_key, upgraded, upgraded_state, upgraded_words
from helpers.annotating import serving
from helpers.golden_models import fill, inputs

SAVED = Path(__file__).parents[1] / "saved"
EXPECTED: dict[str, Any] = json.loads((SAVED / "expected.json").read_text())

pytestmark = pytest.mark.usefixtures("one_thread")


def old_state() -> dict[str, torch.Tensor]:
    """The weights of `light.safetensors` by their old names."""
    state = {}
    for line in (SAVED / "light_keys.txt").read_text().splitlines():
        key, size, dtype = line.split("\t")
        shape = () if size == "scalar" else tuple(map(int, size.split("x")))
        values = torch.from_numpy(fill.parameter(5, key, shape)) if shape else torch.zeros(())
        state[key] = values.to(getattr(torch, dtype))
    state["decoder.leniency"] = torch.tensor([1.5, 0.5]).half()
    state["decoder.sureness"] = torch.tensor([[0.1, 0.2], [-0.1, 0.3]]).half()
    return state


def write_old(path: Path, **changes: object) -> Path:
    """`light.safetensors`, as that version wrote it, but for changes of its config."""
    about = json.loads((SAVED / "light.json").read_text())
    about["config"] |= changes
    save_file(old_state(), path, {"fewseg.method": json.dumps(about)})
    return path


@pytest.fixture(scope="module")
def old_light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_old(tmp_path_factory.mktemp("old") / "light.safetensors")


def filled(name: str, seed: int, **config: object) -> FewShotMethod:
    """A method whose weights are drawn by their old names."""
    method = create_method(name, backbone="test_resnet", image_size=64, **config)
    drawn = {
        key: torch.from_numpy(fill.parameter(seed, first_key(name, key), tuple(value.shape)))
        for key, value in method.state_dict().items()
        if value.is_floating_point() and value.ndim
    }
    method.load_state_dict(drawn, strict=False)
    return method


def disc(number: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A photograph (64, 72, 3) of noise with a disc, and the disc's mask."""
    image = np.random.default_rng(number).integers(0, 120, (64, 72, 3)).astype(np.uint8)
    y, x = np.mgrid[:64, :72]
    mask = (y - 30) ** 2 + (x - 25 - 9 * number) ** 2 < 18**2
    image[mask] = [230, 60 + 40 * number, 30]
    return image, mask


def test_a_light_checkpoint_is_read_as_the_same_model(old_light: Path) -> None:
    method = load_method(old_light)
    assert isinstance(method, DCAMALight)
    assert (method.config.refinement_steps, method.config.boundary_refinement) == (1, True)
    assert fingerprint(method) == EXPECTED["light_fingerprint"]
    assert method.support_key == EXPECTED["light_encoder"]
    assert method.extra == {"presence_threshold": 0.5, "presence_slope": 2.0, "presence_offset": -1.5}
    with torch.inference_mode():
        logits = method(*inputs(9, 64, 2))[0, :, ::8, ::8]
    torch.testing.assert_close(logits, torch.tensor(EXPECTED["light_logits"]), atol=1e-6, rtol=1e-6)


def test_the_embedded_model_is_the_same() -> None:
    method = load_method("default")
    assert fingerprint(method) == EXPECTED["default_fingerprint"]
    assert method.support_key == EXPECTED["default_encoder"]


@pytest.mark.parametrize(
    ("name", "known_as", "seed", "config"),
    [
        ("dcama", "published", 6, {"heads": 2}),
        ("sccan", "sccan", 7, {}),
        ("hsnet", "hsnet", 7, {}),
        ("prototype", "prototype", 7, {}),
    ],
)
def test_fingerprints_and_support_keys_stay(name: str, known_as: str, seed: int, config: dict[str, Any]) -> None:
    method = filled(name, seed, **config)
    assert fingerprint(method) == EXPECTED[f"{known_as}_fingerprint"]
    assert method.support_key == EXPECTED[f"{known_as}_encoder"]


@pytest.mark.parametrize("name", ["default", "light"])
def test_taught_segmenters_go_on(name: str, old_light: Path) -> None:
    method = load_method(old_light) if name == "light" else None
    seg = Segmenter.load(SAVED / f"{name}.fewseg", method, device="cpu", precision="float32")
    assert seg.fingerprint == EXPECTED[f"{name}_segmenter"]
    result = seg.segment(disc(2)[0])
    expected = np.array(EXPECTED[f"{name}_probabilities"])
    np.testing.assert_allclose(result.probabilities["disc"][::8, ::8], expected, atol=1e-6, rtol=0)
    assert result.scores["disc"] == pytest.approx(EXPECTED[f"{name}_score"], abs=1e-6)
    seg.teach("disc", *disc(1))  # and learn more: what is encoded now fits what was


def test_a_folder_of_the_page_keeps_its_results(
    old_light: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("0.png", "1.png"):
        shutil.copy(SAVED / "project" / name, tmp_path)
        os.utime(tmp_path / name, ns=(1_700_000_000_000_000_000 + int(name[0]),) * 2)
    shutil.copytree(SAVED / "project" / "state", tmp_path / ".fewseg")
    computed: list[int] = []
    forward = MaskAggregation.query_from_maps

    def counting(self: MaskAggregation, *inputs: Any) -> Any:
        computed.append(1)
        return forward(self, *inputs)

    monkeypatch.setattr(MaskAggregation, "query_from_maps", counting)
    segmenter = Segmenter(load_method(old_light), device="cpu", precision="float32")
    with serving(tmp_path, segmenter) as page:
        project = page.wait()
        assert [image["state"] for image in project["pictures"]] == ["done", "done"]
        assert page.mask("1.png", 1).shape == (64, 72)
    assert not computed


def test_a_new_checkpoint_is_read_by_its_own_names(old_light: Path, tmp_path: Path) -> None:
    method = load_method(old_light)
    save_method(method, tmp_path / "new.safetensors")
    again = load_method(tmp_path / "new.safetensors")
    assert again.config == method.config
    assert fingerprint(again) == fingerprint(method)


def test_keys_are_renamed_one_to_one() -> None:
    old = old_state()
    new = upgraded_state("dcama_light", old)
    assert len(new) == len(old)
    assert {first_key("dcama_light", key) for key in new} == set(old)
    assert upgraded_state("dcama", old).keys() == old.keys()


def test_a_light_checkpoint_without_later_options_is_read_as_it_was() -> None:
    first = {"image_size": 64, "balance": True, "decoder": "light", "attention": "cosine"}
    name, config = upgraded("dcama", first)
    made = DCAMALight.Config(**config)
    assert name == "dcama_light"
    assert (made.refinement_steps, made.boundary_refinement, made.heads, made.dropout) == (0, False, 8, 0.5)
    assert made.attention_scales == (8, 16, 32)


def test_choices_that_there_are_no_more_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="use_background"):
        load_method(write_old(tmp_path / "bare.safetensors", use_background=False))
    for options in ({"decoder": "light"}, {"attention": "cosine", "balance": True, "decoder": "light"}, {"looks": 3}):
        with pytest.raises(InvalidOption, match="use method dcama_light") as error:
            create_method("dcama", backbone="tiny", **options)
        assert "\n" not in str(error.value)
    with pytest.raises(InvalidOption, match="class_balanced"):
        create_method("dcama", backbone="tiny", balance=True)


def test_options_written_as_words_are_upgraded() -> None:
    words = ("attention=cosine", "heads=1", "balance=True", "decoder=light", "attention_scales=16,32", "looks=3")
    name, new = upgraded_words("dcama", words)
    assert name == "dcama_light"
    assert {"attention=cosine", "heads=1", "attention_scales=(16, 32)", "refinement_steps=2"} <= set(new)
    assert not any(word.startswith(("balance", "decoder", "looks")) for word in new)
    assert upgraded_words("dcama", ("heads=4", "skip_scales=8,")) == ("dcama", ("heads=4", "skip_scales=8,"))
    assert upgraded_words("dcama", ("balance=True",)) == ("dcama", ("class_balanced=True",))
