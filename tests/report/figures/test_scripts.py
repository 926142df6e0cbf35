"""The figures of a page in a real browser: hovered, chosen, zoomed, in the dark, on a phone, and without scripts."""

import html
import json
import re
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from specs import panels, rows_of

from headtohead.analysis.summary import summarise
from headtohead.report.figures import draw, interactive
from headtohead.report.figures.forest import plots
from headtohead.report.figures.style import COLOURS, short
from headtohead.testing import ACCURACY, make_study

CHROMIUM = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(None in CHROMIUM, reason="needs chromium and chromedriver")
BROWSER = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
# Names that would break a page, an expression or a field, were they more than text.
EVIL = "</script><img src=x onerror=\"document.title='broken'\">"
ODD = 'it\'s "a\\b" [x.y] $z$ {{1+1}} datum.arm'
# The lines that a reader is told, each a title and a text.
TOLD = (
    "const told = document.querySelector('.told');"
    "return told.hidden ? null : [...told.children].map(line => [...line.childNodes].map(part => part.textContent))"
)
STYLE = (
    ":root{--ink:#1c1c1c;--soft:#5a5a5a;--line:#dedede;--paper:#fff} body{margin:1rem;background:var(--paper)}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e8e8e6;--soft:#a9a9a6;--line:#34373b;--paper:#15171a}}"
    "figure{margin:0} figure>.drawing>svg{max-width:100%;height:auto}"
)


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    arms = {"softmax": ["head=softmax"], EVIL: ["head=sigmoid"], ODD: ["head=sigmoid_mean"]}
    folder = tmp_path_factory.mktemp("outputs") / "study"
    claims = {"accuracy": ACCURACY | {"weight": 0.5}}
    return summarise(make_study(folder, arms=arms, seeds=3, claims=claims))


@pytest.fixture(scope="module")
def drawings(summary):
    drawn, failures = draw(summary.study, plots=plots(summary))
    assert not failures
    return {drawing.name: drawing for drawing in drawn}


