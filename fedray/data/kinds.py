"""The kind of a data set, which models know, too, and which so is in core/."""

from fedray.core.kinds import CLASSIFIED_IMAGES, Kind

__all__ = ["CLASSIFIED_IMAGES", "Kind"]
