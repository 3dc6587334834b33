"""The HTTP client for MJPEG cameras; another thread can end a request at any time."""
