"""Where results go: HDF5 volumes and pictures."""

from ministream.sinks.atomic import check_writable, replacing
from ministream.sinks.picture import write_picture
from ministream.sinks.volume import (
    VolumeWriter,
    merge_volumes,
    read_volume,
    volume_attributes,
    write_volume,
)

__all__ = [
    "VolumeWriter",
    "check_writable",
    "merge_volumes",
    "read_volume",
    "replacing",
    "volume_attributes",
    "write_picture",
    "write_volume",
]
