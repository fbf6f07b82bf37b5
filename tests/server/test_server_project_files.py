"""What a project keeps on the disk: nothing is lost by a kill, a damaged file, or images that move."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.core.errors import FewsegError, FolderInUse, InvalidImage, InvalidMask, OutputError
from fewseg.server.project import images as project_images
from fewseg.server.project import state as project_state
from fewseg.server.project import state_json
from fewseg.server.project import store as project_store
from fewseg.server.project.project import Project
from fewseg.server.project.state import Annotation, Change, InvalidProject, KnownImage, Label, State
from helpers.annotating import write_images
from helpers.colour_method import blob


def painted(folder: Path, names: str = "rrb") -> tuple[Project, int]:
    masks = write_images(folder, names)
    project = Project(folder)
    label = project.add_label("disc").id
    project.annotate(by_name(project)["0.png"], label, masks["0.png"])
    return project, label


def by_name(project: Project) -> dict[str, str]:
    return {image.name: image.id for image in project.images.values()}


_KILLED = """
import sys
from helpers.annotating import write_images
from fewseg.server.project.project import Project
project = Project(sys.argv[1])
ids = {p.name: p.id for p in project.images.values()}
masks = write_images(project.folder)
label = project.add_label("disc").id
for i in range(10_000):
    name = f"{i % 5}.png"
    mask = masks[name].copy()
    mask[0, i % 90] = True
    project.annotate(ids[name], label, mask)
    print(project.state.revision, flush=True)
