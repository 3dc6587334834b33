"""Turns files, cameras and streams into RGB frames.

- `pictures/`: decodes picture files and lists folders of them.
- `video/`: decodes video files and streams.
- `clip`: samples a few frames of a finished video, animation or folder.
- `sources/`: everything that can be watched live: cameras, videos, folders, addresses, iterables. A new kind of
  camera is a new module there, and a line in `sources/open.py`.
- `capture/`: the process that opens cameras and streams, which can block or crash.
- `http/`: the HTTP client for MJPEG cameras.
- `reader`: reads a source in a thread, reconnects, and drops frames by `filters`; `freeze` detects frozen cameras.
- `pipeline`: encodes the next frame while the current one goes into the window.
"""
