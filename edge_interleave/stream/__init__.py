"""Files, video and cameras to frames."""
