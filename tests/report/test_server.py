"""TensorBoard on a real small study: its HTTP endpoints, and its page in a real browser."""

import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from selenium import webdriver
from selenium.common.exceptions import JavascriptException, TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from headtohead.options import ConfigError
from headtohead.record.events import Events, scalars
from headtohead.report import server
from headtohead.report.dashboard import BOUNDS
from headtohead.report.figures.style import COLOURS
from headtohead.report.server import is_behind, only_local
from headtohead.testing import make_study

CHROMIUM = shutil.which("chromium"), shutil.which("chromedriver")
BROWSER = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1600,1400",
]  # fmt: skip
COMMAND = [sys.executable, "-m", "headtohead"]
STUDY = [
    "name=small", "dataset=iris", "model=linear", "head=softmax,sigmoid", "optimizer.lr=0.03,0.1,0.3",
    "seed=range(3)", "fold=0", "training.epochs=4", "device=cpu", "hydra/launcher=basic",
]  # fmt: skip


class Board:
    """`headtohead board` in a process of its own, as a context."""

    def __init__(self, folder, *options):
        # A shell has what it starts in the background ignore Ctrl-C, and a process hands that on.
        heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([*COMMAND, "board", folder, *options], preexec_fn=heed, **pipes)

    def __enter__(self):
        line = self._process.stdout.readline()
        assert line, self._process.communicate()
        self.address = line.split()[0]
        self.root = self.address.partition("?")[0]
        return self

    def page(self, name):
        return self.address.replace("#custom_scalars", f"#{name}")

    def __exit__(self, *_):
        self._process.send_signal(signal.SIGINT)
        self.rest = self._process.communicate(timeout=60)
        self.status = self._process.returncode

    def get(self, path, **query):
        query = urllib.parse.urlencode(query)
        with urllib.request.urlopen(f"{self.root}data/{path}?{query}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path, body):
        request = urllib.request.Request(
            f"{self.root}data/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def until(self, path, condition, **query):
        """What the endpoint says as soon as it says enough: TensorBoard reads files while it serves."""
        end = time.monotonic() + 60
        while not condition(answer := self.get(path, **query)):
            assert time.monotonic() < end, answer
            time.sleep(0.2)
        return answer


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    done = subprocess.run([*COMMAND, "-m", *STUDY], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / "small"


@pytest.fixture(scope="module")
def arms(study):
    with Board(study) as board:
        yield board
    assert board.status == 0 and board.rest == ("", ""), board.rest


@pytest.fixture(scope="module")
def runs(study):
    with Board(study, "--runs") as board:
        yield board
    assert board.status == 0 and board.rest == ("", ""), board.rest


def confirmed(study, arm):
    table = pd.read_csv(study / "results.csv")
    return table[(table.arm == arm) & (table.phase == "confirm")].run


def test_the_first_page_is_the_layout_with_a_band_per_arm(study, arms):
    assert "#custom_scalars" in arms.address
    layout = arms.until("plugin/custom_scalars/layout", bool)
    charts = {chart["title"]: chart["margin"]["series"] for part in layout["category"] for chart in part["chart"]}
    assert len(charts) == 11, "all but the norm of the backbone, which a linear model lacks"
    tags = arms.until("plugin/scalars/tags", lambda tags: {"softmax", "sigmoid"} <= tags.keys())
    for (series,) in charts.values():
        assert set(series.values()) <= tags["softmax"].keys() & tags["sigmoid"].keys()

    # Charts of a category are listed from last to first.
    (series,) = layout["category"][0]["chart"][-1]["margin"]["series"]
    for arm in ("softmax", "sigmoid"):
        histories = [pd.read_csv(study / "runs" / run / "history.csv") for run in confirmed(study, arm)]
        values = 100 * np.array([history["val/accuracy"].iloc[-1] for history in histories])
        lower, upper = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
        for name, expected in (("value", values.mean()), ("lower", lower), ("upper", upper)):
            points = arms.get("plugin/scalars/scalars", run=arm, tag=series[name])
            assert points[-1][2] == pytest.approx(expected, rel=1e-5)
            steps = [point[1] for point in points]
            assert steps == sorted(set(steps)) == histories[0].dropna(subset="val/accuracy").step.tolist()


def test_distributions_pictures_and_text_are_there(study, arms):
    images = arms.until("plugin/images/tags", bool)["all arms"]
    # In the order of the report.
    ids = re.findall(r'id="figure-(\w+)"', (study / "report.html").read_text())
    assert [re.sub(r"figures/\d+ ", "", tag) for tag in sorted(images)] == ids
    assert {"confusion", "reliability", "ambiguous_examples"} <= {*ids}
    last = max(point[1] for point in arms.get("plugin/scalars/scalars", run="softmax", tag="2 training/loss"))
    for tag in images:
        (image,) = arms.get("plugin/images/images", run="all arms", tag=tag, sample=0)
        assert image["step"] == last
    for arm in ("softmax", "sigmoid"):
        histograms = arms.until("plugin/histograms/tags", lambda tags: {"softmax", "sigmoid"} <= tags.keys())[arm]
        assert histograms.keys() == {f"distribution/{name}" for name in ("logits", "logit_gradient", "gradient")}
        points = arms.get("plugin/histograms/histograms", run=arm, tag="distribution/logits")
        assert 3 <= len(points) == len({point[1] for point in points})
        assert {"all classes", "class/setosa"} <= arms.get("plugin/pr_curves/tags")[arm].keys()
        (curve,) = arms.get("plugin/pr_curves/pr_curves", tag="all classes", run=arm)[arm]
        assert max(curve["recall"]) == 1
    assert "answer and verdicts" in arms.get("plugin/text/tags")["all arms"]
    (page,) = arms.get("plugin/text/text", run="all arms", tag="answer and verdicts")
    assert "<table>" in page["text"]


def test_every_run_has_its_curves_its_hyperparameters_and_its_final_metrics(study, runs):
    table = pd.read_csv(study / "results.csv").set_index("run")
    names = {f"runs/{run}" for run in table.index}
    tags = runs.until("plugin/scalars/tags", lambda tags: names <= tags.keys())
    for run in names:
        assert {"train/loss", "val/accuracy", "grad_norm/logits", "final/val_nll"} <= tags[run].keys()

    described = runs.post("plugin/hparams/experiment", {})
    columns = {info["name"]: info["domainDiscrete"] for info in described["hparamInfos"]}
    assert columns["head.name"] == ["sigmoid", "softmax"] and columns["phase"] == ["confirm", "search"]
    assert columns["head.reduction"] == ["-", "sum"] and columns["seed"] == [0, 1, 2, 3, 4, 5]
    assert columns["optimizer.lr"] == sorted(table.lr.unique())
    request = {
        "startIndex": 0,
        "sliceSize": 1000,
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": info["name"]} for info in described["metricInfos"]],
    }
    groups = runs.post("plugin/hparams/session_groups", request)["sessionGroups"]
    assert {group["name"] for group in groups} == names
    for group in groups:
        assert group["hparams"].keys() == columns.keys(), "a column is missing"
        row = table.loc[group["name"].removeprefix("runs/")]
        assert (group["hparams"]["arm"], group["hparams"]["optimizer.lr"]) == (row.arm, row.lr)
        metrics = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        measured = [name for name in ("val_accuracy", "test_nll") if not np.isnan(row[name])]
        assert len(measured) == 1 + (row.phase == "confirm")
        for name in measured:
            assert metrics[f"final/{name}"] == pytest.approx(row[name], rel=1e-5)


# The titles of the first group of charts, and of each chart the title with the colours of what it draws, lines and
# bands, from more than two points.
CHARTS = """
const board = document.querySelector('tf-custom-scalar-dashboard').shadowRoot;
const group = board.querySelector('tf-category-paginated-view').shadowRoot.querySelector('.heading').innerText;
return [group, [...board.querySelectorAll('tf-custom-scalar-margin-chart-card')].map(card => {
    const loader = card.shadowRoot.querySelector('tf-line-chart-data-loader');
    const chart = loader.shadowRoot.querySelector('vz-line-chart2').shadowRoot;
    const of = (kind, colour) => [...chart.querySelectorAll(`path.${kind}`)]
        .filter(path => (path.getAttribute('d') || '').split(/[LCZ]/).length > 3)
        .map(path => path.getAttribute(colour)).filter(colour => colour && colour != 'none');
    const name = card.shadowRoot.querySelector('tf-card-heading').shadowRoot;
    const title = name.querySelector('#heading, .heading-label');
    return [title.innerText.trim(), of('line', 'stroke'), of('area', 'fill')];
})];
"""
# The runs of Time Series with their colours, its groups of tags with the number of open charts, the titles of charts,
# and the smoothing.
SERIES = """
const rows = [...document.querySelectorAll('tb-data-table-content-row[data-id]')].map(row => [
    row.dataset.id.split('/').slice(1).join('/'), row.querySelector('.run-color-swatch, button').style.backgroundColor
]);
const groups = [...document.querySelectorAll('metrics-card-group-toolbar')].map(bar => [
    bar.innerText.split('\\n')[0].replace(/ *\\d+ cards?$/, ''), bar.parentElement.querySelectorAll('card-view').length
]);
const cards = [...document.querySelectorAll('scalar-card-component')].map(card => card.innerText.replaceAll('\\n', ''));
const smoothing = document.querySelector('.scalars-smoothing input[type=number]').value;
return [rows, groups, cards, smoothing];
"""
IMAGES = """
const board = document.querySelector('tf-image-dashboard').shadowRoot;
return [...board.querySelectorAll('tf-image-loader')].map(image => image.tag);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if None in CHROMIUM:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM[0]
    for argument in (*BROWSER, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    with webdriver.Chrome(options, Service(CHROMIUM[1])) as browser:
        yield browser


def shown(browser, address, script, condition):
    """What a script returns of a page as soon as it meets a condition."""
    browser.get("about:blank")
    browser.get(address)
    answers = []

    def met(_):
        answers.append(browser.execute_script(script))
        return condition(answers[-1])

    try:
        WebDriverWait(browser, 60, ignored_exceptions=[JavascriptException]).until(met)
    except TimeoutException:
        pytest.fail(f"{address}: {answers[-1:]}")
    return answers[-1]


def rgb(colour):
    return [int(number) for number in re.findall(r"\d+", colour)] if "rgb" in colour else [*bytes.fromhex(colour[1:])]


def drawn(answer):
    """The charts that have a line and a band for each of two arms; those far below the window wait for a scroll."""
    return [chart for chart in answer[1] if len(set(chart[1])) == len(set(chart[2])) == 2]


def check_first_page(study, group, charts):
    answer = json.loads((study / "verdicts.json").read_text())["answer"]
    assert group.splitlines()[0] == answer["headline"]
    titles = [title for title, _, _ in charts]
    assert titles[0].startswith("validation accuracy, %. ") and answer["sentences"][0] in titles[0]
    assert "validation accuracy less softmax's, points" in titles
    # Of two arms softmax is the first.
    ours = [rgb(colour) for colour in COLOURS[:2]]
    for _, lines, bands in charts:
        for colours in (lines, bands):
            assert sorted(map(rgb, set(colours))) == sorted(ours)


def test_a_browser_shows_the_answer_above_a_line_and_a_band_per_arm(study, arms, browser):
    group, _ = answer = shown(browser, arms.address, CHARTS, lambda answer: len(drawn(answer)) >= 4)
    check_first_page(study, group, drawn(answer))


def test_with_all_runs_the_first_page_is_the_same(study, tmp_path, browser):
    """TensorBoard chooses no run where there are more than 40."""
    many = shutil.copytree(study, tmp_path / "many")
    for place in range(40):
        with Events(many / "runs" / f"another {place}") as file:
            file.add(0, scalars({"train/loss": 1.0}))
    with Board(many, "--runs") as board:
        board.until("plugin/scalars/tags", lambda tags: "arms/softmax" in tags and len(tags) > 40)
        group, _ = answer = shown(browser, board.address, CHARTS, lambda answer: len(drawn(answer)) >= 4)
        assert board.get("runs")[:3] == ["arms/all arms", "arms/softmax", "arms/sigmoid"]
        check_first_page(study, group, drawn(answer))


def test_time_series_has_the_colours_of_the_report_and_the_bounds_below(arms, browser):
    rows, groups, cards, smoothing = shown(
        browser, arms.page("timeseries"), SERIES, lambda answer: len(answer[0]) == 3 and len(answer[2]) >= 4
    )
    assert {name: rgb(colour) for name, colour in rows if name != "all arms"} == {
        "softmax": rgb(COLOURS[0]), "sigmoid": rgb(COLOURS[1])
    }  # fmt: skip
    assert float(smoothing) == 0
    names = [name for name, _ in groups]
    assert names[:4] == ["1 ahead", "2 training", "3 gradients", "4 ambiguity"] and names[-1] == BOUNDS
    assert dict(groups)["1 ahead"] and not dict(groups)[BOUNDS]
    assert cards[0].startswith("1 ahead/accuracy, %") and cards[1].startswith("1 ahead/accuracy, lead in points")


def test_images_have_the_order_of_the_report(study, arms, browser):
    ids = re.findall(r'id="figure-(\w+)"', (study / "report.html").read_text())
    tags = shown(browser, arms.page("images"), IMAGES, lambda tags: len(tags) == len(ids))
    assert [tag.partition(" ")[2] for tag in tags] == ids


def test_a_study_stopped_before_its_page_gets_one(tmp_path):
    study = make_study(tmp_path / "s", seeds=2)
    with Board(study) as board:
        board.until("plugin/scalars/tags", lambda tags: {"softmax", "sigmoid"} <= tags.keys())


def test_a_taken_port_gives_way_unless_it_was_asked_for(study, arms):
    taken = re.search(r":(\d+)/", arms.address)[1]
    with Board(study) as second:
        port = re.search(r":(\d+)/", second.address)[1]
        assert port != taken
        assert not reachable(int(port)), "others can reach the page"
    refused = refusal(study, "--port", taken)
    assert f"port {taken}" in refused and "--port" in refused


def reachable(port):
    """Return whether the port is open on an address of this machine that is not its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation: nothing is sent
        except OSError:
            return False
        own = probe.getsockname()[0]
    with socket.socket() as knock:
        knock.settimeout(2)
        return knock.connect_ex((own, port)) == 0


def refusal(folder, *options):
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [*COMMAND, "board", folder, *options], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not done.stdout, done.stderr
    return done.stderr


def test_what_has_nothing_to_show_is_refused_in_a_line(tmp_path):
    assert "no study.json" in refusal(tmp_path)
    assert "no study.json" in refusal(tmp_path / "absent")
    study = make_study(tmp_path / "s", seeds=2)
    shutil.rmtree(study / "runs")
    (study / "results.csv").unlink()
    assert "no run has ended yet" in refusal(study)
    assert "no run has begun yet" in refusal(study, "--runs")


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("localhost", True),
        ("LOCALHOST:6006", True),
        ("127.0.0.1:1", True),
        ("[::1]:6006", True),
        ("[::1]", True),
        ("evil.example", False),
        ("evil.example:6006", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost, evil.example", False),
        ("localhost:6006@evil.example", False),
        ("0.0.0.0:6006", False),
        ("[::]", False),
        ("::1", False),
        ("", False),
    ],
)
def test_only_requests_for_this_machine_are_answered(host, answered):
    started = []
    app = only_local(lambda environ, start_response: start_response("200 OK", []) or [b"secret"])
    body = b"".join(app({"HTTP_HOST": host} if host else {}, lambda status, headers: started.append(status)))
    assert started == (["200 OK"] if answered else ["403 Forbidden"]) and (b"secret" in body) == answered


def test_the_board_refuses_a_name_that_was_turned_to_this_machine(arms):
    port = int(re.search(r":(\d+)/", arms.address)[1])
    statuses = {}
    for host in (f"localhost:{port}", f"evil.example:{port}"):
        connection = http.client.HTTPConnection("localhost", port, timeout=60)
        connection.request("GET", "/data/environment", headers={"Host": host})
        statuses[host.partition(":")[0]] = connection.getresponse().status
        connection.close()
    assert statuses == {"localhost": 200, "evil.example": 403}


@pytest.mark.parametrize(
    ("limits", "raised"),
    [((64, 4096), (163, 4096)), ((64, -1), (163, -1)), ((1024, 1024), None), ((-1, -1), None), ((163, 200), None)],
)
def test_the_limit_of_open_files_is_raised_to_what_the_event_files_need(tmp_path, monkeypatch, limits, raised):
    assert resource.RLIM_INFINITY == -1
    made = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: made.append(new))
    server.allow_files(35, tmp_path)
    assert made == ([raised] if raised else [])


def test_more_event_files_than_a_process_may_open_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 100))
    with pytest.raises(ConfigError, match=r"35 event files: .*ulimit -Hn=100, or the arms alone, without --runs"):
        server.allow_files(35, tmp_path)


def test_a_page_is_behind_a_report_that_was_written_later(tmp_path):
    (tmp_path / "arms" / "softmax").mkdir(parents=True)
    page, verdicts = tmp_path / "arms" / "softmax" / "events.out.tfevents.1", tmp_path / "verdicts.json"
    page.touch()
    assert not is_behind(tmp_path)
    verdicts.touch()
    for written, behind in ((90, False), (110, True)):
        os.utime(page, (100, 100))
        os.utime(verdicts, (written, written))
        assert is_behind(tmp_path) == behind
