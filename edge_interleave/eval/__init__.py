"""Benchmarks: their files, their scores, and runs that survive a kill."""
