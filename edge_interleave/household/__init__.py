"""Several sources watched with one model: settings from a file, shared engines, rules, and what is told about them."""
