"""Damaged and hostile files, as tables: name of the damage -> how to make it, and a text of the expected error."""
