"""The tables of settings and options in docs/settings.md are what their declarations say."""

from pathlib import Path

import pytest
from fuzzing import end_of
from settings_page import BEGIN, END, main, render, replaced, table

from fedray.__main__ import FLAGS, VALUES
from fedray.cli.command_line import options

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_as_it_would_be_written():
    """If not: `make settings`."""
    page = PAGE.read_text()
    assert replaced(page) == page


def test_every_setting_and_option_is_there_once_with_its_sentence():
    rows = [line for line in render().splitlines() if line.startswith("| `")]
    first = [row.split("`")[1] for row in rows]
    assert sorted(name for name in first if not name.startswith("--")) == sorted(options())
    for name, (_, field) in options().items():
        (row,) = [row for row, own in zip(rows, first, strict=True) if own == name]
        assert field is None or field.description.replace("|", "\\|") in row
    said = render()
    for text in [*FLAGS.values(), *(text for _, text in VALUES.values())]:
        assert text in said


def test_a_page_is_written_between_its_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert end_of(main, page).status == 0
    assert page.read_text() == f"before\n{BEGIN}\n\n{render()}\n{END}\nafter\n"
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


@pytest.mark.parametrize("content", ["", BEGIN, f"{END} {BEGIN}", None])
def test_a_page_without_its_marks_is_left_alone(tmp_path, content):
    page = tmp_path / "page.md"
    if content is not None:
        page.write_text(content)
    assert end_of(main, page).status == 2
    assert (page.read_text() if page.exists() else None) == content
    assert end_of(main).status == 2


def test_a_vertical_bar_is_no_border():
    assert table(["a"], [["x|y"]]) == "| a |\n| --- |\n| x\\|y |"
