"""The report: what its page says, its figures as files, and the page in a real browser."""

import contextlib
import html
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedray.cli.command_line import report_errors
from fedray.report import sections
from fedray.report.__main__ import main
from fedray.report.answer import columns
from fedray.report.curve_figures import thinned, window
from fedray.report.facts import banners, summary
from fedray.report.given import folder_of
from fedray.report.header import read_header
from fedray.report.look import PAGE, PAPER, Look
from fedray.report.sections import all_sections
from fedray.report.study import Study, make_study
from fedray.results import SCHEMAS, best, confusion, load, per_class


@pytest.fixture(scope="module")
def written(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A copy of which a report has been written, with figures; the paths that it printed."""
    copy = Path(shutil.copytree(made, tmp_path_factory.mktemp("written") / "results" / "rates"))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert report(copy, "--figures", "svg", "--latex") == 0
    return copy, [Path(line) for line in printed.getvalue().splitlines()]


@pytest.fixture(scope="module")
def page(written: tuple[Path, list[Path]]) -> str:
    return (written[0] / "report.html").read_text()


def report(*argv: object) -> int:
    return report_errors(lambda: main([str(word) for word in argv]))


def study_of(results: Path, target: float | None = None) -> Study:
    return make_study(results.name, load(results.name, results.parent), target)


def text_of(page: str) -> str:
    """What a reader sees of a page, in a line."""
    body = re.sub(r"(?s)<(script|style).*?</\1>", " ", page)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def charts_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return dict(json.loads(found[1])["charts"])


def figure_names(study: Study) -> set[str]:
    return {figure.name for section in all_sections(study) for figure in section.figures}


def change(results: Path, *runs: str, table: str = "runs", **columns: object) -> None:
    """Write other values into all rows of a table of these runs, or of all."""
    for path in (results / table).glob("*.parquet"):
        if runs and path.stem not in runs:
            continue
        found = pq.read_table(path)
        for name, value in columns.items():
            place = found.schema.get_field_index(name)
            field = found.schema.field(name)
            found = found.set_column(place, field, pa.array([value] * len(found), field.type))
        pq.write_table(found, path)


# What the page says


def test_the_question_comes_first_then_the_authors_answer_then_the_table(page: str) -> None:
    text = text_of(page[page.index("<body>") :])
    said = (
        "Which client rate is best, and is <FedProx> any better?",
        "Synthetic data.",
        "The larger one, and no: the lines of both lie on one another. fedavg 12 % fedprox 12 % Commit 123abc",
        "Answer",
        "Round by round",
        "Settings",
        "Runs",
    )
    assert sorted(said, key=text.index) == list(said)
    assert "A comment that is not of the header" not in text


def test_a_header_is_a_question_paragraphs_and_lines_as_they_are(tmp_path: Path) -> None:
    assert read_header(tmp_path).question == tmp_path.name
    text = "#\n# Why?\n# Because of\n# this:\n#     a   1\n#     b  22\n#\n# End.\n[data]\n# no\n"
    (tmp_path / "experiment.toml").write_text(text)
    header = read_header(tmp_path)
    assert header.question == "Why?"
    assert [(block.text, block.verbatim) for block in header.answer] == [
        ("Because of this:", False),
        ("a   1\nb  22", True),
        ("End.", False),
    ]


def test_the_answer_table_is_what_pandas_says_best_first(made: Path, page: str) -> None:
    finals = load("rates", made.parent).runs.groupby(["algorithm", "lr"])["final_test_accuracy"].agg(["mean", "std"])
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page[page.index("<tbody>") : page.index("</tbody>")], re.DOTALL)
    cells = [[text_of(cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)] for row in rows]
    assert len(cells) == 4
    for name, lr, runs, final, *_ in cells:
        mean, std = finals.loc[(name.split()[0], float(lr))]
        assert (runs, final) == ("2", f"{100 * mean:.1f} ± {100 * std:.1f}")
    means = [float(row[3].split()[0]) for row in cells]
    assert means == sorted(means, reverse=True)
    assert [name.endswith("best") for name, *_ in cells] == [True, False, False, False]


def test_the_page_and_the_helper_choose_the_same_configuration(made: Path) -> None:
    loaded, study = load("rates", made.parent), study_of(made)
    first, chosen = study.configurations.iloc[0], best(loaded).iloc[0]
    assert first["final_test_accuracy_mean"] == pytest.approx(chosen["mean"])
    assert first["lr"] == chosen["lr"]
    assert study.axes == ("algorithm", "lr")  # not fedprox's only mu, which its name explains
    pd.testing.assert_frame_equal(study.as_loaded.runs, loaded.runs)


def test_the_target_is_the_users_or_nine_tenths_of_the_best(made: Path, page: str) -> None:
    highest = load("rates", made.parent).runs.groupby(["algorithm", "lr"])["best_test_accuracy"].mean().max()
    assert f"to {int(90 * highest)} % test accuracy" in text_of(page)
    unreached = [each for each in columns(study_of(made, 0.999)) if each.group == "to 99.9 % test accuracy"]
    assert [(each.heading, set(each.cells)) for each in unreached] == [
        ("rounds", {"never"}),
        ("time", {"never"}),
        ("sent", {"never"}),
    ]


def test_synthetic_and_jpeg_data_are_said_loudly(results: Path, page: str) -> None:
    assert re.search(r'<p class="banner".*?>\s*<strong>Synthetic data\.', page)
    change(results, dataset="cifar10", data_format="jpeg")
    study = study_of(results)
    ((headline, sentence),) = banners(study.results)
    assert headline == "JPEG images" and "quote them as cifar10 (jpeg)" in sentence
    assert "cifar10 (jpeg)" in summary(study)
    change(results, study.results.runs["run"][0], data_format="generated")
    assert [headline for headline, _ in banners(study_of(results).results)] == ["Synthetic data", "JPEG images"]
    change(results, dataset="parquet", data_format="jpeg")  # a folder of one's own, which never was anything else
    assert banners(study_of(results).results) == []
    change(results, data_format="pickle")
    assert banners(study_of(results).results) == []
    rounds = study.results.rounds.assign(lost=0, non_finite=0)
    rounds.loc[0, ["lost", "non_finite"]] = 2, 1
    ((headline, sentence),) = banners(replace(study_of(results).results, rounds=rounds))
    asked = f"of {rounds['cohort_size'].sum():,} updates were"
    assert headline == "Updates left out"
    assert sentence.startswith(f"2 {asked} lost with their processes")
    assert f"and 1 {asked} not finite." in sentence


def test_what_went_wrong_is_named_with_the_reason_and_is_never_best(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = study_of(results)
    first, second, third = before.results.runs.sort_values(["series", "seed"])["run"][:3]
    change(results, first, status="diverged", error="the loss of round 2 is not a number")
    change(results, second, status="failed", error="client 3: </script><b>boom</b>")
    change(results, third, status="halved")
    damaged = results / "clients" / f"{third}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    assert report(results) == 0
    page = (results / "report.html").read_text()
    text, winner = text_of(page), before.labels["s00"]
    assert f"diverged {winner} {first} : the loss of round 2 is not a number" in text
    assert f"failed {winner} {second} : client 3: </script><b>boom</b>" in text
    assert f"{third} : stopped in the worse half after 3 of 3 rounds" in text
    assert "<b>boom" not in page
    assert damaged.name in text and damaged.name in capsys.readouterr().err
    rows = re.findall(r"<tr( class=.*?)?>\s*<td>", page)
    assert rows[:4] == [' class="best"', "", ' class="incomplete"', ' class="incomplete"']
    assert {"0 of 2", "1 of 2"} <= set(re.findall(r"\d of 2", text))


def test_one_run_has_no_spread_no_legend_and_no_best(results: Path) -> None:
    for path in sorted((results / "runs").glob("*.parquet"))[1:]:
        path.unlink()
    (results / "experiment.toml").unlink()
    assert report(results) == 0
    page = (results / "report.html").read_text()
    assert "<h1>rates</h1>" in page
    assert "±" not in text_of(page) and "interval" not in text_of(page)
    assert "<aside" not in page and 'class="badge"' not in page
    curve = charts_of(page)["test-accuracy-over-rounds"]["vega"]["data"]
    (rows,) = [each["values"] for each in curve if each["name"] == "rows"]
    assert [(row["x"], row["low"]) for row in rows] == [(1, None), (2, None), (3, None)]


def test_of_runs_that_shared_the_cores_the_time_is_the_cpus(results: Path, page: str) -> None:
    """A sweep in one process plays one run after another; here each round ended at the same time."""
    assert "CPU" not in text_of(page).replace("CPU capability", "")
    title = lambda page: charts_of(page)["test-accuracy-over-seconds"]["over"]  # noqa: E731
    assert title(page) == "seconds"
    change(results, table="rounds", finished_at=datetime(2026, 11, 27, tzinfo=UTC), cpu_seconds=0.25, seconds=0.5)
    study = study_of(results)
    assert study.configurations["seconds_mean"].tolist() == [0.75] * 4
    assert report(results) == 0
    page = (results / "report.html").read_text()
    assert "shared the cores. So the time here, and in the table, is the CPU time of the clients' training." in text_of(
        page
    )
    assert title(page) == "CPU seconds of training"
    assert "CPU time of all runs" in text_of(page) and text_of(page).count("CPU time") >= 4
    (x,) = {row["x"] for row in rows_of(study, "test-accuracy-over-seconds") if row["x"] > 0.7}
    assert x == pytest.approx(0.75)
    change(results, table="rounds", cpu_seconds=None)
    assert study_of(results).clock == "time"
    assert report(results) == 0
    assert "Their seconds say little of what each would take alone." in text_of((results / "report.html").read_text())


CURVES = {f"{name}-over-rounds" for name in ("test-accuracy", "test-loss", "train-loss", "client-accuracy")}
COSTS = {"test-accuracy-over-seconds", "test-accuracy-over-bytes"}
OTHERS = {"settings", "partition-1", "partition-2", "time"}
OF_THE_MODEL = {"classes"}
CLIENTS = {"client-accuracy", "client-loss", "client-examples", "client-seconds"}


def test_every_part_of_the_results_has_its_figure(page: str) -> None:
    assert charts_of(page).keys() == CURVES | COSTS | OTHERS | OF_THE_MODEL | CLIENTS


def test_where_no_model_is_common_the_clients_accuracy_is_compared(results: Path) -> None:
    """As for local and fedper, whose test accuracy is null."""
    change(results, final_test_accuracy=None, best_test_accuracy=None)
    change(results, table="rounds", test_accuracy=None, test_loss=None)
    for path in (results / "confusion").iterdir():
        pq.write_table(pq.read_table(path)[:0], path)
    study = study_of(results)
    assert study.measure == study.chosen_by == "client_accuracy"
    clients = {f"client-accuracy-over-{cost}" for cost in ("rounds", "seconds", "bytes")}
    assert figure_names(study) == clients | {"train-loss-over-rounds"} | OTHERS | CLIENTS


def rows_of(study: Study, name: str) -> list[dict[str, Any]]:
    (figure,) = [each for section in all_sections(study) for each in section.figures if each.name == name]
    return figure.rows


def test_the_accuracy_of_each_configuration_on_each_class(results: Path) -> None:
    """As per_class says, the mean over the good runs."""
    loaded = load("rates", results.parent)
    failed = loaded.runs["run"][0]
    change(results, failed, status="failed")
    good = per_class(loaded)[lambda classes: classes["run"] != failed].dropna(subset="recall")
    expected = good.groupby(["algorithm", "lr", "label_name"])["recall"].mean()
    rows = rows_of(study_of(results), "classes")
    assert len(rows) == len(expected) == 4 * 10
    for row in rows:
        algorithm, lr = row["y"].split(", lr ")
        assert row["share"] == pytest.approx(expected[algorithm, float(lr), row["x"]], rel=1e-4)


def test_of_one_configuration_it_is_said_what_is_taken_for_what(results: Path) -> None:
    """Of both seeds together: 200 images."""
    runs = load("rates", results.parent).runs
    others = (runs["algorithm"] == "fedprox") | (runs["lr"] == 0.02)
    for run in runs["run"][others]:
        (results / "runs" / f"{run}.parquet").unlink()
    counts = sum(confusion(load("rates", results.parent), run).to_numpy() for run in runs["run"][~others])
    rows = rows_of(study_of(results), "classes")
    assert len(rows) == 100
    assert [int(row["value"].split(" examples")[0]) for row in rows] == list(np.ravel(counts))
    assert [row["share"] for row in rows] == pytest.approx(
        np.ravel(counts / counts.sum(axis=1, keepdims=True)), rel=1e-4
    )
    assert np.sum(counts) == 200


def test_the_validation_accuracy_decides_where_there_is_one(results: Path) -> None:
    runs = load("rates", results.parent).runs
    for run, accuracy in zip(runs["run"], runs["final_test_accuracy"], strict=True):
        change(results, run, final_validation_accuracy=1 - accuracy)
    study = study_of(results)
    assert (study.measure, study.chosen_by) == ("test_accuracy", "validation_accuracy")
    assert study.configurations["final_test_accuracy_mean"].is_monotonic_increasing


# Figures


def test_figures_are_valid_files_and_their_paths_are_printed(written: tuple[Path, list[Path]], page: str) -> None:
    results, printed = written
    assert printed[0] == results / "report.html"
    names = {f"{name}.{suffix}" for name in charts_of(page) for suffix in ("svg",)} | {"answer.tex"}
    assert {path.name for path in printed[1:]} == names
    assert sorted(printed[1:]) == sorted((results / "figures").iterdir())
    for path in printed[1:]:
        if path.suffix == ".svg":
            drawn = ElementTree.fromstring(path.read_text())
            assert drawn.tag.endswith("}svg")
            assert len(list(drawn.iter("{http://www.w3.org/2000/svg}path"))) > 3
            assert "var(--" not in path.read_text()
            assert float(drawn.attrib["width"]) <= 451  # as wide as an A4 page's text
    assert "fedprox" in (results / "figures" / "test-loss-over-rounds.svg").read_text()  # its own legend


def test_figures_come_in_other_forms_too(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two figures, because each takes a third of a second."""
    few = lambda study: [replace(section, figures=section.figures[:2]) for section in all_sections(study)[:1]]  # noqa: E731
    monkeypatch.setattr(sections, "all_sections", few)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert report(results, "--figures", "pdf,png") == 0
    page, *printed = map(Path, said.getvalue().splitlines())
    assert page == results / "report.html"
    assert sorted(printed) == sorted((results / "figures").iterdir())
    assert sorted(path.suffix for path in printed) == [".pdf", ".pdf", ".png", ".png"]
    for path in printed:
        if path.suffix == ".png":
            signature, width, height = struct.unpack(">8s8xII", path.read_bytes()[:24])
            assert signature == b"\x89PNG\r\n\x1a\n" and 1800 < width < 1900 and height > 300
        else:
            assert path.read_bytes().startswith(b"%PDF-")
            fonts = re.findall(rb"/BaseFont\s*/([\w+-]+)", path.read_bytes())
            assert fonts and all(re.match(rb"[A-Z]{6}\+", font) for font in fonts)  # parts of fonts, which are inside
            assert path.read_bytes().count(b"/FontFile") >= 1


def test_a_report_beside_the_tables_does_not_harm_their_readers(written: tuple[Path, list[Path]], made: Path) -> None:
    results, _ = written
    for table in SCHEMAS:
        pd.testing.assert_frame_equal(pd.read_parquet(results / table), pd.read_parquet(made / table))


@pytest.mark.parametrize("look", [PAGE, PAPER])
def test_sixty_curves_differ_in_colour_or_dashes(look: Look) -> None:
    assert len({(look.colour(number), tuple(look.dash(number))) for number in range(60)}) == 60


def test_without_colours_nine_curves_differ_on_paper(written: tuple[Path, list[Path]]) -> None:
    assert len({tuple(PAPER.dash(number)) for number in range(9)}) == 9
    drawn = ElementTree.parse(written[0] / "figures" / "test-loss-over-rounds.svg")
    lines = [each for each in drawn.iter() if "mark-line" in each.attrib.get("class", "")]
    assert len({each.attrib.get("stroke-dasharray") for line in lines for each in line}) == 4


def test_a_long_curve_is_thinned_out_and_keeps_its_ends() -> None:
    points = pd.DataFrame({"series": ["a"] * 3000 + ["b"] * 10, "x": [*range(3000), *range(10)], "y": 0.0})
    kept = thinned(points, 2).groupby("series")["x"].agg(["min", "max", "size"])
    assert kept.loc["b"].tolist() == [0, 9, 10]
    assert kept.loc["a", ["min", "max"]].tolist() == [0, 2999]
    assert 480 <= kept.loc["a", "size"] <= 500


def test_a_loss_that_blew_up_does_not_hide_the_others() -> None:
    calm = pd.DataFrame({"series": ["a", "a", "b", "b"], "y": [2.3, 1.0, 2.4, 1.2], "high": [2.5, 1.1, 2.6, 1.3]})
    assert window(calm) is None
    wild = pd.concat([calm, pd.DataFrame({"series": ["c", "c"], "y": [2.3, 1e9], "high": [2.4, 2e9]})])
    lowest, top = window(wild) or (0.0, 0.0)
    assert 0.8 < lowest < 1.0 and 2.4 <= top < 2.6


# What the user gives


def test_a_name_and_a_path_are_the_same_results(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results.parents[1])
    for given in ("rates", "results/rates", "results/rates/", str(results)):
        assert folder_of(given).resolve() == results
    monkeypatch.chdir(results.parent)
    assert folder_of("rates").resolve() == results


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["results/rate"], "/results; the nearest name is 'rates'"),
        (["rats"], "there are no results 'rats' in "),
        (["results/empty"], "results/empty has no run to report on"),
        (
            ["rates", "--output", "nowhere/page.html"],
            "cannot be written to nowhere/page.html: No such file or directory",
        ),
        (["rates", "--output", "results"], "cannot be written to results: it is a folder"),
        (["rates", "--output", "/proc/page.html"], "cannot be written to /proc/page.html: "),
        (
            ["rates", "--output", "page.pdf"],
            "--output page.pdf must end in .html; --figures pdf writes its figures as PDF",
        ),
        (["rates", "--figures", "pdf,gif"], "--figures gif is none of the forms svg, pdf, png"),
        (["rates", "--figures", "pfd"], "--figures pfd is none of the forms svg, pdf, png; did you mean pdf?"),
        (["rates", "--figures="], "--figures needs forms, some of svg,pdf,png"),
        (["rates", "rats"], "there are no results 'rats' in {here}/results; the nearest name is 'rates'"),
        (["rates", "empty"], "results/empty has no run to report on"),
        (["rates", "--label", "lr=0.01"], "--label 'lr=0.01' must be settings, a colon, a blank and a name"),
        (["rates", "--label", "lr: small"], "--label 'lr: small' must be settings, a colon, a blank and a name"),
        (["rates", "--label", "l=0.01: small"], "there is no setting 'l'; the nearest is 'lr'"),
        (["rates", "--label", "lr=1: large"], "--label 'lr=1: large' fits no run: lr is 0.01 and 0.02"),
        (["rates", "--label", "seed=1: a"], "--label 'seed=1: a' fits some runs of a configuration and not others"),
        (["rates", "--label", "lr=0.01: a", "--label", "lr=0.02: a"], "two configurations would be called 'a, fed"),
        (["rates", "--target", "50"], "--target 50 must be a number above 0 and at most 1"),
        (["rates", "--target", "high"], "--target high must be a number"),
        (["rates", "--figure"], "unrecognized arguments: --figure"),
        (["--latex"], "the following arguments are required: results/NAME"),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str
) -> None:
    monkeypatch.chdir(results.parents[1])
    (results.parent / "empty").mkdir()
    before = sorted(results.parents[1].rglob("*"))
    assert report(*argv) == 2
    error = capsys.readouterr().err
    assert sentence.replace("{here}", str(results.parents[1])) in error and error.count("\n") == 1
    assert sorted(results.parents[1].rglob("*")) == before


