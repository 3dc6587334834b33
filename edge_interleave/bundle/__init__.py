"""The bundle on disk: its manifest, its files, and where pulled bundles live."""
