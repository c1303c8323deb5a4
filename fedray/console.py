"""`ConsoleWatch` under its short name; it is in cli/console.py."""

from fedray.cli.console import ConsoleWatch

__all__ = ["ConsoleWatch"]
