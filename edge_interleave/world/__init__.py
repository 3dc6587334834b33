"""A synthetic benchmark: drawn scenes of shapes, everyday things and signs, and questions with one right answer.

The embedded model is trained on this world (examples/embedded_model), and `edge-interleave eval --world` draws fresh
samples of it for any model, without a network.

vocabulary          shapes, things, colours and words; which combinations training holds out (`Split`)
scene, drawing      where items lie, and their pixels; outlines, sprites: how they look
groups, views       scenes that belong together: pairs with a change, clips, stories, views of one place
scene_questions     questions about one scene; group_questions: about several; phrases: the words they share
wordings            the same questions as people type them
unknown_pictures    photographs, textures, ... that the world does not contain; unknown_questions: likewise
samples             a sample of each M4 task; everyday_samples: of each everyday task; long_clips: of long videos
benchmark           all tasks as one file in M4-Instruct's format; judging: when a free answer is right
"""
