"""The mistakes that mutations.py makes on purpose can be made: what each replaces stands where it says, once."""

from pathlib import Path

from mutations import FOUND_BY

import fedray


def test_what_each_mistake_replaces_stands_there_once():
    package = Path(fedray.__file__).parent
    wrong = [
        (file, what, found)
        for _, mistakes in FOUND_BY
        for file, old, _, what in mistakes
        if (found := (package / file).read_text().count(old)) != 1
    ]
    assert not wrong
