"""The report in a real browser: its width on a desk and on a phone, contrast, dark mode, print, and its own scripts."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from itertools import product

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from headtohead.record.study import Range
from headtohead.report.render import write_report
from headtohead.testing import ACCURACY, make_study

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
BROWSER = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS, SCHEMES = (1440, 390), ("light", "dark")
# A release of axe-core, with the checksum of its archive.
AXE, AXE_SHA512 = (
    "axe-core@4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)
# Long names, which have to wrap, in a study of several settings.
LONG = "a_rather_long_name_of_an_arm_without_a_blank"

pytestmark = pytest.mark.skipif(not CHROMIUM or not CHROMEDRIVER, reason="chromium or chromedriver is missing")


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Reports of a study of many claims, of settings with long names, of ranges, of many arms and of one."""
    root = tmp_path_factory.mktemp("pages")
    several = {
        f"{data},{name}": [f"dataset={data}", f"head={head}"]
        for data in ("iris", "wine", "breast_cancer")
        for name, head in (("softmax", "softmax"), (LONG, "sigmoid"), ("sigmoid_mean", "sigmoid_mean"))
    }
    effects = {"sigmoid_mean": {"val_accuracy": -0.02, "test_accuracy": -0.02}}
    claims = {"accuracy": ACCURACY | {"weight": 0.25}}
    space = {"optimizer.lr": Range(0.001, 1, True), "training.warmup": Range(0, 0.3, False)}
    made = {
        "claims": make_study(root / "claims", arms=("softmax", "sigmoid", "sigmoid_mean"), effects=effects, seeds=6),
        "settings": make_study(root / "settings", arms=several, seeds=3, claims=claims),
        "ranges": make_study(root / "ranges", seeds=3, space=space, claims=claims),
        "many": make_study(
            root / "many",
            arms={f"arm_{place}": [f"head={'softmax' if place == 0 else f'h{place}'}"] for place in range(11)},
            seeds=2,
            lrs=(0.1,),
            claims=claims,
        ),
        "one": make_study(root / "one", arms=("sigmoid",), seeds=2, tuned=False, claims={}),
    }
    for folder in made.values():
        write_report(folder)
    return made


