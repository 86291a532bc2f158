"""`saectl report` on records alone: a page that says what they say, and nothing from elsewhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from sae_cli.cli.app import _run
from sae_cli.plan.place import folder
from sae_cli.report.plots import ZOOM
from sae_cli.store.atomic import write_json

REASON = 'no "token" was kept </script><b>'
EDGES = [i / 4 - 8 for i in range(33)]


def measured(ran, *, controls=True):
    """Give trainings and evaluations the files that they would leave."""
    ran.finish("tokens", "cache", "train", "eval")
    for number, (_, train) in enumerate(ran.graph.cells):
        lines = [json.dumps({"step": i, "tokens": 100 * i, "fvu": 1 / i}) for i in range(1, 401)]
        curve = folder(ran.workspace, train).metrics
        curve.write_text("\n".join([*lines, '{"step": 401, "tok']), encoding="utf-8")
        score = next(s for s in ran.graph.of("eval") if s.deps["train"] is train)
        pca = {"l0_v1": {"value": 4.0 + 4 * number}, "fvu.pooled_v1": {"value": 0.9}}
        record = {
            "metrics": {
                "l0_v1": {"value": 4.0 + 4 * number, "reason": None},
                "fvu.pooled_v1": {
                    "value": 0.5 - 0.1 * number, "reason": None,
                },
                "dead_fraction_v1": {"value": 0.25, "reason": None},
                "ce.delta_v1": {"value": None, "reason": REASON},
            },
            "intervals": {"fvu.pooled_v1": {"low": 0.3, "high": 0.6, "n_docs": 9}},
            "controls": [{"name": "pca", "k": 4, "metrics": pca}] if controls else [],
            "density_histogram_v1": {
                "edges": EDGES, "counts": [0] * 30 + [16, 32], "zero": 16, "tokens": 100,
            },
            "tokens": 100,
            "predictions": 99,
        }  # fmt: skip
        write_json(folder(ran.workspace, score).path / "metrics.json", record)


class Page(HTMLParser):
    """What a test wants to know of a page."""

    VOID = {"meta", "link", "br", "!doctype"}

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.cells, self.numbers = [], [], [], [], ""
        self._json = False
        self.feed(text)
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[a] for a in ("href", "src") if a in found]
        if "data-metric" in found:
            self.cells.append((found["data-metric"], found.get("data-value")))
        self._json = found.get("type") == "application/json"

    def handle_startendtag(self, tag, attributes):
        pass  # shapes of a drawing

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self._json = False

    def handle_data(self, data):
        self.numbers += data if self._json else ""


@pytest.fixture
def page(small):
    measured(small)
    assert _run(["report"]) == 0
    return small.workspace.run_dir("small") / "report.html"


def test_the_page_holds_the_numbers_as_a_table_and_as_json(page):
    found = Page(page.read_text(encoding="utf-8"))
    numbers = json.loads(found.numbers)
    assert numbers["version"] == 1 and numbers["sweep"] == "small"
    a, b = numbers["saes"]
    assert a["metrics"]["fvu.pooled_v1"]["value"] == 0.5 and a["variant"] == "k4"
    assert a["metrics"]["ce.delta_v1"] == {"value": None, "reason": REASON, "interval": None}
    assert a["metrics"]["fvu.pooled_v1"]["interval"] == [0.3, 0.6]
    assert a["controls"][0]["metrics"]["fvu.pooled_v1"] == 0.9
    cells = [(m, None if v is None else float(v)) for m, v in found.cells]
    assert cells == [
        (name, sae["metrics"][name]["value"])
        for sae in (a, b)
        for name in ("l0_v1", "fvu.pooled_v1", "ce.delta_v1", "dead_fraction_v1")
    ]
    (front,) = numbers["fronts"]
    assert front["train_keys"] == [a["train_key"], b["train_key"]]


def test_the_page_needs_nothing_from_elsewhere_and_names_nothing_twice(page):
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert "@import" not in text and "url(" not in text
    assert len(set(found.ids)) == len(found.ids)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert "</script><b>" not in text


def test_every_plot_is_a_drawing_with_words_for_those_who_cant_see_it(page):
    plots = sorted((page.parent / "plots").glob("*.svg"))
    names = {p.stem.split("-")[0] for p in plots}
    assert names == {"sparsity", "densities", "dead", "training"}
    for plot in plots:
        root = ElementTree.fromstring(plot.read_text(encoding="utf-8"))
        assert root.get("role") == "img" and root.get("aria-label")
        assert "var(" not in plot.read_text(encoding="utf-8")
    text = (page.parent / "plots" / "sparsity-fvu.pooled_v1-resid_post.svg").read_text("utf-8")
    assert "control: pca" in text and "Pareto front" in text and 'class="hollow"' in text


def test_writing_again_changes_no_byte_and_lost_plots_go(page):
    stray = page.parent / "plots" / "old.svg"
    stray.write_text("<svg/>", encoding="utf-8")
    every = [p for p in page.parent.rglob("*") if p.is_file() and p != stray]
    before = [(p, p.read_bytes(), p.stat().st_mtime_ns) for p in every]
    assert _run(["report"]) == 0
    assert [(p, p.read_bytes(), p.stat().st_mtime_ns) for p in every] == before
    assert not stray.exists()


def test_png_files_lie_beside_the_drawings_where_resvg_is_installed(page):
    resvg = pytest.importorskip("resvg_py", reason="resvg-py is not installed (saectl[plots])")
    plots = sorted((page.parent / "plots").glob("*.svg"))
    pictures = [p.with_suffix(".png") for p in plots if p.with_suffix(".png").is_file()]
    if not pictures:
        pytest.skip("no font that a PNG could be written with is installed")
    assert len(pictures) == len(plots)
    for plot, picture in zip(plots, pictures, strict=True):
        wordless = re.sub(r"<text.*?</text>", "", plot.read_text(encoding="utf-8"))
        assert picture.read_bytes().startswith(b"\x89PNG\r\n")
        assert picture.read_bytes() != bytes(resvg.svg_to_bytes(svg_string=wordless, zoom=ZOOM))


def test_without_resvg_the_report_says_what_to_install(small, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    measured(small)
    assert _run(["report"]) == 0
    assert "pip install 'saectl[plots]'" in capsys.readouterr().out
    assert _run(["report", "--json"]) == 0
    (sweep,) = json.loads(capsys.readouterr().out)["sweeps"]
    assert sweep["no_png"] and all(path.endswith(".svg") for path in sweep["plots"])


def test_a_report_of_nothing_says_what_to_do(small, capsys):
    small.finish("tokens", "cache", "train")
    assert _run(["report"]) == 1
    assert "saectl eval" in capsys.readouterr().err


def test_records_without_details_make_a_page_without_those_charts(small):
    small.finish("tokens", "cache", "train", "eval")
    assert _run(["report"]) == 0
    text = (small.workspace.run_dir("small") / "report.html").read_text(encoding="utf-8")
    assert "No training left a curve." in text and "No evaluation recorded a histogram." in text
    assert json.loads(Page(text).numbers)["saes"][0]["metrics"]["fvu.pooled_v1"]["reason"]


def test_a_run_ends_with_tables_and_page_and_no_plot_files(small, capsys):
    measured(small)
    assert _run(["eval", "small.yaml"]) == 0
    view = small.workspace.run_dir("small")
    assert "report: store/runs/small/report.html\n" in capsys.readouterr().out
    assert (view / "results.parquet").is_file() and not (view / "plots").exists()


def test_a_run_without_evaluation_writes_none(small):
    measured(small)
    assert _run(["train", "small.yaml"]) == 0
    assert not (small.workspace.run_dir("small") / "report.html").exists()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_numbers_without_a_complaint(page, chromium, width, dark):
    chromium.open(page, width, dark=dark)
    cells = chromium.value(
        "[...document.querySelectorAll('td[data-metric]')].map(c => [c.dataset.metric,"
        " c.dataset.value === undefined ? null : Number(c.dataset.value), c.textContent])"
    )
    numbers = chromium.value("JSON.parse(document.getElementById('numbers').textContent)")
    shown = [(name, value) for name, value, _ in cells]
    names = list(dict.fromkeys(name for name, _ in shown))
    assert shown == [
        (name, sae["metrics"][name]["value"]) for sae in numbers["saes"] for name in names
    ]
    assert ["fvu.pooled_v1", 0.5, "0.5000"] in cells and ["ce.delta_v1", None, "–"] in cells
    assert chromium.value("document.documentElement.scrollWidth") == width
    over = (
        "[...document.querySelectorAll('main > *, header > *, figure, svg, p, dd')]"
        f".filter(e => e.getBoundingClientRect().right > {width}).length"
    )
    assert chromium.value(over) == 0
    paper = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(14, 16, 19)" if dark else "rgb(246, 247, 248)")
    assert chromium.troubles() == []


def test_words_of_drawings_stay_inside_them(page, chromium):
    chromium.open(page, 360)
    outside = chromium.value(
        "[...document.querySelectorAll('svg text')].filter(t => {"
        " const a = t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect();"
        " return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1;"
        "}).map(t => t.textContent)"
    )
    assert outside == []


def test_the_head_of_a_column_sorts_and_marks_say_what_they_are(page, chromium):
    chromium.open(page, 1280)
    order = "[...document.querySelectorAll('#table tbody tr')].map(r => r.cells[7].textContent)"
    assert chromium.value(order) == ["4.0", "8.0"]
    click = "document.querySelectorAll('#table thead button')[7].click()"
    chromium.value(click)
    chromium.value(click)
    assert chromium.value(order) == ["8.0", "4.0"]
    head = "document.querySelectorAll('#table thead th')[7].getAttribute('aria-sort')"
    assert chromium.value(head) == "descending"
    chromium.value("document.querySelector('.null').click()")
    assert chromium.value("document.getElementById('tip').textContent") == REASON
    chromium.value(
        "document.querySelector('.s0 .mark[data-tip]')"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert "L0 4.0, FVU 0.5000" in chromium.value("document.getElementById('tip').textContent")
    assert chromium.troubles() == []
