"""Where results go: HDF5 volumes, pictures, EPICS."""

from ministream.sinks.atomic import check_writable, output_error, replacing
from ministream.sinks.live import LiveVolume
from ministream.sinks.picture import write_picture
from ministream.sinks.pva import SliceServer
from ministream.sinks.volume import (
    COMPRESSIONS,
    DEFAULT_COMPRESSION,
    VolumeWriter,
    merge_volumes,
    read_volume,
    volume_attributes,
    write_volume,
)

__all__ = [
    "COMPRESSIONS",
    "DEFAULT_COMPRESSION",
    "LiveVolume",
    "SliceServer",
    "VolumeWriter",
    "check_writable",
    "merge_volumes",
    "output_error",
    "read_volume",
    "replacing",
    "volume_attributes",
    "write_picture",
    "write_volume",
]
