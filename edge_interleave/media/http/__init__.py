"""HTTP connections that another thread can end: what MJPEG streams are read by."""
