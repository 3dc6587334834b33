"""Encodes images to visual tokens, in the order of the paper's figure.

    image ── tiles ── preprocess ── vision tower + projector ── pooling ── merge ── visual tokens

- `tiles`: split a large image into an overview and tiles ("anyres"), on request.
- `preprocess`: resize and normalise to the tower's pixels, float32 (3, image_size, image_size).
- `tower`: SigLIP tower and MLP projector, one ONNX graph: (1, 3, H, W) -> (1, grid * grid, hidden).
- `pooling`: reduce the grid of visual tokens by a stride.
- `merge`: join the tokens of an overview and its tiles; add the model's `image_newline` rows.

`image_encoder` runs these steps with a `cache`; `media_encoder` applies it to the images and videos of messages.
"""