"""


def test_a_killed_server_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    write_images(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
    assert child.stdout is not None
    answered = 0
    for _ in range(25):
        answered = int(child.stdout.readline())
    with pytest.raises(FolderInUse, match=f"process {child.pid}"):
        Project(tmp_path)
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split()
    answered = int(rest[-1]) if rest else answered
    child.wait()
    project = Project(tmp_path)  # the lock went with the process
    assert project.state.revision in (answered, answered + 1)
    assert project.notices == []
    for image, label in project.state.annotations:
        assert project.mask(image, label).any()
    before = dict(project.state.annotations)
    project.undo()
    assert project.state.annotations != before
    project.close()


def test_a_damaged_file_is_kept_and_its_backup_used(tmp_path: Path) -> None:
    project, label = painted(tmp_path)
    masks = write_images(tmp_path, "rrb")
    project.annotate(by_name(project)["1.png"], label, masks["1.png"])
    project.close()
    file = tmp_path / ".fewseg/project.json"
    whole = file.read_text()
    for damage in (whole[: len(whole) // 2], "", "[]", '{"format": "other"}', "\0" * 100, "[" * 100_000):
        shutil.copy(tmp_path / ".fewseg/project.json", tmp_path / "spare.json")
        file.write_text(damage)
        project = Project(tmp_path)
        assert "damaged" in project.notices[0]
        kept = project.notices[0].rsplit(" ", 1)[1]
        assert (tmp_path / ".fewseg" / kept).read_text() == damage
        assert by_name(project)["0.png"] in {image for image, _ in project.state.annotations}
        project.close()
        again = Project(tmp_path)  # all is well from now on
        assert again.notices == []
        again.close()
    (tmp_path / ".fewseg/project.backup.json").write_text("no")
    file.write_text("neither")
    with pytest.raises(InvalidProject, match="nor its backup") as error:
        Project(tmp_path)
    assert "\n" not in str(error.value)
    assert file.read_text() == "neither"
    assert list((tmp_path / ".fewseg/annotations").glob("*.png"))


def test_garbled_values_are_no_project(tmp_path: Path) -> None:
    project, _ = painted(tmp_path)
    project.close()
    values = json.loads((tmp_path / ".fewseg/project.json").read_text())
    stray = [{"picture": "x", "label": 1, "mask": {"file": "x.png", "digest": "d", "revision": 1}}]
    for part, wrongs in {
        "labels": (None, 5, "x", [5], [{}], [], [{"id": 1, "name": "a", "colour": "url(x)"}]),
        "annotations": (None, 5, "x", [5], [{}], stray),
        "pictures": (None, 5, "x", [5], [{}], []),
        "undo": (None, 5, "x", [5], [{}]),
        "revision": (None, "x", [], {}),
        "checked": (None, 5),
    }.items():
        for wrong in wrongs:
            with pytest.raises(InvalidProject) as error:
                state_json.from_json({**values, part: wrong})
            assert "\n" not in str(error.value)


def test_a_project_file_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    project, _ = painted(tmp_path)
    project.close()
    values = json.loads((tmp_path / ".fewseg/project.json").read_text())
    for name in ("../../secret.png", "/etc/passwd", "a/b.png", "x.json", "..png/../x.png"):
        values["annotations"][0]["mask"]["file"] = name
        with pytest.raises(InvalidProject):
            state_json.from_json(values)


def test_moved_images_keep_their_masks_and_changed_ones_do_not(tmp_path: Path) -> None:
    project, label = painted(tmp_path)
    old = by_name(project)["0.png"]
    mask = project.mask(old, label)
    (tmp_path / "deep").mkdir()
    (tmp_path / "0.png").rename(tmp_path / "deep/renamed.png")
    assert project.rescan()
    assert by_name(project)["deep/renamed.png"] == old
    np.testing.assert_array_equal(project.mask(old, label), mask)
    blob("blue", place=0.2)[0].save(tmp_path / "0.png")  # another image under the old name
    project.rescan()
    assert by_name(project)["0.png"] != old
    assert project.annotation(by_name(project)["0.png"], label) is None
    (tmp_path / "deep/renamed.png").rename(tmp_path / "kept.away")
    project.rescan()
    assert old not in project.images
    assert "deep/renamed.png" in project.notices[0]
    project.close()
    (tmp_path / "kept.away").rename(tmp_path / "back.png")
    project = Project(tmp_path)
    assert by_name(project)["back.png"] == old
    assert project.notices == []
    os.utime(tmp_path / "back.png", (1, 1))  # a copy from elsewhere: the same content
    project.rescan()
    assert by_name(project)["back.png"] == old
    blob("green")[0].save(tmp_path / "back.png")  # somebody has drawn on it since
    project.rescan()
    assert by_name(project)["back.png"] != old
    assert project.notices
    assert (old, label) in project.state.annotations  # and yet nothing is lost
    project.close()


def test_hidden_files_exports_and_unreadable_images(tmp_path: Path) -> None:
    write_images(tmp_path, "r")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".git").mkdir()
    shutil.copy(tmp_path / "0.png", tmp_path / ".git/a.png")
    (tmp_path / "out").mkdir()
    shutil.copy(tmp_path / "0.png", tmp_path / "out/a.png")
    (tmp_path / "out/.fewseg-export").write_text("")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing.png")
    odd = os.fsdecode(b"caf\xe9.png")
    shutil.copy(tmp_path / "0.png", tmp_path / odd)
    project = Project(tmp_path)
    assert set(by_name(project)) == {"0.png", "broken.jpg", odd}
    broken = project.images[by_name(project)["broken.jpg"]]
    assert broken.error is not None
    assert str(tmp_path) not in broken.error
    label = project.add_label("disc").id
    with pytest.raises(InvalidImage):
        project.annotate(broken.id, label, np.ones((1, 1), bool))
    project.annotate(by_name(project)[odd], label, np.ones((64, 96), bool))
    assert project.state.undo[-1].text.encode()  # can be shown
    project.close()
    project = Project(tmp_path)
    assert project.mask(by_name(project)[odd], label).all()
    project.close()


def test_a_lost_or_damaged_mask_is_said(tmp_path: Path) -> None:
    project, label = painted(tmp_path)
    image = by_name(project)["0.png"]
    file = next((tmp_path / ".fewseg/annotations").glob("*.png"))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InvalidMask, match="damaged"):
        project.mask(image, label)
    file.unlink()
    with pytest.raises(InvalidMask, match="no such file"):
        project.mask(image, label)
    project.close()


def test_masks_that_nobody_needs_are_deleted_when_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_state, "HISTORY", 2)
    project, label = painted(tmp_path)
    image = by_name(project)["0.png"]
    for row in range(6):
        mask = np.zeros((64, 96), bool)
        mask[row] = True
        project.annotate(image, label, mask)
    project.close()
    assert len(list((tmp_path / ".fewseg/annotations").glob("*.png"))) == 7
    project = Project(tmp_path)
    assert len(list((tmp_path / ".fewseg/annotations").glob("*.png"))) == 4  # the backup names one more
    project.undo()
    project.undo()
    with pytest.raises(InvalidProject, match="nothing to undo"):
        project.undo()
    assert project.mask(image, label)[3].all()
    project.close()


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    for wrong in (tmp_path / "missing", tmp_path / "file"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(InvalidImage, match="no folder"):
            Project(wrong)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/.fewseg").write_text("a file where the folder should be")
    with pytest.raises(FewsegError) as error:
        Project(tmp_path / "taken")
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, label = painted(tmp_path)
    masks = write_images(tmp_path, "rrb")
    state = project.state

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FewsegError, match="No space left"):
        project.annotate(by_name(project)["1.png"], label, masks["1.png"])
    with pytest.raises(FewsegError, match="No space left"):
        project.undo()
    monkeypatch.undo()
    assert project.state is state
    project.close()
    project = Project(tmp_path)
    assert project.state.annotations == state.annotations
    project.close()


def test_looking_again_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, "r")
    for i in range(30):
        shutil.copy(tmp_path / "0.png", tmp_path / f"{i}.copy.png")
    project = Project(tmp_path)
    project.annotate(by_name(project)["0.png"], project.add_label("disc").id, blob("red")[1] > 0)
    for name in ("read_image_size", "file_digest"):
        monkeypatch.setattr(project_images, name, None)
    assert not project.rescan()
    project.close()


_PLACES = st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 3))
_MASKS = st.none() | st.builds(Annotation, st.sampled_from(["x.png", "y-1.png"]), st.just("d"), st.integers(1, 9))
_CHANGES = st.builds(
    Change,
    st.text(max_size=5),
    st.none() | st.permutations([Label(i, f"l{i}", "#00ff0a") for i in (1, 2, 3)]).map(tuple),
    st.dictionaries(_PLACES, _MASKS, max_size=3),
    st.dictionaries(st.sampled_from(["a", "b"]), st.booleans(), max_size=2),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(_CHANGES, max_size=6))
def test_undo_and_redo_are_exact_and_survive_saving(changes: list[Change]) -> None:
    labels = tuple(Label(i, f"l{i}", "#0000ff") for i in (1, 2, 3))
    known = {i: KnownImage(i, f"{i}.png", 1, 2, "d", 3, 4) for i in "abc"}
    states = [State(labels=labels, known=known, next_label=4)]
    for change in changes:
        states.append(project_state.do(states[-1], change))

    def seen(state: State) -> object:
        return state.labels, dict(state.annotations), state.checked

    state = states[-1]
    for before in states[-2::-1]:
        saved = state_json.from_json(json.loads(json.dumps(state_json.to_json(state))))
        assert saved == state
        state = project_state.undo(saved)
        assert seen(state) == seen(before)
    for after in states[1:]:
        state = project_state.redo(state)
        assert seen(state) == seen(after)
    assert state.undo == states[-1].undo


DAMAGES = [lambda whole: whole[: len(whole) // 2], lambda whole: "", lambda whole: "\0" * len(whole)]


@pytest.mark.parametrize("damage", DAMAGES, ids=["half", "empty", "zeros"])
@pytest.mark.parametrize("stale", [0, 1, 3, 99], ids=lambda n: f"{n} changes")
def test_a_damaged_project_file_never_costs_a_mask(tmp_path: Path, damage: Any, stale: int) -> None:
    """Whether the backup is one change older, or was not written since (a full disk)."""
    masks = write_images(tmp_path, "rrbb")
    project = Project(tmp_path)
    label = project.add_label("disc").id
    file, backup = project.store.file, project.store.backup
    old = [file.read_bytes()]
    for name in masks:
        project.annotate(by_name(project)[name], label, masks[name])
        old.append(file.read_bytes())
    project.close()
    if stale:
        backup.write_bytes(old[max(0, len(old) - 1 - stale)])
    file.write_text(damage(file.read_text()))
    for _ in range(3):  # and restarts collect nothing
        project = Project(tmp_path)
        assert [label.name for label in project.state.labels] == ["disc"]
        for name, mask in masks.items():
            np.testing.assert_array_equal(project.mask(by_name(project)[name], label), mask)
        assert len(project.store.names()) == len(masks)
        project.close()


def test_labels_that_the_backup_lacks_are_read_from_the_damaged_file_or_numbered(tmp_path: Path) -> None:
    project, _ = painted(tmp_path)
    file, backup, empty = project.store.file, project.store.backup, project.store.root / "empty.json"
    whole = file.read_text()
    project.close()
    empty.write_text(json.dumps(state_json.to_json(State())))
    for text, name in ((whole[: whole.index('"annotations"')], "disc"), ("", "label 1")):
        file.write_text(text)
        shutil.copy(empty, backup)
        project = Project(tmp_path)
        assert [label.name for label in project.state.labels] == [name]
        assert project.mask(by_name(project)["0.png"], 1).any()
        assert project.add_label("next").id == 2
        project.close()


def test_masks_of_another_project_file_are_set_aside_and_not_deleted(tmp_path: Path) -> None:
    project, label = painted(tmp_path)
    image, mask = by_name(project)["0.png"], np.ones((64, 96), bool)
    older = project.store.file.read_bytes()
    first = project.store.names()
    project.annotate(image, label, mask)
    project.close()
    newest = project.store.file.read_bytes()
    project.store.file.write_bytes(older)  # somebody puts an old copy back
    project.store.backup.unlink()
    project = Project(tmp_path)
    assert project.store.names() == first
    project.annotate(image, label, ~mask | (np.arange(96) < 9))  # the same revision again
    project.close()
    assert len(list(project.store.unclaimed.glob("*.png"))) == 1
    project.store.file.write_bytes(newest)  # and takes it back
    project.store.file.with_name("project.older.json").write_bytes(older)
    project = Project(tmp_path)
    assert set(first) < set(project.store.names())
    project.close()
    for file in project.store.root.glob("project*.json"):
        file.unlink()  # to start anew, as the message for two damaged files says
    project = Project(tmp_path)
    assert (project.state, project.store.names()) == (State(), [])
    assert len(list(project.store.unclaimed.glob("*.png"))) == 3
    project.close()


def test_backups_are_whole_whatever_the_disk_does(tmp_path: Path) -> None:
    project, label = painted(tmp_path)
    file, backup = project.store.file, project.store.backup
    whole = file.read_bytes()
    file.write_bytes(whole[:100])  # damaged while the server runs
    project.change_label(label, "round")
    assert backup.read_bytes() == whole
    project.close()
    backup.write_text("damaged")
    Project(tmp_path).close()
    assert backup.read_bytes() == file.read_bytes()


def test_a_flipped_bit_in_the_project_file_is_seen(tmp_path: Path) -> None:
    project, label = painted(tmp_path)
    project.annotate(by_name(project)["1.png"], label, np.ones((64, 96), bool))
    project.close()
    file, backup = project.store.file, project.store.backup
    whole, before = file.read_bytes(), backup.read_bytes()
    drawn = random.Random(0)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[drawn.randrange(len(whole) - 90)] ^= 1 << drawn.randrange(8)
        file.write_bytes(damaged)
        backup.write_bytes(before)
        project = Project(tmp_path)
        assert "damaged" in project.notices[0]
        assert len(project.state.annotations) == 2
        assert all(project.mask(*place).any() for place in project.state.annotations)
        project.close()
    old = json.loads(whole)
    del old["checksum"]  # as earlier versions wrote it
    file.write_text(json.dumps(old))
    project = Project(tmp_path)
    assert project.notices == []
    assert len(project.state.annotations) == 2
    project.close()


def test_a_good_backup_survives_the_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, _ = painted(tmp_path)
    project.check(by_name(project)["1.png"], {})
    project.close()
    file, backup = tmp_path / ".fewseg/project.json", tmp_path / ".fewseg/project.backup.json"
    good = backup.read_text()
    file.write_text("")

    def full(path: Path, content: bytes) -> None:
        raise OutputError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(project_store, "_write", full)
        with pytest.raises(OutputError):
            Project(tmp_path)
    assert backup.read_text() == good
    Project(tmp_path).close()
    assert backup.read_text() == good
    file.write_text("")  # once more, before anything was changed
    project = Project(tmp_path)
    assert "damaged" in project.notices[0]
    assert project.state.annotations
    project.close()
