"""docs/results.md documents every column of every table, and no other."""

import re

from pages import page

from fedray.results.schema import OWN, PER_RUN, SCHEMAS


def test_every_column_is_documented_with_its_type_and_no_other() -> None:
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page("results").text, re.DOTALL | re.MULTILINE))
    documented = {
        title: re.findall(r"^\| `(\w+)` \| (\S.*?) \|", body, re.MULTILINE) for title, body in sections.items()
    }
    columns = {
        table: [(field.name, str(field.type).replace("double", "float64")) for field in schema]
        for table, schema in SCHEMAS.items()
    }
    common = documented.pop("Grouping columns")
    assert {title for title, found in documented.items() if found} == OWN.keys()
    for table in OWN:
        assert (common if table in PER_RUN else []) + documented[table] == columns[table]


def test_every_folder_of_results_is_listed() -> None:
    listed = re.findall(r"^\| `(\w+)/", page("results").text, re.MULTILINE)
    assert {*OWN, "journal", "checkpoints", "models", "tensorboard", "wandb"} == set(listed)
