"""The real command makes a site of a workspace, of a release's folder, of an SAE brought in from
elsewhere, and serves it."""

from __future__ import annotations

import json
import shutil
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from realcommand import Disk, Saectl

from sae_cli.cli.browsing import Wish
from sae_cli.cli.named import named_saes
from sae_cli.report.browser.pack import read
from sae_cli.store.layout import Workspace

SAME_TEXT = (
    "data.tokens=16_384", "data.heldout_tokens=4096", "data.context=64",
    "cache.batch_tokens=2048", "cache.chunk_bytes=524_288", "eval.batch_tokens=1024",
)  # fmt: skip
SETS = [word for given in SAME_TEXT for word in ("--set", given)]


def index(site: Path, folder: str) -> tuple[Any, dict[str, Any]]:
    _, meta, arrays = read((site / folder / "index.bin.js").read_bytes())
    return meta, arrays


@pytest.fixture(scope="module")
def browsed(finished: Disk, command: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The site of all SAEs of the small sweep, and what making it said."""
    out = tmp_path_factory.mktemp("browsed") / "site"
    return out, command(finished.root).json("browse", "--out", out)


def test_a_workspace_becomes_a_site_of_all_its_saes(browsed: Any, finished: Disk, chromium) -> None:
    out, said = browsed
    assert said["version"] == 1 and len(said["saes"]) == 6
    assert {each["folder"] for each in said["saes"]} == {p.name for p in finished.stages("train")}
    assert said["bytes"] == sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    chromium.open(out / "index.html", 1280)
    chromium.wait("document.querySelectorAll('.saes a').length === 6")
    chromium.do(lambda page: page.click(".saes a"))
    chromium.wait("document.querySelectorAll('#list .row').length > 3")
    chromium.do(lambda page: page.click("#list .row"))
    chromium.wait("document.querySelectorAll('.example .t.on').length > 3")
    assert chromium.value("document.querySelectorAll('.logits li').length") == 20
    assert chromium.troubles() == []


def test_density_is_that_of_the_training_text(browsed: Any, finished: Disk) -> None:
    """What training counts on its last tokens, the site counts on all: they are close."""
    out, said = browsed
    for each in said["saes"]:
        meta, arrays = index(out, each["folder"])
        assert each["tokens"] == meta["tokens"] and 14_000 < meta["tokens"] <= 16_384
        cfg = json.loads((finished.root / "train" / each["folder"] / "cfg.json").read_text())
        l0 = arrays["density"].astype(np.float64).sum()
        assert l0 == pytest.approx(arrays["fired"].sum() / meta["tokens"])
        if cfg["metadata"]["saectl"]["arch"] == "topk":
            assert 7 < l0 <= 8


def test_a_release_far_from_its_workspace_has_the_same_numbers(
    browsed: Any, finished: Disk, saectl: Saectl, tmp_path: Path
) -> None:
    """Its text is packed again, and its SAEs are those of the workspace."""
    (stage,) = finished.stages("release")
    shutil.copytree(stage / "small", tmp_path / "copied")
    out, said = browsed
    again = saectl.json("browse", tmp_path / "copied", "--out", tmp_path / "site")
    assert len(again["saes"]) == 6
    theirs = {}
    for each in again["saes"]:
        meta, arrays = index(tmp_path / "site", each["folder"])
        facts = meta["facts"]
        theirs[facts["site"], facts["architecture"]] = arrays
        assert meta["corpus"] == "training text, packed again"
    for each in said["saes"]:
        meta, arrays = index(out, each["folder"])
        found = theirs[meta["facts"]["site"], meta["facts"]["architecture"]]
        assert found["fired"] == pytest.approx(arrays["fired"], abs=3)
        assert found["max"] == pytest.approx(arrays["max"], rel=1e-3)


def test_an_sae_that_was_imported_is_browsed_like_any_other(
    warm: Saectl, finished: Disk, tmp_path: Path
) -> None:
    (stage,) = finished.stages("release")
    file = tmp_path / "back.yaml"
    warm("import", stage / "small", "--name", "back", "--out", file, "--source", "the test's own")
    warm("train", file, *SETS)
    known = {p.name for p in finished.stages("train")}
    name, *others = (p.name for p in Disk(warm.store).stages("train") if p.name not in known)
    assert len(others) == 5
    said = warm.json("browse", name, "--out", tmp_path / "site", "--tokens", 4096)
    assert [each["name"] for each in said["saes"]] == [name]
    meta, arrays = index(tmp_path / "site", name)
    assert meta["corpus"].startswith("training text (") and arrays["fired"].sum() > 0


def test_text_of_a_file_with_markup_in_it_is_shown_as_text(
    finished: Disk, command: Any, tmp_path: Path, chromium
) -> None:
    text = tmp_path / "page.jsonl"
    line = "<script>document.title = 'caught'</script> the cook bakes the <b>pies</b> ."
    text.write_text("".join(json.dumps({"text": line}) + "\n" for _ in range(200)))
    (name, *_) = [p.name for p in finished.stages("train")]
    out = tmp_path / "site"
    command(finished.root)("browse", name, "--text", text, "--out", out, "--neuronpedia", tmp_path)
    chromium.open(out / "index.html", 1280)
    chromium.wait("document.querySelectorAll('#list .row').length > 3")
    chromium.do(lambda page: page.click("#list .row"))
    chromium.wait("document.querySelectorAll('.example').length > 3")
    shown = chromium.value("[...document.querySelectorAll('.tokens')].map(t => t.innerText).join()")
    assert "script" in shown or "<unk>" in shown
    assert chromium.value("document.querySelectorAll('main script, main b').length") == 0
    assert chromium.value("document.title") != "caught" and chromium.troubles() == []
    assert list((tmp_path / "exports").rglob("features/batch-0.jsonl.gz"))


def test_text_that_is_nowhere_is_an_error_that_says_what_to_do(
    finished: Disk, saectl: Saectl, tmp_path: Path
) -> None:
    (stage,) = finished.stages("release")
    shutil.copytree(stage / "small", tmp_path / "copied")
    for cfg in tmp_path.glob("copied/*/cfg.json"):
        said = json.loads(cfg.read_text())
        (source,) = said["metadata"]["saectl"]["data"]["sources"]
        source.update(builtin=None, hf="somebody/texts")
        cfg.write_text(json.dumps(said))
    ended = saectl("browse", tmp_path / "copied", "--out", tmp_path / "site", code=2)
    assert "neither built in nor in" in ended.stderr and "--text FILE" in ended.stderr
    assert not (tmp_path / "site").exists()
    missing = saectl("browse", tmp_path / "copied", "--text", tmp_path / "no.txt", code=2)
    assert "no .jsonl or .txt file" in missing.stderr


def test_a_site_is_another_one_once_a_study_says_more(finished: Disk, tmp_path: Path) -> None:
    """What is served without being made anew shows what there is to know."""
    (stage,) = finished.stages("release")
    release = shutil.copytree(stage / "small", tmp_path / "copied")
    (studies, *_) = [cfg.with_name("studies.json") for cfg in release.glob("*/cfg.json")]

    def made_of() -> str:
        saes = named_saes(str(release), Workspace(tmp_path / "store"))
        return Wish(saes, tmp_path, 1000, None, Workspace(tmp_path / "store"), None).fingerprint()

    def say(f1: float) -> None:
        best = {"label": "plural", "f1": {"feature": 3, "heldout": f1}}
        studies.write_text(json.dumps({"truth": {"detail": {"latents": [best]}}}))

    seen = [made_of(), made_of()]
    for f1 in (0.5, 0.6, 0.5):
        say(f1)
        seen.append(made_of())
    assert seen[0] == seen[1] and seen[2] == seen[4] and len(set(seen)) == 3


def test_a_folder_that_is_no_site_is_not_replaced(
    finished: Disk, command: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    ended = command(finished.root)("browse", "--out", tmp_path / "mine", code=2)
    assert "no site" in ended.stderr and (tmp_path / "mine" / "thesis.txt").exists()


def test_an_interrupted_pass_leaves_nothing(
    finished: Disk, command: Any, tmp_path: Path, processes: Any
) -> None:
    process = command(finished.root).start("browse", "--out", tmp_path / "site")
    processes.append(process)
    for line in process.stdout:
        if "tokens" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait() == 130 and "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_it_serves_what_fires_and_a_steered_text(
    finished: Disk, command: Any, tmp_path: Path, processes: Any, chromium
) -> None:
    (name, *_) = [p.name for p in finished.stages("train") if "topk" in p.name]
    words = ("browse", name, "--out", tmp_path / "site", "--serve", "--port", "0")
    process = command(finished.root).start(*words)
    processes.append(process)
    url = next(line for line in process.stdout if line.startswith("serving")).split()[1]
    chromium.open(url, 1280)
    chromium.wait("document.querySelector('#try')")
    chromium.do(lambda page: page.fill("#text", "the cook bakes the pies"))
    chromium.do(lambda page: page.click("#try button[type=submit]"))
    chromium.wait("document.querySelectorAll('#try .pick').length === 5")
    chromium.do(lambda page: page.click("#try .pick >> nth=1"))
    assert chromium.value("document.querySelector('#try .answer h3').textContent") == "On cook"
    feature = chromium.value("document.querySelector('#try .near .no').textContent")
    chromium.do(lambda page: page.click("#try .near a"))
    chromium.wait(f"document.querySelector('h1').textContent === 'Feature {feature}'")
    assert chromium.value("document.querySelector('#text').value") == "the cook bakes the pies"
    chromium.do(lambda page: page.fill("#length", "6"))
    chromium.do(lambda page: page.click("#steer button[type=submit]"))
    chromium.wait("document.querySelectorAll('#steer .pair .tokens').length === 2")
    assert chromium.value("document.querySelector('#steer .answer .t.on')") is not None
    assert chromium.troubles() == []
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "evil.example"}))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130 and "Traceback" not in process.stdout.read()
