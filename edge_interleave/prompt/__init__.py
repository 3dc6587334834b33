"""Turns messages into prompt segments: chat templates, tokenizer, and the places of images."""
