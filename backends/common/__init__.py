"""Shared by all backends: input checks, ranges of positions, scratch entries."""
