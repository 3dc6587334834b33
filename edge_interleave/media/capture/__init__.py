"""Reads a camera or network stream in a separate process, because its library can block or crash."""
