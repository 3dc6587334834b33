"""Turns files, cameras and streams into RGB frames.

- `pictures/`: decodes picture files and lists folders of them.
- `video/`: decodes video files and streams.
- `clip`: samples a few frames of a finished video, animation or folder.
- `sources/`: everything that can be watched live: cameras, videos, folders, addresses, iterables. A new kind of
  source is a new module in it, plus a line in `sources/open.py`.
- `capture/`: a child process that reads cameras and streams, whose libraries can block or crash.
- `http/`: the HTTP client for MJPEG cameras.
- `reader`: reads a source in a thread, reconnects, and drops frames by `filters`; `freeze` detects frozen cameras.
- `pipeline`: encodes the next frame while the current one goes into the window.
"""
