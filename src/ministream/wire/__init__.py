"""Frames as bytes, and bytes as frames."""

from ministream.wire.timage import VolumeUpdate, decode, decode_volume, encode, encode_volume

__all__ = ["VolumeUpdate", "decode", "decode_volume", "encode", "encode_volume"]
