"""`python -m edge_interleave`: the command line."""

from edge_interleave.cli import main

main()
