"""The command line: one option for each setting, by its dotted name, in any order, explained by --help.

The options come from the declarations of the sections. This module only finds the words. `compose` validates their
values, as it does those from TOML.
"""

import argparse
import math
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from fedray.core.errors import BadInputError, RunError
from fedray.core.interrupt import Interrupt, Stdout
from fedray.core.own_code import is_address
from fedray.core.version import __version__
from fedray.experiment.composition import OWN, all_settings, no_value, override, read_toml, unknown
from fedray.experiment.experiment import CHOSEN, DEFAULT_NAMES, Experiment
from fedray.experiment.synonyms import SECTIONS


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports an error in one sentence, as the rest of fedray does."""

    def error(self, message: str) -> Any:
        raise BadInputError(message)


class Formatter(argparse.HelpFormatter):
    """argparse's formatter. It keeps words with a hyphen, such as crop-flip, whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line: the file, its nested settings with the overrides applied, and the program's own options.

    `sweep` holds the file's sweep tables (`read_toml`). `flags` has every flag of the program; `values` and `lists`
    have only the options that were given.
    """

    file: Path | None
    tree: dict[str, Any]
    sweep: dict[str, Any]
    overrides: dict[str, str]
    flags: dict[str, bool]
    values: dict[str, str]
    lists: dict[str, list[str]]


Labelled = Mapping[str, tuple[str, str]]
"""Options with a value, by name: the placeholder of the value in --help, and the help text."""


def read_command_line(
    argv: Sequence[str],
    program: str,
    description: str,
    flags: Mapping[str, str] | None = None,
    values: Labelled | None = None,
    lists: Labelled | None = None,
) -> CommandLine:
    """Parse `argv`. With --help it prints the help and exits.

    The program's own options come with their help texts: `flags` take no value, `values` take one, and `lists` take one
    or more words and may be repeated. BadInputError for an unknown option or a second settings file.
    """
    flags, values, lists = flags or {}, values or {}, lists or {}
    OWN_CLASSES.update({section: own_classes(argv, section) for section in OWN})
    parser = build_parser(program, description, flags, values, lists)
    known, extra = parser.parse_known_args(argv)
    given = vars(known)
    file, raised = given.pop("file"), {name: given.pop(name) for name in flags}
    said = {name: given.pop(name) for name in values if name in given}
    words = {name: given.pop(name) for name in lists if name in given}
    if wrong := next((word for word in extra if word.startswith("-")), None):
        raise BadInputError(unknown_option(wrong, argv, [*options(), *flags, *values, *lists, "version"]))
    # argparse takes a file after the words of a list for one of these words.
    late = [word for name in words for word in words[name] if is_file(word)]
    words = {name: [word for word in words[name] if not is_file(word)] for name in words}
    files = [*([file] if file else []), *map(Path, late), *map(Path, extra)]
    if len(files) > 1:
        raise BadInputError(f"one settings file at a time, not {str(files[1])!r} as well")
    tree, sweep = read_toml(files[0]) if files else ({}, {})
    override(tree, given)
    return CommandLine(files[0] if files else None, tree, sweep, given, raised, said, words)


def unknown_option(word: str, argv: Sequence[str], known: Sequence[str]) -> str:
    """The sentence on an option that there is not; for a section, with the value that it was given."""
    name, sign, value = word.lstrip("-").partition("=")
    after = argv[argv.index(word) + 1 :][:1]
    if not sign and after and not after[0].startswith("-"):
        (value,) = after
    if name in SECTIONS:
        return no_value(name, f"--{SECTIONS[name]} {shlex.quote(value) if value else ''}".strip())
    said = unknown(name, known)
    if is_file(value) and "did you mean" not in said:
        return f"{said}; a settings file is named without an option: {value}"
    return said


def is_file(word: str) -> bool:
    return word.endswith(".toml") and "=" not in word


OWN_CLASSES: dict[str, list[str]] = {}
"""The user's own algorithms and partitions that the last command line names: their settings are options, too."""