def test_only_the_report_imports_altair() -> None:
    code = "import fedray.report, fedray.results, fedray.sweep, sys; print({'altair', 'jinja2'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# In a browser

ARGUMENTS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,900"
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*ARGUMENTS.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def wait_until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline, "the page did not get there"
        time.sleep(0.02)


def set_width(browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def set_scheme(browser: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def lines(browser: Any, chart: str) -> list[str]:
    """The colours of the lines in a chart, as the browser computes them."""
    script = f"""return [...document.querySelectorAll("#{chart} g.mark-line path")]
        .map((path) => getComputedStyle(path).stroke)"""
    return list(browser.execute_script(script))


def test_the_page_in_a_browser(written: tuple[Path, list[Path]], browser: Any) -> None:
    """One browser for all of it, because starting one takes seconds."""
    results, _ = written
    browser.get("about:blank")
    browser.get_log("performance")  # of the page that a browser opens with
    set_width(browser, 1400)
    set_scheme(browser, "light")
    address = (results / "report.html").as_uri()
    browser.get(address)
    wait_until(lambda: browser.execute_script("return document.documentElement.dataset.ready"))

    # No request leaves the page, and nothing is complained of.
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} == {address}
    assert browser.get_log("browser") == []

    # Every chart has been drawn.
    charts = [element.get_attribute("id") for element in browser.find_elements("css selector", ".chart")]
    marks = "return document.querySelectorAll(`#${arguments[0]} svg [class*=role-mark] > *`).length"
    assert [name for name in charts if browser.execute_script(marks, name) < 2] == []

    # The nearest point says its value, and a bar says its own.
    from selenium.webdriver.common.action_chains import ActionChains

    curve = browser.find_element("id", "test-accuracy-over-rounds")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", curve)
    ActionChains(browser).move_to_element(curve).perform()
    tooltip = browser.find_element("id", "tooltip")
    wait_until(tooltip.is_displayed)
    found = load("rates", results.parent).rounds
    middle = found[(found["round"] == 2) & (found["algorithm"] == "fedprox") & (found["lr"] == 0.01)]["test_accuracy"]
    assert "round 2" in tooltip.text
    assert f"fedprox, lr 0.01 {100 * middle.mean():.1f} %" in tooltip.text
    bar = browser.find_element("css selector", "#time .mark-rect path")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", bar)
    ActionChains(browser).move_to_element(bar).perform()
    wait_until(lambda: "train" in tooltip.text)
    assert re.search(r"time [\d.]+ s, [\d.]+%", tooltip.text)

    # A series that is unticked, with the keyboard, goes from every chart, and comes back.
    followers = ("test-accuracy-over-rounds", "test-loss-over-rounds", "test-accuracy-over-bytes")
    before = {chart: lines(browser, chart) for chart in followers}
    assert all(len(set(colours)) == 4 for colours in before.values())
    box = browser.find_element("css selector", 'aside input[value="s01"]')
    box.send_keys(" ")
    wait_until(lambda: len(lines(browser, followers[-1])) == 3)
    gone = before[followers[0]][1]
    for chart in followers:
        assert sorted(lines(browser, chart)) == sorted(colour for colour in before[chart] if colour != gone)
    assert "3 of 4 on" in browser.find_element("id", "legend").text
    browser.find_element("id", "none").click()
    wait_until(lambda: "0 of 4 on" in browser.find_element("id", "legend").text)
    assert browser.find_element("css selector", "#time + .empty").is_displayed()
    assert not browser.find_element("id", "time").is_displayed()
    browser.find_element("id", "all").click()
    wait_until(lambda: len(lines(browser, followers[0])) == 4)
    assert lines(browser, followers[0]) == before[followers[0]]

    # The scheme is the system's, by CSS alone.
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(ground)
    set_scheme(browser, "dark")
    assert browser.execute_script(ground) != light
    assert set(lines(browser, followers[0])).isdisjoint(before[followers[0]])

    # A telephone scrolls down only.
    set_width(browser, 400)
    browser.refresh()
    wait_until(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [400, 400]
    wide = """return [...document.querySelectorAll(".chart svg")].filter((svg) =>
        svg.getBoundingClientRect().right > svg.parentNode.getBoundingClientRect().right + 1).length"""
    assert browser.execute_script(wide) == 0
    assert browser.get_log("browser") == []
