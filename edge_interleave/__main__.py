"""`python -m edge_interleave`: the command line."""

from .cli import main

main()