class Browser:
    """A browser at one width and in one scheme of colours."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, page, width=1440, scheme="light", media="screen", fragment=""):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get("about:blank")
        self.driver.get(f"file://{page / 'report.html'}{fragment}")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def unfold(self):
        self.run("document.querySelectorAll('details').forEach((part) => part.open = true)")

    def enliven(self):
        """Wait until every figure has come alive, as it does when a reader comes near: the window holds them all."""
        width, height = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 800}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        alive = "return [...document.querySelectorAll('figure')].every((each) => each.querySelector('.panel svg'))"
        WebDriverWait(self.driver, 60).until(lambda _: self.run(alive))

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*BROWSER, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.add_argument("--window-size=1440,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="session")
def axe(pytestconfig):
    """The source of axe-core, fetched once by npm into the cache of pytest."""
    folder = pytestconfig.cache.mkdir("axe-core")
    archive = folder / f"{AXE.replace('@', '-')}.tgz"
    if not archive.is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is missing, which fetches axe-core")
        try:
            done = subprocess.run([npm, "pack", AXE], cwd=folder, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            pytest.skip("npm got no answer from its registry within 60 s")
        if done.returncode:
            pytest.skip(f"npm could not fetch {AXE}: {done.stderr.strip()[-200:]}")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert digest == AXE_SHA512, f"{archive} is not the release that was asked for"
    with tarfile.open(archive) as content:
        return content.extractfile("package/axe.min.js").read().decode()


# By how much the page is wider than its window, and the elements that reach out of the window or the page's column.
WIDER = """
const width = document.documentElement.clientWidth, wide = [];
for (const element of document.body.querySelectorAll("*")) {
  if (element.closest("svg") && element.tagName !== "svg") continue;
  if (element.closest(".hidden, [hidden], thead")) continue;
  const box = element.getBoundingClientRect();
  const column = element.closest("main, header");
  const right = column ? Math.min(width, column.getBoundingClientRect().right) : width;
  if (box.width && (box.right > right + 1 || box.left < -1)) wide.push(element.outerHTML.slice(0, 90));
}
return [document.documentElement.scrollWidth - width, wide];
"""
# The least contrast of texts with what lies behind them (WCAG 2.2), with the text.
CONTRAST = """
const parse = (colour) => (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const light = ([r, g, b]) => [r, g, b].map((value) => value / 255)
  .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = parse(getComputedStyle(each).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
};
let least = [99, ""];
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || element.closest("svg, script") || !element.getClientRects().length) continue;
  const [one, two] = [parse(getComputedStyle(element).color), behind(element)].map(light).sort((a, b) => b - a);
  const ratio = (one + 0.05) / (two + 0.05);
  if (ratio < least[0]) least = [ratio, element.tagName + ": " + element.textContent.slice(0, 60)];
}
return least;
"""


@pytest.mark.parametrize("name", ["claims", "settings", "ranges", "many", "one"])
@pytest.mark.parametrize(("width", "scheme"), [*product(WIDTHS, SCHEMES)])
def test_nothing_is_wider_than_the_page_or_hard_to_read_and_no_error_is_logged(studies, browser, name, width, scheme):
    browser.open(studies[name], width, scheme)
    browser.unfold()
    if name == "claims":
        browser.enliven()
    assert browser.run(WIDER) == [0, []]
    ratio, text = browser.run(CONTRAST)
    assert ratio >= 4.5, text
    paper = browser.run("return getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 150) == (scheme == "dark")
    assert browser.errors() == []


@pytest.mark.parametrize("width", [700, 1100, 1320])
def test_nothing_is_wider_than_the_page_between(studies, browser, width):
    for name in ("claims", "settings", "ranges"):
        browser.open(studies[name], width)
        browser.unfold()
        assert browser.run(WIDER) == [0, []]


# Words of a table's headings that are broken over two lines.
BROKEN = """
const broken = [];
for (const heading of document.querySelectorAll("table.verdicts thead th:not(.named)")) {
  const walker = document.createTreeWalker(heading, NodeFilter.SHOW_TEXT), range = document.createRange();
  while (walker.nextNode()) {
    for (const word of walker.currentNode.textContent.matchAll(/\\S+/g)) {
      range.setStart(walker.currentNode, word.index);
      range.setEnd(walker.currentNode, word.index + word[0].length);
      if (range.getClientRects().length > 1) broken.push(word[0]);
    }
  }
}
return [document.querySelectorAll("table.verdicts").length > 0, broken];
"""


def test_the_headings_of_a_table_break_between_words(studies, browser):
    for name, width in product(("claims", "settings"), (1440, 1320)):
        browser.open(studies[name], width)
        browser.unfold()
        assert browser.run(BROKEN) == [True, []]


@pytest.mark.parametrize(("width", "scheme"), [*product(WIDTHS, SCHEMES)])
def test_axe_finds_nothing(studies, browser, axe, width, scheme):
    for name in ("claims", "settings"):
        browser.open(studies[name], width, scheme)
        browser.unfold()
        if name == "claims" and scheme == "light":
            browser.enliven()
        browser.run(axe)
        done = "const done = arguments[0]; axe.run(document, {exclude: [['svg']]}).then(done)"
        found = browser.driver.execute_async_script(done)["violations"]
        assert [(rule["id"], [node["html"][:150] for node in rule["nodes"][:3]]) for rule in found] == []


def test_the_first_screen_has_the_answer_and_the_claims(studies, browser):
    browser.open(studies["claims"])
    answer = json.loads((studies["claims"] / "verdicts.json").read_text())["answer"]
    headings = browser.driver.find_elements(By.TAG_NAME, "h1")
    assert [heading.text for heading in headings] == [answer["headline"]]
    grid = browser.driver.find_element(By.CSS_SELECTOR, ".grid")
    assert grid.rect["y"] < 450
    assert len(grid.find_elements(By.CSS_SELECTOR, "a.mark")) == len(
        json.loads((studies["claims"] / "verdicts.json").read_text())["claims"]
    )


def test_a_mark_of_the_grid_opens_its_row(studies, browser):
    browser.open(studies["claims"])
    mark = browser.driver.find_elements(By.CSS_SELECTOR, ".grid a.mark")[-1]
    target = mark.get_attribute("href").partition("#")[2]
    row = browser.driver.find_element(By.ID, target)
    assert not row.is_displayed()
    browser.run("arguments[0].click()", mark)
    assert row.is_displayed() and browser.run("return arguments[0].getBoundingClientRect().top < innerHeight", row)
    assert mark.get_attribute("class").split()[1] in row.text
    browser.open(studies["claims"], fragment=f"#{target}")
    assert browser.driver.find_element(By.ID, target).is_displayed()


def test_tables_sort_by_a_click_and_by_the_keyboard(studies, browser):
    browser.open(studies["claims"])
    cells = "return [...document.querySelectorAll('#arms tbody tr')].map((row) => row.cells[3].textContent)"
    header = browser.driver.find_elements(By.CSS_SELECTOR, "#arms thead th")[3]
    before = browser.run(cells)
    header.find_element(By.TAG_NAME, "button").click()
    value = lambda cell: float(cell.split()[0])  # noqa: E731
    assert browser.run(cells) == sorted(before, key=value) and header.get_attribute("aria-sort") == "ascending"
    header.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert browser.run(cells) == sorted(before, key=value)[::-1] != sorted(before, key=value)
    assert header.get_attribute("aria-sort") == "descending"


def test_the_filter_shows_the_claims_of_a_word_or_verdict(studies, browser):
    browser.open(studies["claims"])
    verdicts = json.loads((studies["claims"] / "verdicts.json").read_text())["claims"]
    shown = (
        "return [...document.querySelectorAll('details.claim tbody tr')].filter((row) => row.checkVisibility()).length"
    )
    box = browser.driver.find_element(By.CSS_SELECTOR, "input[type=search]")
    assert browser.run(shown) == 0
    box.send_keys("supported sigmoid_mean")
    wanted = sum(row["verdict"] == "supported" and row["versus"] == "sigmoid_mean" for row in verdicts)
    assert browser.run(shown) == wanted > 0
    assert browser.driver.find_element(By.CSS_SELECTOR, "[role=status]").text == f"{wanted} of {len(verdicts)} verdicts"
    box.clear()
    box.send_keys("no such word")
    assert browser.run(shown) == 0
    box.clear()
    box.send_keys(" ")
    hidden = "return [...document.querySelectorAll('.linked, .theme')].filter((part) => part.hidden).length"
    assert browser.run(hidden) == 0


def test_all_text_is_printed_and_there_without_scripts(studies, browser):
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(studies["claims"], 794, media="print")
        rows = browser.driver.find_elements(By.CSS_SELECTOR, "details.claim tbody tr")
        assert len(rows) > 10 and all(row.rect["height"] > 10 for row in rows)
        assert not browser.driver.find_elements(By.CSS_SELECTOR, "input, th button")
        assert not browser.driver.find_element(By.TAG_NAME, "nav").is_displayed()
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
