"""Helpers of the tests: models, media, servers, and a second implementation of each thing compared."""
