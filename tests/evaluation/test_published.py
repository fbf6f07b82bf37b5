"""The papers' numbers of methods that are not trained."""

from fewseg.evaluation.published import published

LARGE = "dinov3-large"


def test_training_free_methods() -> None:
    assert [(r.miou, r.folds) for r in published("insid3", LARGE, "coco20i", 1)] == [(57.6, (57.1, 61.2, 55.8, 56.1))]
    assert [r.miou for n in (1, 5) for r in published("foris", LARGE, "coco20i", n)] == [60.9, 68.4]
    assert published("insid3", LARGE, "permis", 5) == []
    assert published("insid3", "dinov3-small", "coco20i", 1) == []
