"""Exported graphs give what torch gives with any number of shots; bad input; the example runs without torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from fewseg import Segmenter
from fewseg.cli import main
from fewseg.core.errors import InvalidOption
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.export import GraphOptions, export_method, export_segmenter, save_supports
from fewseg.export import run as run_module
from fewseg.export.graphs import method_graphs
from fewseg.models.checkpoints import fingerprint, load_method, save_method
from fewseg.models.methods import FewShotMethod, create_method

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"stem": 4, "thin": 4, "widths": (4, 4, 8, 8), "depths": (1,) * 4, "strides": (2,) * 4, "expansions": (2,) * 4}
OPTIONS = {
    "dcama": {"heads": 2, "class_balanced": True, "attention": "cosine", "attention_scales": (16, 32)},
    "dcama_light": {},
    "sccan": {"width": 16, "blocks": 1, "heads": 2, "window": 4},
    "hsnet": {"scales": (32,)},
    "prototype": {},
}
EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_query.py"


def small(name: str, **options: object) -> FewShotMethod:
    torch.manual_seed(0)
    kept = {**OPTIONS[name], **options}
    return create_method(name, backbone="tiny", image_size=64, backbone_options=SMALL, **kept).eval()


def ort_run(folder: Path, name: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {i.name: tensors[i.name] for i in session.get_inputs()})
    return dict(zip([o.name for o in session.get_outputs()], found, strict=True))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[FewShotMethod, Path]:
    method, folder = small("dcama"), tmp_path_factory.mktemp("exported")
    export_method(method, folder, GraphOptions(licence="MIT", verify_shots=(2,)))
    return method, folder


@pytest.fixture(scope="module")
def exported_pt2(tmp_path_factory: pytest.TempPathFactory) -> tuple[FewShotMethod, Path]:
    method, folder = small("dcama"), tmp_path_factory.mktemp("exported_pt2")
    export_method(method, folder, GraphOptions(formats=("pt2",), verify_shots=(2,)))
    return method, folder


@pytest.mark.parametrize("shots", [1, 3, 5])
def test_shots_encoded_one_by_one_elsewhere_serve_a_batch_of_queries(exported, shots: int) -> None:
    method, folder = exported
    images, query = torch.randn(1, shots, 3, 64, 64), torch.randn(2, 3, 64, 64)
    masks = torch.zeros(1, shots, 64, 64)
    masks[..., 10:40, 20:60] = 1
    with torch.no_grad():
        expected = method(query, images, masks)
    each = [
        ort_run(folder, "support", {"images": images[:, i : i + 1].numpy(), "masks": masks[:, i : i + 1].numpy()})
        for i in range(shots)
    ]
    joined = {name: np.concatenate([one[name] for one in each], 1) for name in each[0]}
    joined |= ort_run(folder, "join", joined)
    logits = ort_run(folder, "query", {"image": query.numpy(), **joined})["logits"]
    assert np.abs(logits - expected.numpy()).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("shots", "batch"), [(1, 1), (4, 3)])
def test_pt2_reads_back_and_gives_the_same(exported_pt2, shots: int, batch: int) -> None:
    method, folder = exported_pt2
    images, masks = torch.randn(1, shots, 3, 64, 64), (torch.rand(1, shots, 64, 64) > 0.5).float()
    query = torch.randn(batch, 3, 64, 64)
    run = {name: torch.export.load(folder / f"{name}.pt2").module() for name in ("support", "join", "query")}
    about = json.loads((folder / "model.json").read_text())
    with torch.no_grad():
        tensors = run["support"](inputs={"images": images, "masks": masks})
        tensors |= run["join"](inputs={name: tensors[name] for name in about["graphs"]["join"]["inputs"]})
        given = {"image": query, **tensors}
        logits = run["query"](inputs={name: given[name] for name in about["graphs"]["query"]["inputs"]})["logits"]
        assert torch.allclose(logits, method(query, images, masks), atol=1e-4)
    extra = {"fewseg.json": ""}
    torch.export.load(folder / "query.pt2", extra_files=extra)
    assert json.loads(extra["fewseg.json"])["fingerprint"] == fingerprint(method)


def test_files_say_what_they_are(exported) -> None:
    method, folder = exported
    about = json.loads((folder / "model.json").read_text())
    model = onnx.load(folder / "query.onnx")
    onnx.checker.check_model(model)
    inside = {entry.key: entry.value for entry in model.metadata_props}
    for said in (about, json.loads(inside["fewseg"])):
        assert said["fingerprint"] == fingerprint(method)
        assert (said["method"], said["licence"], said["image_size"]) == ("dcama", "MIT", 64)
        assert said["mean"] == [0.485, 0.456, 0.406]
    assert inside["licence"] == "MIT"
    shapes = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    assert shapes == about["graphs"]["query"]["inputs"]
    assert shapes["image"] == ["batch", 3, 64, 64]
    assert [shape[1] for name, shape in shapes.items() if name.startswith("key.")] == ["shots"] * 2
    assert not any(name.startswith("skip.") for name in shapes)  # the join graph has made their share
    here = str(Path(run_module.__file__).parent)
    assert here.encode() not in (folder / "query.onnx").read_bytes()
    assert max(d["probability"] for d in about["differences"]) < 1e-3
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in about["files"]}
    assert about["sha256"] == digests


@pytest.mark.parametrize(
    "name", [pytest.param("sccan", marks=pytest.mark.slow), pytest.param("hsnet", marks=pytest.mark.slow), "prototype"]
)
def test_other_methods(name: str, tmp_path) -> None:
    report = export_method(small(name), tmp_path, GraphOptions(query_only=True, verify_shots=(1, 3)))
    expected = {"sccan": ["join", "query"]}.get(name, ["query"])
    assert [Path(file).stem for file in report.files] == expected
    assert report.largest < 1e-3
    assert {(d.shots, d.batch) for d in report.differences} == {(1, 1), (1, 2), (3, 1), (3, 2)}


def test_what_the_default_model_is_made_of(tmp_path) -> None:
    method = small("dcama_light")
    method.calibration.logit_offset.copy_(torch.tensor([3.0, 0.5]))
    method.calibration.temperature.copy_(torch.tensor([[0.1, -0.2], [-0.3, 0.2]]))
    report = export_method(method, tmp_path, GraphOptions(query_only=True, verify_shots=(1, 3)))
    assert report.largest < 1e-3


def test_a_graph_that_computes_something_else_is_not_kept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = small("prototype")
    (tmp_path / "query.onnx").write_bytes(b"older")
    real = run_module.method_graphs

    def wrong(given: FewShotMethod, **options: bool):
        other = small("prototype")
        torch.nn.init.normal_(next(p for n, p in other.named_parameters() if n.endswith("stem.conv.weight")))
        yield from real(other.requires_grad_(False), **options)

    monkeypatch.setattr(run_module, "method_graphs", wrong)
    with pytest.raises(InvalidOption, match=r"differs from torch at 2 shots.*nothing was written"):
        export_method(method, tmp_path, GraphOptions(verify_shots=(2,)))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("query.onnx", b"older")]


def test_masks_that_choose_tokens_cannot_be_encoded_outside(tmp_path) -> None:
    method = small("dcama", support_pixel_budget=7)
    with pytest.raises(InvalidOption, match=r"the support side of dcama .* give --query-only"):
        export_method(method, tmp_path)
    assert list(tmp_path.iterdir()) == []
    names = [graph.name for graph in method_graphs(method, query_only=True)]
    assert names == ["join", "query"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--formats", "onnx", "--opset", "9"], "opset 9: choose from 18 to 23"),
        (["--verify-shots", "0"], "give one or more numbers from 1 to 100"),
        (["--licence", " "], "licence is empty"),
        (["--labels", "cat"], "give it too"),
        (["--model", "nowhere.safetensors"], "no checkpoint nowhere.safetensors"),
        (["--support", "nowhere"], "nowhere does not exist"),
        (["--formats", "tflite"], "tflite"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--out", str(tmp_path / "out"), *words]) == 2
    err = capsys.readouterr().err.strip()
    assert said in err
    assert len(err.splitlines()) == 1


def test_missing_libraries_are_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidOption, match=r"pip install 'fewseg\[onnx\]'"):
        export_method(small("prototype"), tmp_path)


def test_supports_that_average_are_refused(tmp_path) -> None:
    segmenter = Segmenter(small("prototype"), device="cpu", tta_flip=True)
    segmenter.teach("a", np.full((64, 64, 3), 9, np.uint8), np.eye(64, dtype=np.uint8))
    with pytest.raises(InvalidOption, match="tta_flip=False"):
        save_supports(segmenter, tmp_path / "supports.npz")


def write_images(folder: Path, label: str, count: int) -> list[tuple[Path, Path]]:
    dataset = SyntheticDataset(per_class=count, size=160)
    (folder / label).mkdir(parents=True)
    pairs = []
    for name in dataset.names(0):
        image, mask = folder / label / f"{name}.jpg", folder / label / f"{name}.png"
        dataset.image(name).resize((150, 110)).save(image, quality=95)
        Image.fromarray(dataset.mask(name, 0) * 255).resize((150, 110), Image.Resampling.NEAREST).save(mask)
        pairs.append((image, mask))
    return pairs


@pytest.mark.slow
def test_the_embedded_model_without_torch(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command, then the example in a process that cannot import torch: the masks of Segmenter."""
    pairs = write_images(tmp_path / "support", "thing", 2)
    (query, _), (more, more_mask) = write_images(tmp_path / "queries", "other", 4)[2:]
    model, out = tmp_path / "model", tmp_path / "found"
    command = ["export", "--out", str(model), "--support", str(tmp_path / "support"), "--image-size", "128"]
    assert main([*command, "--verify-shots", "2"]) == 0
    said = capsys.readouterr().out
    assert "thing (2)" in said
    assert "largest difference from torch" in said
    segmenter = Segmenter(load_method(image_size=128), device="cpu", precision="float32")
    for image, mask in pairs:
        segmenter.teach("thing", image, mask)
    blocked = "import sys; sys.modules['torch'] = sys.modules['fewseg'] = None; import runpy; sys.argv = sys.argv[1:]; "
    start = [sys.executable, "-c", blocked + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    start += [str(EXAMPLE), str(model), str(query), "--out", str(out), "--threads", "1"]
    for extra in ([], ["--teach", "thing", str(more), str(more_mask)]):
        if extra:
            segmenter.teach("thing", more, more_mask)
        done = subprocess.run([*start, *extra], capture_output=True, text=True, check=True)
        result = segmenter.segment(query)
        expected = result.masks["thing"]
        found = np.asarray(Image.open(out / "thing" / f"{query.stem}.png")).astype(bool)
        assert found.shape == expected.shape == (110, 150)
        assert 0 < expected.mean() < 1
        assert (found != expected).mean() < 1e-3
        assert float(done.stdout.split("score ")[1]) == pytest.approx(result.scores["thing"], abs=1e-3)


def test_what_was_taught_in_a_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = small("prototype")
    save_method(method, tmp_path / "model.safetensors")
    segmenter = Segmenter.from_pretrained(tmp_path / "model.safetensors", device="cpu", precision="float32")
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for label in ("a cat", "b/c"):
        segmenter.teach(label, image, np.eye(64, dtype=np.uint8))
    own = segmenter.fit_presence("b/c", refused=[image])
    segmenter.save(tmp_path / "taught.fewseg")
    model = ["--model", str(tmp_path / "model.safetensors")]
    taught = ["--support", str(tmp_path / "taught.fewseg"), "--verify-shots", "1", "--query-only"]
    assert main(["export", "--out", str(tmp_path / "out"), *model, *taught]) == 0
    with np.load(tmp_path / "out" / "supports.npz") as file:
        assert file["labels"].tolist() == ["a cat", "b/c"]
        assert str(file["fingerprint"]) == segmenter.model_fingerprint
        assert file["1/prototypes.16"].shape == (1, 1, 2, 8)
        assert file["presence_thresholds"].tolist() == [segmenter.presence_threshold, own]
        assert own != segmenter.presence_threshold
    assert main(["export", "--out", str(tmp_path / "out"), *taught]) == 2  # another model


def test_graphs_of_another_model_do_not_stay(tmp_path: Path) -> None:
    one, other = (create_method("prototype", backbone="tiny", image_size=64) for _ in range(2))
    export_method(one, tmp_path, GraphOptions(formats=("pt2",)))
    export_method(one, tmp_path, GraphOptions(formats=("onnx",)))
    assert (tmp_path / "support.pt2").exists()  # of the same model
    export_method(other, tmp_path, GraphOptions(formats=("onnx",), query_only=True))
    assert {path.name for path in tmp_path.iterdir()} == {"query.onnx", "model.json"}


@pytest.mark.parametrize("name", ["insid3", "foris"])
def test_methods_that_cluster_are_refused(name: str, tmp_path: Path) -> None:
    method = create_method(name, backbone="tiny", image_size=64, backbone_options=SMALL)
    with pytest.raises(InvalidOption, match=f"{name} cannot be exported, for it finds clusters with SciPy: segment"):
        export_method(method, tmp_path / "graphs")
    assert not (tmp_path / "graphs").exists()
    with pytest.raises(InvalidOption, match=f"{name} cannot be exported"):
        export_segmenter(Segmenter(method, device="cpu"), tmp_path / "graphs", (64, 64))