def own_classes(argv: Sequence[str], section: str) -> list[str]:
    """The addresses that a command line, or the settings file in it, has for a section's name, in a grid too."""
    setting = f"{section}.name"
    words = "\n".join(argv).replace(f"--{setting}\n", f"{setting}=").split("\n")
    named = [each for word in words if f"{setting}=" in word for each in word.partition("=")[2].split(",")]
    for path in [Path(word) for word in argv if is_file(word)]:
        if path.is_file():
            tree, sweep = read_toml(path)
            named += [str(value) for name, value in leaves([tree, sweep]) if name.endswith(setting)]
    return [name for name in dict.fromkeys(named) if is_address(name)]


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested tables and lists."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}")
    elif isinstance(tree, list):
        for value in tree:
            yield from leaves(value, prefix)
    else:
        yield prefix, tree


def options() -> dict[str, tuple[str, Any]]:
    """Every setting by its dotted name: its group in --help, and its pydantic field."""
    found: dict[str, tuple[str, Any]] = {}
    for name in CHOSEN:
        for choice in [*CHOSEN[name], *OWN_CLASSES.get(name, ())]:
            for dotted, field in all_settings({name: {"name": choice}}):
                section = dotted.partition(".")[0] if "." in dotted else "experiment"
                own = section == name and choice != DEFAULT_NAMES[name] and field is not None
                title, first = found.setdefault(dotted, (f"{section} {choice}" if own else section, field))
                if own and title != section and not title.endswith(choice):  # a second choice has this setting
                    found[dotted] = (f"{title}, {choice}", first)
    return found


def build_parser(program: str, description: str, flags: Mapping[str, str], values: Labelled, lists: Labelled) -> Parser:
    parser = Parser(
        prog=program,
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: Formatter(prog, max_help_position=32, width=100),
        usage=f"{program} [FILE.toml] [--SETTING VALUE ...]",
    )
    parser.add_argument(
        "file", nargs="?", type=Path, default=None, metavar="FILE.toml", help="an experiment; see experiments/"
    )
    add_options(parser, flags, values, lists)
    groups: dict[str, Any] = {}
    for dotted, (title, field) in sorted(options().items(), key=lambda item: group_order(item[1][0])):
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        group = groups[title]
        if field is None:
            section = dotted.partition(".")[0]
            text = f"{choices(section)} (default {DEFAULT_NAMES[section]})"
            group.add_argument(f"--{dotted}", metavar="NAME", help=text)
        else:
            text = " ".join([explain(field), *variants(dotted, field)])
            group.add_argument(f"--{dotted}", metavar=kind(field), help=escape(text))
    return parser


def add_options(parser: argparse.ArgumentParser, flags: Mapping[str, str], values: Labelled, lists: Labelled) -> None:
    """Add a program's own options, and --version, to the parser."""
    version = f"fedray {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print fedray's version and exit")
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", default=False, dest=name, help=escape(text))
    for name, (label, text) in values.items():
        parser.add_argument(f"--{name}", metavar=label, dest=name, help=escape(text))
    for name, (label, text) in lists.items():
        parser.add_argument(f"--{name}", action="extend", nargs="+", metavar=label, dest=name, help=escape(text))


def escape(text: str) -> str:
    """A help text in which argparse replaces nothing."""
    return text.replace("%", "%%")


def variants(dotted: str, field: Any) -> list[str]:
    """Sentences on a setting for the choices of its section that give it another description or default."""
    section, others = dotted.partition(".")[0], dict[str, list[str]]()
    for choice in CHOSEN.get(section, ()):
        other = dict(all_settings({section: {"name": choice}})).get(dotted)
        if other is None or (other.description, other.default) == (field.description, field.default):
            continue
        if other.description == field.description:
            text = f"default {default(other)}."
        elif other.description.startswith("Always"):
            text = other.description
        else:
            text = explain(other)
        others.setdefault(text, []).append(choice)
    return [f"{', '.join(choices)}: {text}" for text, choices in others.items()]


def group_order(title: str) -> tuple[int, str]:
    """Groups of options are in the order of the sections, after the experiment's own settings."""
    sections = ["experiment", *(field.name for field in fields(Experiment))]
    return sections.index(title.partition(" ")[0]), title.partition(" ")[2]


def kind(field: Any) -> str:
    """The placeholder of a setting's value in --help: INT, FLOAT, TEXT, true|false or its choices."""
    literal = get_origin(field.annotation) is Literal
    types = [t for t in (() if literal else get_args(field.annotation)) or (field.annotation,) if t is not type(None)]
    if get_origin(types[0]) is Literal:
        return "|".join(map(str, get_args(types[0])))
    return {int: "INT", float: "FLOAT", bool: "true|false"}.get(types[0], "TEXT")


