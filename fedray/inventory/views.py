"""What is printed of runs on disk: a table, a line of JSON, all that there is of one run."""

from collections.abc import Sequence
from typing import Any

from fedray.cli.json_lines import value_of, writable
from fedray.inventory.choice import Shelf
from fedray.report.wording import count, size
from fedray.results.folder import load
from fedray.results.schema import GROUPING, OWN, judging_column
from fedray.results.selection import differing, short_name, written
from fedray.run.fresh import shared_files
from fedray.run.stored import StoredRun

NOT_SETTINGS = ("run", "accuracy", "judged", *(name for name in GROUPING if name != "seed"))
"""The entries of a row that are neither settings nor columns of `runs` alone."""
HEADINGS = ("run", "results", "status", "rounds", "accuracy", "size", "started (UTC)", "settings that differ")
TO_THE_RIGHT = ("rounds", "accuracy", "size")


def as_json(each: StoredRun) -> dict[str, Any]:
    """A run as JSON has it: its columns of `runs`, its settings by dotted name, and the bytes of its files."""
    columns = {name: value_of("runs", name, each.row.get(name)) for name in OWN["runs"] if name != "settings"}
    settings = {name: value for name, value in each.row.items() if name not in (*OWN["runs"], *NOT_SETTINGS)}
    grouping = {name: each.row.get(name) for name in GROUPING}
    kept = {"run": each.run, "folder": str(each.folder), **columns, "status": each.status, **grouping}
    found = writable({**kept, "bytes": each.size, "settings": settings})
    return dict(found)


def print_table(chosen: Sequence[Shelf]) -> None:
    """A line for each run under headings, and one for all. Settings are those that differ in the whole folder."""
    rows: list[Sequence[str]] = [HEADINGS]
    for shelf in chosen:
        names = differing(shelf.results)
        known = {name for each in shelf.runs for name in each.row}
        shown = {name: short_name(name, known) for name in names}
        rows += [cells(each, shown) for each in shelf.runs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = [
            f"{cell:>{width}}" if heading in TO_THE_RIGHT else f"{cell:<{width}}"
            for cell, heading, width in zip(row, HEADINGS, widths, strict=True)
        ]
        print("  ".join(padded).rstrip())
    print(f"{count(len(rows) - 1, 'run')}, {size(sum(each.size for shelf in chosen for each in shelf.runs))}")


def cells(each: StoredRun, shown: dict[str, str]) -> tuple[str, ...]:
    row = each.row
    rounds = f"{row['rounds_done']}/{row['rounds_planned']}" if row else ""
    accuracy = "" if row.get("accuracy") is None else f"{row['accuracy']:.4f}"
    judge = judging_column(row.get("judged_by"))
    if not judge.endswith("_accuracy") and row.get("judged") is not None:
        accuracy = f"{judge.partition('_')[2]} {row['judged']:.4g}"
    when = written(row["started_at"]) if row.get("started_at") else ""
    settings = " ".join(f"{short}={written(row[name])}" for name, short in shown.items() if row.get(name) is not None)
    return each.run, each.folder.name, each.status, rounds, accuracy, size(each.size), when, settings


def details(each: StoredRun) -> dict[str, Any]:
    """All that there is of a run as JSON has it: `as_json`, its events, and the bytes of each of its files."""
    files = {str(path.relative_to(each.folder)): path.lstat().st_size for path in each.files}
    return {**as_json(each), "events": writable(events_of(each)), "files": files}


def print_details(each: StoredRun) -> None:
    """The run's columns, settings, events and files."""
    print(f"run {each.run} in {each.folder}/: {each.status}")
    say("how it went", {name: value for name, value in each.row.items() if name in OWN["runs"] and name != "status"})
    say("settings", {name: value for name, value in each.row.items() if name not in (*OWN["runs"], *NOT_SETTINGS)})
    events = events_of(each)
    print(f"\nevents{'' if events else ': none'}")
    for event in events:
        print(f"  {event['at']}  round {event['round']}  {event['kind']}: {event['detail']}")
    print(f"\nfiles, {size(each.size)}")
    lines = {path: size(path.lstat().st_size) for path in each.files}
    lines |= {path: f"{size(path.stat().st_size)}, shared" for path in shared_files(each.folder, each.run)}
    width = max((len(str(path)) for path in lines), default=0)
    for path, text in lines.items():
        print(f"  {path!s:<{width}}  {text}")


def say(title: str, values: dict[str, Any]) -> None:
    """The values that there are, a line each."""
    known = {name: value for name, value in values.items() if value is not None}
    width = max(map(len, known), default=0)
    print(f"\n{title}")
    for name, value in known.items():
        print(f"  {name:<{width}}  {written(value) or repr('')}")


def events_of(each: StoredRun) -> list[dict[str, Any]]:
    """The run's events in order, by column; none where its row cannot be read."""
    if not each.row or each.removing:
        return []
    place = each.folder.resolve()
    events = load(place.name, place.parent, each.run, tables=("events",)).events
    rows = events[list(OWN["events"])].astype(object).to_dict("records")
    return [{str(name): value_of("events", str(name), value) for name, value in row.items()} for row in rows]
