"""Helpers without a subject of ours: files, locks, CPUs, progress."""
