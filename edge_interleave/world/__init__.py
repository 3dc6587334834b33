"""The world that the embedded model knows, drawn. Knows nothing about models."""
