"""Reads a checkpoint of any supported layout: config, weights, tokenizer, preprocessor."""
