"""Pixels to visual tokens: preprocess, tower, pooling, tiles, cache."""
