"""Decodes picture files of the common formats to upright RGB images; start at `image.open_image`."""
