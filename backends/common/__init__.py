"""What every backend shares: input checks, ranges of positions, scratch entries."""
