"""The small bundle that ships with the package."""