def choices(section: str) -> str:
    """The sentence on the name that chooses the class of a section."""
    own = ", or your own as package.module:Class" if section in OWN else ""
    return f"Which {section}: {', '.join(CHOSEN[section])}{own}."


def explain(field: Any) -> str:
    """A setting's sentence with its unit, default and range."""
    unit, *limits = facts(field)
    return f"{field.description} ({'; '.join([*([unit] if unit else []), f'default {default(field)}', *limits])})"


def facts(field: Any) -> list[str]:
    """A setting's unit, which may be empty, and its limits, such as `>= 1`."""
    sign = {"Gt": ">", "Ge": ">=", "Lt": "<", "Le": "<="}
    bounds = [(sign[type(m).__name__], getattr(m, type(m).__name__.lower())) for m in field.metadata if is_bound(m)]
    limits = [f"{sign} {int(value):,}" if value == int(value) else f"{sign} {value:g}" for sign, value in bounds]
    return [(field.json_schema_extra or {}).get("unit", ""), *limits]


def is_bound(constraint: Any) -> bool:
    return type(constraint).__name__ in ("Gt", "Ge", "Lt", "Le")


def default(field: Any) -> str:
    """A setting's default as a user would write it."""
    if field.default is None:
        return absent(field)
    return str(field.default).lower() if field.annotation is bool else str(field.default) or "empty"


def absent(field: Any) -> str:
    """The word for an absent value: "auto" where fedray works it out, otherwise "none"."""
    validator = next(m.func for m in field.metadata if type(m).__name__ == "BeforeValidator")
    return next(word for word in ("auto", "none") if validator(word) is None)


def read_fraction(name: str, text: str | None) -> float | None:
    """The value of an option that is a fraction; None if it was not given.

    BadInputError unless it is above 0 and at most 1.
    """
    try:
        fraction = None if text is None else float(text)
    except ValueError:
        fraction = -1.0
    if fraction is not None and not 0 < fraction <= 1:
        raise BadInputError(f"--{name} {text} must be a number above 0 and at most 1, such as 0.5 for 50 %")
    return fraction


def read_target(text: str | None, share: Callable[[], bool]) -> float | None:
    """The value of --target, which is a fraction unless what it is a target for is no `share`; None if not given.

    `share` is asked only for a number above 1.
    """
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        number = math.nan
    if number > 1 and math.isfinite(number) and not share():
        return number
    return read_fraction("target", text)


def report_errors(main: Callable[[], int]) -> int:
    """Run a program's main and return its exit status.

    BadInputError prints one sentence and gives 2. RunError (failing client code, actors that keep dying, a full disk)
    gives 1. An interrupt gives 130.
    """
    try:
        return main()
    except BadInputError as error:
        print(f"fedray: {one_line(str(error))}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"fedray: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue")
        exec("")  # after an interrupted import `python -m` would end itself by SIGINT; exec clears that state
        return INTERRUPTED


INTERRUPTED = 130  # 128 + SIGINT, as in shells
LONGEST_SENTENCE = 2000  # characters


def one_line(text: str) -> str:
    """A sentence on one line, without its middle if it is long: it may quote anything that a user gave."""
    text = " ".join(text.split())
    half = LONGEST_SENTENCE // 2
    return text if len(text) <= LONGEST_SENTENCE else f"{text[:half]} ... {text[-half:]}"


def run_program(main: Callable[[list[str], Interrupt], int]) -> int:
    """Run a program's main with the words of the command line, report its errors and listen to interrupts.

    It also works when the program was started without stdout or stderr, for example with `>&-`.
    """
    find_modules_here()
    interrupt = Interrupt()
    interrupt.listen()
    stdout, sys.stderr = (stream or Path(os.devnull).open("w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    sys.stdout = guarded = Stdout(stdout, interrupt)
    try:
        status = report_errors(lambda: main(sys.argv[1:], interrupt))
        guarded.flush()
        return status or int(guarded.failed)
    finally:
        interrupt.end()


def find_modules_here() -> None:
    """Make the working directory importable, as `python -m` does, so that console scripts find the user's modules."""
    with suppress(OSError):  # the working directory may be gone
        here = str(Path.cwd())
        if not sys.flags.safe_path and not {here, ""} & set(sys.path):
            sys.path.insert(0, here)
