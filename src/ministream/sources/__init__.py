"""Where scans come from: files, detectors and phantoms."""

from ministream.sources.base import Source
from ministream.sources.choose import open_source
from ministream.sources.options import ANGLE_UNITS, ATTRIBUTE_PRESETS, SourceOptions
from ministream.sources.order import ViewOrder, view_order

__all__ = [
    "ANGLE_UNITS",
    "ATTRIBUTE_PRESETS",
    "Source",
    "SourceOptions",
    "ViewOrder",
    "open_source",
    "view_order",
]
