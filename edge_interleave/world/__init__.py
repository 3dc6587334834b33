"""A world that a script draws: scenes of shapes, everyday things and signs, and questions with one right answer.

The embedded model is trained on it (examples/embedded_model), and `edge-interleave eval --world` draws fresh samples
of it for any model. Needs no network and no model.
"""
