"""Places: one for each thing, none outside the workspace, and a view that keeps itself true."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sae_cli.errors import UsageError
from sae_cli.store.layout import StageDir, Workspace


def made(space: Workspace, kind: str, slug: str, key: str) -> StageDir:
    stage = space.stage_dir(kind, slug, key)
    stage.path.mkdir(parents=True)
    return stage


def test_a_stage_has_one_place_and_its_name_says_what_it_is(tmp_path: Path) -> None:
    stage = Workspace(tmp_path).stage_dir("train", "tiny.l1.resid_post.k8-x", "8c2f3a1b")
    assert stage.path == tmp_path / "train" / "tiny.l1.resid_post.k8-x-8c2f3a1b"
    assert (stage.kind, stage.slug, stage.key) == ("train", "tiny.l1.resid_post.k8-x", "8c2f3a1b")
    assert not stage.path.exists()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", ".x", "a b", "a\n"])
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    space = Workspace(tmp_path)
    for attempt in (
        lambda: space.stage_dir("train", name, "0" * 8),
        lambda: space.stage_dir(name, "x", "0" * 8),
        lambda: space.stage_dir("train", "x", name),
        lambda: space.run_dir(name),
    ):
        with pytest.raises(UsageError):
            attempt()


def test_stages_can_not_live_among_the_views(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runs"):
        Workspace(tmp_path).stage_dir("runs", "x", "0" * 8)


def test_stages_are_the_folders_with_a_slug_and_a_key(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    assert list(space.stages()) == []
    made(space, "cache", "a", "0" * 8)
    made(space, "train", "a", "1" * 8)
    (tmp_path / "train" / "notes").mkdir()
    assert [s.path.name for s in space.stages()] == ["a-00000000", "a-11111111"]
    assert [s.kind for s in space.stages("train")] == ["train"]


def test_a_view_shows_exactly_the_stages_of_its_sweep(tmp_path: Path) -> None:
    space = Workspace(tmp_path / "store")
    a, b = made(space, "cache", "a", "0" * 8), made(space, "train", "b", "1" * 8)
    view = space.link_run("tiny", [a, b])
    (view / "note.txt").write_text("mine")
    links = sorted(path for path in view.rglob("*") if path.is_symlink())
    assert [link.resolve() for link in links] == [a.path, b.path]
    assert not any(link.readlink().is_absolute() for link in links)
    before = [link.lstat().st_ino for link in links]
    space.link_run("tiny", [a, b])
    assert [link.lstat().st_ino for link in links] == before
    space.link_run("tiny", [a])
    assert [path for path in view.rglob("*") if path.is_symlink()] == links[:1]
    assert b.path.is_dir() and (view / "note.txt").read_text() == "mine"


def test_a_view_survives_a_move_of_the_workspace_and_repairs_links(tmp_path: Path) -> None:
    space = Workspace(tmp_path / "here")
    a = made(space, "cache", "a", "0" * 8)
    link = space.link_run("tiny", [a]) / "cache" / "a-00000000"
    link.unlink()
    link.symlink_to("nowhere")
    space.link_run("tiny", [a])
    assert link.resolve() == a.path
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = tmp_path / "there" / "runs" / "tiny" / "cache" / "a-00000000"
    assert moved.resolve() == tmp_path / "there" / "cache" / "a-00000000"


def test_stages_are_not_counted_twice_through_a_view(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    a = made(space, "cache", "a", "0" * 8)
    space.link_run("tiny", [a])
    assert list(space.stages()) == [a]
