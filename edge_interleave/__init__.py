"""LLaVA-NeXT-Interleave on the edge: several images, a video or a live camera, asked about locally."""
