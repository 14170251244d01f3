"""Streaming tomography: a scan is acquired, corrected, distributed and reconstructed while it is measured."""
