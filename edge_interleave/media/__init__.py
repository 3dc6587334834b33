"""Pictures, videos, cameras and streams: files and devices to frames."""
