"""A site's files hold what the dashboard held, close no script, and stay small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dashing import HOSTILE, WORDS, corpus, dashboard, words
from hypothesis import given
from hypothesis import strategies as st

from sae_cli.errors import UsageError
from sae_cli.report.browser.pack import read, script
from sae_cli.report.browser.site import Site, about, page
from sae_cli.report.browser.texts import Shown
from sae_cli.store.dashboards import NONE, Corpus, Dashboard


def written(out: Path, text: Corpus, *found: Dashboard) -> Site:
    with Site(out, "these") as site:
        shown = site.text(text, words, len(WORDS))
        for each in found:
            site.add(each, shown)
    return site


def file(path: Path) -> tuple[Any, dict[str, Any]]:
    name, meta, arrays = read(path.read_bytes())
    assert path.with_suffix("").as_posix().endswith(name)
    return meta, arrays


@given(st.text(), st.lists(st.integers(-128, 127)))
def test_a_file_holds_what_was_put_in_and_ends_no_script(text: str, numbers: list[int]) -> None:
    array = np.array(numbers, np.int8)
    made = script("some", {"text": text}, {"a": array, "b": array.astype(np.float32)[:, None]})
    name, meta, arrays = read(made)
    clean = text.encode("utf-8", "replace").decode()
    assert (name, meta["text"]) == ("some", clean)
    assert (arrays["a"] == array).all() and arrays["b"].shape == (len(array), 1)
    assert re.fullmatch(rb'saectl\("some","[A-Za-z0-9+/=]*"\);\n', made)


def test_numbers_in_use_get_places_in_the_order_in_which_they_come() -> None:
    shown = Shown(10)
    assert shown.places(np.array([[7, 3], [NONE, 7]])).tolist() == [[1, 0], [NONE, 1]]
    assert shown.places(np.array([9, 3])).tolist() == [2, 0]
    assert shown.numbers.tolist() == [3, 7, 9]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus, Dashboard]:
    text = corpus()
    found = dashboard(300, text)
    out = tmp_path_factory.mktemp("site") / "site"
    made = written(out, text, found)
    assert made.bytes == sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    return out, text, found


def test_every_example_of_every_feature_comes_back(site: Any) -> None:
    out, text, found = site
    said, _ = file(out / "text-0" / "words.js")
    _, stored = file(out / "text-0" / "corpus-000.js")

    def window(place: int) -> list[str]:
        return [said[i] for i in stored["tokens"][place][: stored["length"][place]]]

    seen = 0
    for shard in (0, 1):
        meta, a = file(out / found.name / f"feat-00{shard}.js")
        for kind, examples in (("top", found.top), ("sample", found.sample)):
            at = token = 0
            for row, count in enumerate(a[f"{kind}_count"]):
                f = meta["first"] + row
                for i in range(count):
                    ids = text.ids(int(examples.number[f, i]))
                    clean = [w.encode("utf-8", "replace").decode() for w in words(ids)]
                    assert window(a[f"{kind}_window"][at]) == clean
                    assert a[f"{kind}_peak"][at] == examples.peak[f, i]
                    active = a[f"{kind}_active"][at]
                    part = slice(token, token + active)
                    values = examples.values[f, i]
                    assert a[f"{kind}_place"][part].tolist() == values.nonzero()[0].tolist()
                    shares = a[f"{kind}_share"][part] / 255 * examples.peak[f, i]
                    exact = values[values > 0]
                    assert abs(shares - exact).max() <= examples.peak[f, i] / 255
                    at, token, seen = at + 1, token + active, seen + 1
    assert seen == 299 * 10  # feature 0 never fires


def test_numbers_of_all_features_come_back(site: Any) -> None:
    out, _, found = site
    meta, a = file(out / found.name / "index.bin.js")
    assert (a["fired"] == found.fired).all() and (a["max"] == found.largest).all()
    assert a["density"] == pytest.approx(found.fired / 20_000)
    assert np.isnan(a["mean"][0]) and a["mean"][1] == 1.5
    assert a["score"][7] == 0.75 and a["f1"][7] == 0.875 and np.isnan(a["f1"]).sum() == 299
    assert meta["said"] == [[7, HOSTILE, "topic=river", "steered"]]
    total = 0
    for shard in (0, 1):
        part, b = file(out / found.name / f"feat-00{shard}.js")
        start = 0
        for row, ends in enumerate(zip(b["hist_low"], b["hist_size"], strict=True)):
            low, size = map(int, ends)
            whole = found.histogram[part["first"] + row]
            assert b["hist"][start : start + size].tolist() == whole[low : low + size].tolist()
            total += b["hist"][start : start + size].sum()
            start += size
        near = b["near_value"] * b["near_scale"][:, None] / 32767
        rows = slice(part["first"], part["first"] + len(near))
        assert near == pytest.approx(found.near.values[rows], abs=1e-4)
        assert (b["near_id"] == found.near.ids[rows]).all()
    assert total == found.histogram.sum()


def test_the_same_data_makes_the_same_bytes(site: Any, tmp_path: Path) -> None:
    out, text, found = site
    written(tmp_path / "again", text, found)
    mine = {f.relative_to(out): f.read_bytes() for f in out.rglob("*.*") if f.is_file()}
    other = tmp_path / "again"
    assert mine == {f.relative_to(other): f.read_bytes() for f in other.rglob("*.*") if f.is_file()}


def test_the_page_asks_nobody_and_its_policy_names_its_one_script() -> None:
    html = page()
    assert not re.search(r"https?://(?!www\.w3\.org/)", html)
    assert html.count("<script") == html.count("</script") == 1 and "<!--" not in html
    assert "default-src 'none'" in html and "innerHTML" not in html


def test_saes_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    text = corpus()
    one, other = dashboard(9, text), dashboard(9, text, seed=1)
    written(tmp_path / "site", text, one, other)
    said = about(tmp_path / "site")
    folders = [each["folder"] for each in said["saes"]]
    assert len(set(folders)) == 2 and said["made_of"] == "these"
    for folder, found in zip(folders, (one, other), strict=True):
        _, arrays = file(tmp_path / "site" / folder / "index.bin.js")
        assert (arrays["fired"] == found.fired).all()


def test_a_site_replaces_a_site_and_nothing_else(tmp_path: Path) -> None:
    text, out = corpus(), tmp_path / "site"
    written(out, text, dashboard(300, text))
    written(out, text, dashboard(9, text))
    assert [f.name for f in (out / "made.up-00000000").glob("feat-*")] == ["feat-000.js"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("my own page")
    with pytest.raises(UsageError, match="no site"):
        Site(tmp_path / "mine")
    assert (tmp_path / "mine" / "index.html").read_text() == "my own page"


def test_a_site_that_fails_leaves_the_old_one_and_no_draft(tmp_path: Path) -> None:
    text, out = corpus(), tmp_path / "site"
    written(out, text, dashboard(9, text))
    before = sorted(out.rglob("*"))
    with pytest.raises(RuntimeError), Site(out) as site:
        site.add(dashboard(300, text), site.text(text, words, len(WORDS)))
        raise RuntimeError("the pass failed")
    assert sorted(out.rglob("*")) == before
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


def test_a_feature_takes_less_than_a_kilobyte(tmp_path: Path) -> None:
    """With as many examples as the command keeps: so 65,536 of them are tens of megabytes."""
    text = corpus(2000, 128, 32)
    made = written(tmp_path / "site", text, dashboard(2048, text, top=25))
    shards = sum(f.stat().st_size for f in (tmp_path / "site").rglob("feat-*.js"))
    assert shards / 2048 < 1000 and made.bytes * 32 < 70e6


def test_json_of_the_saes_says_what_is_there(site: Any) -> None:
    out, _, found = site
    (sae,) = about(out)["saes"]
    assert (sae["features"], sae["dead"], sae["notes"]) == (300, 1, 1)
    assert json.dumps(sae["facts"]) == json.dumps(found.facts)
