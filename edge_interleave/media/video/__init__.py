"""Video files and streams: decoding frames with PyAV and OpenCV, and finding damaged ones."""
