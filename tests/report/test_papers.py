"""What a report gives papers: names of one's own, bands, tables in LaTeX, several results on one page."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fedray.cli.command_line import report_errors
from fedray.report import curve_figures
from fedray.report.__main__ import main, of_folder, read
from fedray.report.answer import columns
from fedray.report.curve_figures import curve_figure, explain_bands
from fedray.report.given import folders_of, page_of, with_forms
from fedray.report.labels import labelled, read_label
from fedray.report.latex import escaped, latex
from fedray.report.study import Study, make_study
from fedray.results import load


def report(*argv: object) -> int:
    return report_errors(lambda: main([str(word) for word in argv]))


@pytest.fixture(scope="module")
def study(made: Path) -> Study:
    return make_study("rates", load("rates", made.parent))


def named(study: Study, *given: str) -> dict[str, str]:
    """The names of the configurations, by algorithm and rate."""
    table = labelled(study, [read_label(each) for each in given]).configurations
    return {f"{row['algorithm']} {row['lr']:g}": row["label"] for row in table.to_dict("records")}


# Names


def test_a_label_names_the_configurations_that_it_fits(study: Study) -> None:
    assert named(study, "algorithm=fedavg, lr=0.01: the base: slow") == {
        "fedavg 0.01": "the base: slow",
        "fedavg 0.02": "fedavg, lr 0.02",
        "fedprox 0.01": "fedprox, lr 0.01",
        "fedprox 0.02": "fedprox, lr 0.02",
    }


def test_what_a_label_does_not_tell_apart_its_settings_do_and_the_last_label_counts(study: Study) -> None:
    assert named(study, "algorithm.name=fedprox: Li et al.", "algorithm.lr=2e-2,algorithm=fedprox: ours") == {
        "fedavg 0.01": "fedavg, lr 0.01",
        "fedavg 0.02": "fedavg, lr 0.02",
        "fedprox 0.01": "Li et al.",
        "fedprox 0.02": "ours",
    }
    assert set(named(study, "algorithm=fedprox: ours").values()) == {
        *("ours, lr 0.01", "ours, lr 0.02", "fedavg, lr 0.01", "fedavg, lr 0.02"),
    }
    assert set(named(study, "algorithm.mu=0.01: with mu", "algorithm.mu=none: without").values()) == {
        *("with mu, lr 0.01", "with mu, lr 0.02", "without, lr 0.01", "without, lr 0.02"),
    }


def test_labels_are_in_the_figures(study: Study) -> None:
    given = labelled(study, [read_label("algorithm=fedavg: McMahan")])
    figure = curve_figure(given, "test_accuracy", "round")
    assert figure and "McMahan, lr 0.02" in figure.svg() and "fedavg" not in figure.svg()


# Bands


def is_area(element: ElementTree.Element) -> bool:
    return "mark-area" in element.attrib.get("class", "")


def test_bands_of_many_curves_are_drawn_on_request(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more curves than BANDS they are hidden otherwise."""
    monkeypatch.setattr(curve_figures, "BANDS", 3)

    def areas(study: Study) -> int:
        figure = curve_figure(study, "test_accuracy", "round")
        assert figure
        return sum(len(each) for each in ElementTree.fromstring(figure.svg()).iter() if is_area(each))

    assert areas(study) == 0 and "drawn while at most 3 curves are on" in explain_bands(study)
    asked = replace(study, all_bands=True)
    assert areas(asked) == 4 and explain_bands(asked) == "Bands are 95 % intervals of the mean over seeds."


# LaTeX


