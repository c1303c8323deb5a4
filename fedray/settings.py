"""`section` and `setting` under their short name; they are in core/settings.py."""

from fedray.core.settings import AsLowerCase, AsNumber, Auto, Maybe, section, setting

__all__ = ["AsLowerCase", "AsNumber", "Auto", "Maybe", "section", "setting"]
