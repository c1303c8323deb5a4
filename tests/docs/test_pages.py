"""What a page names is there: files, anchors, settings, tests."""

import ast
import re

import pytest
from pages import PAGES, README, ROOT, Page, page

from fedray.algorithms import ALGORITHMS
from fedray.algorithms.fedavg import FedAvg
from fedray.cli.command_line import options
from fedray.data.partitions import PARTITIONS
from fedray.models.loss import NAMES as LOSSES
from fedray.models.model import KNOWN
from fedray.results.schema import SCHEMAS

every = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@every
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(page: Page) -> None:
    for link in page.links:
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in Page(str(target.relative_to(ROOT))).anchors, link


@every
def test_every_path_that_is_named_exists(page: Page) -> None:
    """Those in the last part of architecture.md are of files as they were."""
    prose = page.prose.partition("## Where files were before")[0]
    for span in re.findall(r"`([^`\n]+)`", prose):
        if re.match(r"(fedray|tests|experiments|docs)/[^\s<>*]+$", span) and not re.search(r"NAME|fedcm", span):
            assert (ROOT / span).exists(), span


def test_every_file_was_moved_to_where_the_map_says() -> None:
    """Each row of the map is of a file that is gone, or is a room now, and one that is there with what it names."""
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \| (.*) \|$", page("architecture").text.partition("## Where")[2], re.M)
    assert len(rows) > 80
    for _, now, names in rows:
        known = {getattr(node, "name", "") for node in ast.walk(ast.parse((ROOT / now).read_text()))}
        known |= {node.id for node in ast.walk(ast.parse((ROOT / now).read_text())) if isinstance(node, ast.Name)}
        assert set(re.findall(r"`(\w+)`", names)) <= known, now


@every
def test_every_setting_that_is_named_exists(page: Page) -> None:
    known = options()
    sections = "|".join(sorted({name.partition(".")[0] for name in known if "." in name}))
    for span in page.spans:
        if match := re.match(rf"(?:--)?((?:{sections})\.(?!py$)([a-z_0-9]+))( = .*| \S+)?$", span):
            assert match[1] in known or callable(getattr(FedAvg, match[2], None)), span


def test_every_test_that_is_named_exists() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    functions = re.findall(r"^def (test_\w+)", "\n".join(files.values()), re.MULTILINE)
    columns = {name for schema in SCHEMAS.values() for name in schema.names}
    for each in PAGES:
        for span in each.spans:
            if re.fullmatch(r"test_\w+\.py", span):
                assert span in files, f"{span} in {each.name}"
            elif re.fullmatch(r"test_\w+(\.\.\.)?", span) and span not in columns:
                beginning = span.removesuffix("...")
                found = [name for name in functions if name.startswith(beginning)]
                assert found if span != beginning else beginning in functions, f"{span} in {each.name}"


def test_the_readme_is_under_two_hundred_lines() -> None:
    assert len(README.text.splitlines()) < 200


def test_the_readme_shows_every_room() -> None:
    shown = set(re.findall(r"^  (\w+)/ ", README.text, re.MULTILINE))
    assert shown == {path.parent.name for path in (ROOT / "fedray").glob("*/__init__.py")}


def test_every_page_is_on_the_readme() -> None:
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= {
        link.partition("#")[0] for link in README.links
    }


@pytest.mark.parametrize(
    ("name", "heading", "known"),
    [
        ("algorithms", "`algorithm.name` | paper", ALGORITHMS),
        ("models-and-data", "`model.name`", [*KNOWN, "package.module:function"]),
        ("models-and-data", "`loss.name` | targets | the loss of an example", [*LOSSES, "package.module:function"]),
        ("models-and-data", "`partition.name`", [*PARTITIONS, "package.module:Class"]),
    ],
)
def test_a_table_has_every_name(name: str, heading: str, known: list[str]) -> None:
    (table,) = re.findall(rf"\| {re.escape(heading)} \|.*?\n\n", page(name).text, re.DOTALL)
    named = [word for row in table.strip().splitlines()[2:] for word in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(known)


def test_every_function_on_the_two_paths_is_defined() -> None:
    """Names in backticks, as `function`, `Class` or `Class.method`, are of fedray's code, or tables of the results."""
    defined = set(SCHEMAS)
    for path in (ROOT / "fedray").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                defined.add(node.name)
                methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
                defined |= {f"{node.name}.{name}" for name in methods}
    text = page("architecture").prose.partition("## The path of one message")[2].partition("## To change")[0]
    named = set(re.findall(r"`([A-Za-z_]+(?:\.[a-z_]+)?)(?:\(.*?\))?`", text)) - options().keys()
    named = {re.sub(r"^(algorithm|watch|population)\.", "", name) for name in named if not name.endswith(".py")}
    assert len(named) > 40
    assert named - defined == {"t"}
