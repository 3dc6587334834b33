"""Sources of frames: cameras, videos, folders, network streams, iterables."""
