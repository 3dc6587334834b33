"""Cameras and streams that can block, each read in a process of its own."""
