"""Alerts: the rule that raises them, the events on disk, and their delivery to commands and webhooks."""
