"""Sources of frames: cameras, videos, folders, network streams, Frigate, iterables.

To add a kind of source, implement the `Source` protocol (`base`) in a module here and have `open.open_source` return it
for its kind of name. A library that can block or crash belongs in a capture process (`media.capture`).
"""
