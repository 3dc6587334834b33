"""Decodes video files and streams with PyAV, and cameras with OpenCV; detects damaged frames of live streams."""
