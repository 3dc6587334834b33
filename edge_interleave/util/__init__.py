"""General helpers that no subject of this package owns: files, locks, processes, CPUs, addresses."""