def test_the_table_in_latex_is_the_answers_table(study: Study) -> None:
    lines = latex(study).splitlines()
    table = [line for line in lines if not line.startswith("%")]
    shown = columns(study)
    (layout,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", table[0])
    assert layout == "".join("r" if column.numeric else "l" for column in shown)
    assert [table[1], table[5], table[-2], table[-1]] == [r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"]
    rows = [line.removesuffix(r" \\").split(" & ") for line in table[6:-2]]
    expected = zip(*(column.cells for column in shown), strict=True)
    assert rows == [[cell.replace("±", r"$\pm$") for cell in cells] for cells in expected]
    assert [row[0] for row in rows] == list(study.configurations["algorithm"])
    assert any("Synthetic data." in line for line in lines if line.startswith("%"))


def test_headings_over_several_columns_and_their_rules_fit_together(study: Study) -> None:
    """algorithm, lr and runs have none; then final (2), best (1), the target (3), the whole run (3)."""
    table = [line for line in latex(study).splitlines() if not line.startswith("%")]
    groups, rules, headings = table[2:5]
    spans = [int(span) for span in re.findall(r"\\multicolumn\{(\d)\}\{c\}", groups)]
    assert spans == [2, 1, 3, 3] and groups.count("&") == 3 + len(spans) - 1
    assert re.findall(r"\\cmidrule\(lr\)\{(\d+-\d+)\}", rules) == ["4-5", "6-6", "7-9", "10-12"]
    assert headings.count(" & ") == 11 and headings.startswith("algorithm & lr & \\multicolumn{1}{c}{runs} & ")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("100 % & #1_a", r"100 \% \& \#1\_a"),
        ("{a}$b$", r"\{a\}\$b\$"),
        ("C:\\x~y^2", r"C:\textbackslash{}x\textasciitilde{}y\textasciicircum{}2"),
        ("[0.1, 0.2]", "{[}0.1, 0.2]"),
        ("* a", "{*} a"),
        ('0.5 ± 0.1 \N{MULTIPLICATION SIGN} 2 < 3 | "q"', r"0.5 $\pm$ 0.1 $\times$ 2 \textless{} 3 \textbar{} ''q''"),
        ("two\n\tlines\x07 é", "two lines é"),
    ],
)
def test_what_latex_would_read_as_something_else_is_escaped(text: str, written: str) -> None:
    assert escaped(text) == written


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles_the_table(study: Study, tmp_path: Path) -> None:
    import subprocess

    odd = labelled(study, [read_label(r"algorithm=fedprox: [\a_%&#~^{}$<|>\"*"), read_label("algorithm=fedavg: *")])
    begin = r"\documentclass{article}\usepackage{booktabs}\begin{document}\setlength{\tabcolsep}{2pt}\tiny"
    (tmp_path / "page.tex").write_text(f"{begin}\n{latex(odd)}\\end{{document}}\n")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


# The command line


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["rates", "--figures"], ["rates", "--figures=svg,png"]),
        (["--figures", "rates"], ["--figures=svg,png", "rates"]),
        (["rates", "--figures", "--latex"], ["rates", "--figures=svg,png", "--latex"]),
        (["--figures", "results/rates"], ["--figures=svg,png", "results/rates"]),
        (["--figures", "pdf", "rates"], ["--figures=pdf", "rates"]),
        (["rates", "--figures", "pdf,svg"], ["rates", "--figures=pdf,svg"]),
        (["rates", "--figures", "pfd"], ["rates", "--figures=pfd"]),
    ],
    ids=" ".join,
)
def test_figures_may_have_their_forms_or_not(
    words: list[str], meant: list[str], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(results.parents[1])
    assert with_forms(words) == meant


# Several results


def split(results: Path) -> tuple[Path, Path]:
    """Two folders with the runs of one algorithm each."""
    for name in ("avg", "prox"):
        copy = Path(shutil.copytree(results, results.with_name(name)))
        for path in copy.glob(f"*/fed{'prox' if name == 'avg' else 'avg'}-*"):
            path.unlink()
    return results.with_name("avg"), results.with_name("prox")


def test_the_parts_of_a_study_are_reported_as_one_with_labels_and_a_table(
    results: Path, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = split(results)
    assert report(first, "--label", "algorithm=fedavg: McMahan", second, "--latex") == 0
    page, table = map(Path, capsys.readouterr().out.splitlines())
    assert page == results.with_name("avg+prox") / "report.html"
    assert table == page.parent / "figures" / "answer.tex"
    text = html.unescape(page.read_text())
    assert "8 runs · 4 configurations · 2 seeds" in text and "avg and prox" in text
    assert text.count("Of 4 runs") == 0  # each folder's runs are its file's
    assert '<th scope="col">configuration</th>' in text and 'scope="col">lr<' not in text
    data = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    names = {f"{name}, lr {lr}" for name in ("McMahan", "fedprox") for lr in (0.01, 0.02)}
    assert data and {each["label"] for each in json.loads(data[1])["series"].values()} == names
    assert all(name in table.read_text() for name in names)


def test_the_same_run_in_two_folders_is_said(results: Path) -> None:
    first, _ = split(results)
    found, (sentence,) = read({"rates": results, "avg": first})
    assert "avg has 4 of the runs that rates has, which count once, as they are in rates" in sentence
    assert len(found.runs) == 8 and set(found.runs["folder"]) == {"rates"}
    assert len(of_folder(found, first)) == 4


def test_results_are_named_by_their_folders_or_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "other/a"):
        (tmp_path / "results" / name / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert folders_of(["a", "results/b"]) == {"a": Path("results/a"), "b": Path("results/b")}
    assert folders_of(["a", "results/a"]) == {"a": Path("results/a")}
    twins = folders_of(["a", "results/other/a"])
    assert list(twins) == ["results/a", "results/other/a"]
    assert page_of(None, twins) == Path("results/a+a/report.html")
    assert page_of("x.html", twins) == Path("x.html")
    many = {f"{number}" * 30: Path("results") / (f"{number}" * 30) for number in range(4)}
    assert page_of(None, many) == Path("results") / f"{'0' * 30}+3-others" / "report.html"
