"""Frames as bytes, and bytes as frames."""
