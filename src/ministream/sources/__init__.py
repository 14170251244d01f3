"""Where scans come from: files and phantoms."""

from ministream.sources.base import Source
from ministream.sources.choose import open_source
from ministream.sources.order import ViewOrder, view_order

__all__ = ["Source", "ViewOrder", "open_source", "view_order"]
