"""Pages of features, as a browser shows them from disk: found, opened, followed, on any screen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from dashing import HOSTILE, WORDS, corpus, dashboard, words

from sae_cli.report.browser.site import Site

NAME = "made.up-00000000"


def written(out: Path, *found: Any, text: Any) -> Path:
    with Site(out) as site:
        shown = site.text(text, words, len(WORDS))
        for each in found:
            site.add(each, shown)
    return out / "index.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = corpus()
    return written(
        tmp_path_factory.mktemp("one") / "a site, 1 #?%", dashboard(300, text), text=text
    )


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = corpus()
    saes = [dashboard(20, text, name=f"sae-{i}", seed=i) for i in range(3)]
    return written(tmp_path_factory.mktemp("several") / "site", *saes, text=text)


def shows(chromium: Any, feature: int) -> None:
    """Wait until the page of a feature is there."""
    chromium.wait(f"document.querySelector('.feature h1')?.textContent === 'Feature {feature}'")
    assert chromium.value("location.hash") == f"#{NAME}/f={feature}"


def rows(chromium: Any) -> list[int]:
    found: list[int] = chromium.value(
        "[...document.querySelectorAll('#list .row .no')].map(n => Number(n.textContent))"
    )
    return found


def test_a_feature_is_found_by_its_label_opened_and_its_neighbour_followed(site, chromium):
    chromium.open(site, 1280)
    chromium.do(lambda page: page.fill("#search", "topic=river"))
    chromium.wait("document.querySelectorAll('#list .row').length === 1")
    chromium.do(lambda page: page.click("#list .row"))
    shows(chromium, 7)
    said = chromium.value("document.querySelector('.feature').innerText")
    for words_of in (
        "topic=river",
        "F1 0.875",
        "a judge",
        "detection 0.750",
        "refusal rate",
        "0.900",
    ):
        assert words_of in said
    first = chromium.value("document.querySelector('.near a .no').textContent")
    chromium.do(lambda page: page.click(".near a"))
    shows(chromium, int(first))
    chromium.do(lambda page: page.go_back() and None)
    shows(chromium, 7)
    assert chromium.troubles() == []


@pytest.mark.parametrize("text", ["onerror", "7 steered"])
def test_search_reads_explanations_numbers_and_steering(text, site, chromium):
    chromium.open(site, 1280)
    chromium.do(lambda page: page.fill("#search", text))
    chromium.wait("document.querySelector('#count').textContent === '1 of 300'")
    assert rows(chromium) == [7]


def test_a_deep_link_opens_and_survives_a_reload(site, chromium):
    chromium.open(f"{site.as_uri()}#{NAME}/f=299", 1280)
    shows(chromium, 299)
    chromium.do(lambda page: page.reload() and None)
    shows(chromium, 299)
    assert chromium.value("document.querySelector('[aria-selected=true] .no').textContent") == "299"
    assert chromium.troubles() == []


@pytest.mark.parametrize("place", ["f=300", "f=9999999"])
def test_a_link_to_what_is_not_there_says_so(place, site, chromium):
    chromium.open(f"{site.as_uri()}#{NAME}/{place}", 1280)
    chromium.wait("document.querySelector('.wrong')")
    assert "has features 0 to 299" in chromium.value("document.querySelector('.wrong').textContent")


def test_a_feature_that_never_fires_has_a_page(site, chromium):
    chromium.open(f"{site.as_uri()}#{NAME}/f=0", 1280)
    shows(chromium, 0)
    assert "fires on no token" in chromium.value("document.querySelector('.feature').innerText")
    assert chromium.troubles() == []


def test_text_with_markup_and_script_in_it_is_shown_as_text(site, chromium):
    """Tokens, explanations and labels: nothing of them becomes an element, none of it runs."""
    text, seen = corpus(), set()
    found = dashboard(300, text)
    for feature in [7, *range(20, 60)]:
        if chromium.value("location.protocol") != "file:" or feature == 7:
            chromium.open(f"{site.as_uri()}#{NAME}/f={feature}", 1280)
        chromium.do(lambda page, f=feature: page.evaluate(f"location.hash = '#{NAME}/f={f}'"))
        shows(chromium, feature)
        shown = chromium.value(
            "[...document.querySelectorAll('.example')].map(e =>"
            " [...e.querySelectorAll('.t')].map(t => t.textContent))"
        )
        ids = [text.ids(int(n)) for n in found.top.number[feature]]
        for said, wanted in zip(shown, ids, strict=False):
            assert len(said) == len(wanted)
            seen |= {w for w, s in zip(words(wanted), said, strict=True) if w == s}
    assert {"<script>alert(1)</script>", "</script><b>bold</b>", "&amp;"} <= seen
    chromium.open(f"{site.as_uri()}#{NAME}/f=7", 1280)
    shows(chromium, 7)
    assert chromium.value("document.querySelector('.says').firstChild.textContent") == HOSTILE
    assert chromium.value("document.querySelectorAll('img, main b, main script').length") == 0
    assert chromium.value("document.title") == f"Feature 7 – {NAME}"
    assert chromium.troubles() == []


def test_shades_and_numbers_are_those_of_the_activations(site, chromium):
    text = corpus()
    found = dashboard(300, text)
    chromium.open(f"{site.as_uri()}#{NAME}/f=12", 1280)
    shows(chromium, 12)
    told = chromium.value("[...document.querySelectorAll('.peak')].map(p => Number(p.textContent))")
    peaks = [*found.top.peak[12], *found.sample.peak[12], 0, 0]
    assert told == pytest.approx(peaks, rel=1e-3)
    on = chromium.value("document.querySelectorAll('.example .t.on').length")
    assert on == (found.top.values[12] > 0).sum() + (found.sample.values[12] > 0).sum()
    groups = chromium.value("[...document.querySelectorAll('.group h3')].map(h => h.textContent)")
    assert len(groups) == 3 and groups[0].startswith(f"Peaks {found.sample.peak[12][1]:.4g}"[:9])
    bars = chromium.value("document.querySelectorAll('.hist rect').length")
    filled = found.histogram[12].nonzero()[0]
    assert bars == filled[-1] - filled[0] + 1


def test_the_list_sorts_and_filters_by_every_number(site, chromium):
    found = dashboard(300, corpus())
    columns = {"density": found.fired, "max": found.largest, "fired": found.fired,
               "windows": found.windows, "nearest": found.near.values[:, 0]}  # fmt: skip
    chromium.open(site, 1280)
    for name, values in columns.items():
        chromium.do(lambda page, n=name: page.select_option("#sort", n) and None)
        best = sorted(range(1, 300), key=lambda f: (-values[f], f))
        assert rows(chromium)[:5] == best[:5], name
        chromium.do(lambda page: page.click("#way"))
        assert rows(chromium)[:5] == sorted(range(1, 300), key=lambda f: (values[f], f))[:5]
    chromium.do(lambda page: page.click("#filters summary"))
    chromium.do(lambda page: page.fill("[data-column=fired][data-end=least]", "4000"))
    chromium.do(lambda page: page.fill("[data-column=fired][data-end=most]", "4500"))
    inside = [f for f in range(300) if 4000 <= found.fired[f] <= 4500]
    chromium.wait(f"document.querySelector('#count').textContent === '{len(inside)} of 300'")
    assert sorted(rows(chromium)) == inside[: len(rows(chromium))] or len(inside) > 20
    chromium.do(lambda page: page.fill("[data-column=fired][data-end=least]", ""))
    chromium.do(lambda page: page.fill("[data-column=fired][data-end=most]", ""))
    chromium.do(lambda page: page.uncheck("#dead"))
    chromium.wait("document.querySelector('#count').textContent === '300'")
    chromium.do(lambda page: page.check("#told"))
    assert rows(chromium) == [7]


def test_everything_can_be_done_from_the_keyboard(site, chromium):
    chromium.open(site, 1280)
    chromium.wait("document.querySelector('#list .row')")
    chromium.press("/")
    assert chromium.value("document.activeElement.id") == "search"
    chromium.press("w", "o", "r", "d", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp")
    assert chromium.value("document.activeElement.id") == "list"
    order = rows(chromium)
    active = chromium.value("document.querySelector('#list').getAttribute('aria-activedescendant')")
    assert active == f"f{order[1]}"
    chromium.press("Enter")
    shows(chromium, order[1])
    chromium.press("j")
    shows(chromium, order[2])
    chromium.press("k", "k")
    shows(chromium, order[0])
    chromium.press("Escape")
    chromium.wait("document.querySelector('main').dataset.view === 'list'")
    chromium.press("End")
    assert chromium.value("document.querySelector('[data-active]').ariaPosInSet") == str(
        chromium.value("Number(document.querySelector('.row').ariaSetSize)")
    )
    chromium.press("Enter")
    chromium.wait("document.querySelector('.near a')")
    for _ in range(40):  # tab by tab to the first neighbour
        chromium.press("Tab")
        if chromium.value("document.activeElement.matches('.near a')"):
            break
    near = int(chromium.value("document.activeElement.querySelector('.no').textContent"))
    chromium.press("Enter")
    shows(chromium, near)
    assert chromium.troubles() == []


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_no_page_is_wider_than_its_screen(width, dark, site, chromium):
    for place in ("", f"#{NAME}/about", f"#{NAME}/f=7"):
        chromium.open(site.as_uri() + place, width, dark=dark)
        chromium.wait("document.querySelector('.row')")
        if place:
            chromium.wait("document.querySelector('.feature h1')?.offsetWidth > 0")
        assert chromium.value("document.documentElement.scrollWidth") == width
        over = (
            "[...document.querySelectorAll('main *')].filter(e => e.offsetParent &&"
            " getComputedStyle(e.parentNode).overflow === 'visible' &&"
            f" e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80))"
        )
        assert chromium.value(over) == []
        paper = chromium.value("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(14, 16, 19)") == dark
    assert chromium.troubles() == []


def test_on_a_phone_the_list_and_a_feature_take_turns(site, chromium):
    chromium.open(site, 360)
    chromium.wait("document.querySelector('#list .row')")
    chromium.do(lambda page: page.tap("#list .row:nth-child(3)"))
    shows(chromium, 3)
    seen = "document.querySelector('{}').getClientRects().length > 0"
    assert not chromium.value(seen.format("#list")) and chromium.value(seen.format(".back"))
    chromium.do(lambda page: page.tap(".t.on >> nth=0"))
    assert chromium.value("!document.querySelector('#tip').hidden")
    chromium.do(lambda page: page.tap(".back"))
    chromium.wait(seen.format("#list"))
    assert not chromium.value(seen.format("#panel"))


def test_several_saes_have_an_index_and_links_between_pages_of_each(several, chromium):
    chromium.open(several, 1280)
    chromium.wait("document.querySelectorAll('.saes a').length === 3")
    chromium.do(lambda page: page.click("text=sae-1"))
    chromium.wait("document.querySelectorAll('#list .row').length > 10")
    assert chromium.value("location.hash") == "#sae-1"
    chromium.value("location.hash = '#sae-2/f=4'")
    chromium.wait("document.title === 'Feature 4 – sae-2'")
    chromium.do(lambda page: page.click("#home"))
    chromium.wait("document.querySelectorAll('.saes a').length === 3")
    chromium.value(f"location.hash = '#{quote('no such')}'")
    chromium.wait(
        "document.querySelector('.wrong')?.textContent === 'There is no SAE called no such here.'"
    )
    assert chromium.troubles() == []


def test_a_file_that_is_missing_is_told(site, tmp_path, chromium):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(site.parent, copy)
    (copy / NAME / "feat-001.js").unlink()
    chromium.open(f"{(copy / 'index.html').as_uri()}#{NAME}/f=7", 1280)
    shows(chromium, 7)
    chromium.value(f"location.hash = '#{NAME}/f=299'")
    chromium.wait(
        "document.querySelector('.wrong')?.textContent.includes('feat-001.js is missing')"
    )


@pytest.mark.slow
def test_65_536_features_open_and_scroll_with_few_rows_in_the_document(
    tmp_path, chromium, record_property
):
    text = corpus(4000, 128, 32)
    page = written(tmp_path / "large", dashboard(65_536, text, top=3), text=text)
    size = sum(f.stat().st_size for f in page.parent.rglob("*") if f.is_file())
    assert size < 100e6
    start = time.monotonic()
    chromium.open(page, 1280)
    chromium.wait("document.querySelectorAll('#list .row').length > 5")
    opened = time.monotonic() - start
    assert chromium.value("document.querySelector('#count').textContent") == "65,535 of 65,536"
    most = 0
    for share in (0.1, 0.37, 0.8, 1.0):
        chromium.value(
            f"(l => {{ l.scrollTop = l.scrollHeight * {share}; }})(document.querySelector('#list'))"
        )
        wanted = f"Math.min(65535, Math.round(65534 * {share}))"
        chromium.wait(
            "(rows => rows.length && Math.min(...rows) - 20 <= "
            + wanted
            + " && "
            + wanted
            + " <= Math.max(...rows) + 20)([...document.querySelectorAll('.row .no')]"
            ".map(n => Number(n.textContent)))"
        )
        most = max(most, chromium.value("document.querySelectorAll('#list .row').length"))
    assert most < 60
    chromium.do(lambda page: page.select_option("#sort", "max") and None)
    chromium.do(lambda page: page.fill("#search", "word17 word3"))
    chromium.wait("/^[1-9].* of 65,536$/.test(document.querySelector('#count').textContent)")
    chromium.do(lambda page: page.click("#list .row"))
    chromium.wait("document.querySelectorAll('.example').length > 5")
    assert chromium.troubles() == []
    record_property("told", f"{size / 1e6:.0f} MB, opened in {opened:.2f} s")
