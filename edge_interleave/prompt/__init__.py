"""Messages to prompt segments: templates, tokenizer, and where images stand."""