@pytest.fixture(scope="module")
def page(drawings, tmp_path_factory):
    figures = "".join(
        f'<figure id="figure-{drawing.name}"><div class="drawing">{drawing.svg}</div></figure>'
        for drawing in drawings.values()
    )
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    path = tmp_path_factory.mktemp("page") / "page.html"
    text = f"<!doctype html><html lang=en><head>{head}<title>whole</title></head><body>{figures}"
    path.write_text(f"{text}{interactive([*drawings.values()])}</body></html>", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (*BROWSER, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    with webdriver.Chrome(options, Service(CHROMIUM[1])) as browser:
        yield browser


def show(browser, page, width=1200, scheme="light", scripts=True):
    """Show a page and, with scripts, wait until all figures answer; a high window holds them all."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    size = {"width": width, "height": 12_000, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    dark_or_light(browser, scheme)
    browser.get(page.as_uri())
    if scripts:
        wait(browser, "return [...document.querySelectorAll('.drawing')].every(box => box.querySelector('.live'))")
        wait(browser, "return [...document.querySelectorAll('.panel')].every(panel => panel.querySelector('svg'))")


def dark_or_light(browser, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )


def wait(browser, script):
    return WebDriverWait(browser, 30).until(lambda _: browser.execute_script(script))


def silent(browser):
    assert browser.get_log("browser") == []
    assert browser.title == "whole" and browser.find_elements(By.TAG_NAME, "img") == []


@needs_browser
def test_hovering_tells_the_arm_the_value_its_interval_and_the_seeds(browser, page, drawings):
    show(browser, page)
    points = browser.find_elements(By.CSS_SELECTOR, "#figure-training .panel:nth-child(3) .mark-symbol path")
    ActionChains(browser).move_to_element(points[len(points) // 2]).perform()
    lines = dict(wait(browser, TOLD))
    assert [*lines] == ["arm", "step", "mean", "from", "to", "seeds"] and lines["seeds"] == "3"
    place = ["softmax", EVIL, ODD].index(lines["arm"])
    rows = rows_of(panels(drawings["training"])[2], "line")
    (row,) = [row for row in rows if row["arm"] == place and row["x"] == float(lines["step"].replace(",", ""))]
    for name, field in (("mean", "y"), ("from", "low"), ("to", "high")):
        assert float(lines[name]) == pytest.approx(row[field], rel=1e-3)
    silent(browser)


@needs_browser
def test_the_forest_tells_the_difference_of_a_row_with_its_interval(browser, page, drawings):
    show(browser, page)
    (point, *_) = browser.find_elements(By.CSS_SELECTOR, "#figure-forest .mark-symbol path")
    ActionChains(browser).move_to_element(point).perform()
    row = rows_of(panels(drawings["forest"])[0], "point")[0]
    told = dict(wait(browser, TOLD))
    assert told == {"row": row["label"], "difference [interval]": row["interval"], "pairs": "3"}
    silent(browser)


@needs_browser
def test_an_arm_chosen_in_the_legend_mutes_the_others_until_it_is_chosen_again(browser, page):
    show(browser, page)
    button = browser.find_elements(By.CSS_SELECTOR, "#figure-gradients .keys button")[2]
    assert button.text == short(ODD, 36)
    lines = (
        "[...document.querySelectorAll('#figure-gradients .panel:first-child .mark-line path')]"
        ".map(path => path.getAttribute('opacity') ?? '1').join()"
    )
    assert browser.execute_script(f"return {lines}") == "1,1,1"
    button.click()
    wait(browser, f"return {lines} === '0.12,0.12,1'")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    wait(browser, f"return {lines} === '1,1,1'")
    silent(browser)


@needs_browser
def test_curves_zoom_with_a_key_and_the_wheel_and_the_page_scrolls_without(browser, page):
    show(browser, page)
    labels = (
        "return [...document.querySelectorAll('#figure-training .panel:first-child .role-axis-label text')]"
        ".map(text => text.textContent).join()"
    )
    before = browser.execute_script(labels)
    turn = (
        "const svg = document.querySelector('#figure-training .panel svg'), box = svg.getBoundingClientRect();"
        "const event = new WheelEvent('wheel', {deltaY: -300, bubbles: true, cancelable: true, ctrlKey: arguments[0],"
        " clientX: box.x + box.width / 2, clientY: box.y + box.height / 2});"
        "svg.querySelector('.background').dispatchEvent(event); return event.defaultPrevented"
    )
    assert browser.execute_script(turn, False) is False and browser.execute_script(labels) == before
    assert browser.execute_script(turn, True) is True
    wait(browser, f"{labels} !== {json.dumps(before)}")
    silent(browser)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_have_the_colours_of_the_page_also_when_they_change(browser, page, scheme):
    show(browser, page, scheme=scheme)
    inks = {"light": "#1c1c1c", "dark": "#e8e8e6"}
    other = {"light": "dark", "dark": "light"}[scheme]
    for now in (scheme, other):
        dark_or_light(browser, now)
        title = "return document.querySelector('#figure-training .role-axis-title text')?.getAttribute('fill')"
        wait(browser, f"{title} === '{inks[now]}'")
        line = "return document.querySelector('#figure-training .mark-line path')?.getAttribute('stroke')"
        assert browser.execute_script(line) == COLOURS[0]
    silent(browser)


@needs_browser
def test_on_a_phone_panels_stand_below_each_other_with_letters_of_full_size(browser, page):
    show(browser, page, width=390)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    places = (
        "return [...document.querySelectorAll('#figure-training .panel')].map(panel => panel.getBoundingClientRect())"
        ".map(box => [box.x, box.width])"
    )
    narrow = browser.execute_script(places)
    assert len({x for x, _ in narrow}) == 1 and all(width > 340 for _, width in narrow)
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.panel text')].map(t => parseFloat(t.getAttribute('font-size')))"
    )
    assert min(sizes) >= 9.5
    widths = browser.execute_script("return [...document.querySelectorAll('.panel svg')].map(s => s.scrollWidth)")
    assert max(widths) <= 358
    show(browser, page, width=1200)
    assert len({x for x, _ in browser.execute_script(places)}) == 3
    silent(browser)


@needs_browser
def test_without_scripts_the_static_figures_stay(browser, page, drawings):
    show(browser, page, width=390, scripts=False)
    shown = browser.find_elements(By.CSS_SELECTOR, ".drawing > svg")
    assert len(shown) == len(drawings) and all(svg.is_displayed() for svg in shown)
    assert all(svg.size["width"] <= 390 for svg in shown)


def test_the_same_figures_give_the_same_page_of_about_a_megabyte(drawings, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = interactive([*drawings.values()])
    assert first == interactive([*drawings.values()]) and 500_000 < len(first) < 1_500_000
    (kept,) = (tmp_path / "headtohead").iterdir()
    kept.write_text("half of")
    assert interactive([*drawings.values()]) == first
    assert interactive([]) == ""


def test_a_cache_that_cannot_be_written_costs_nothing_else(drawings, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "vegaEmbed" in interactive([*drawings.values()])


def test_names_are_text_in_the_static_figures_and_in_the_scripts_data(drawings):
    for drawing in drawings.values():
        assert "<img" not in drawing.svg and "</script" not in drawing.svg
    text = interactive([*drawings.values()])
    found = re.search(r'<script type="application/json" id="figures-data">(.*?)</script>', text, re.S)
    assert "<" not in found[1] and json.loads(found[1])["figures"]["seeds"]["params"][1]["value"] == [
        "softmax",
        EVIL,
        ODD,
    ]
    assert html.escape("<img") in drawings["seeds"].svg
