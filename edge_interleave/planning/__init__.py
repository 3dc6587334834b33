"""Plans for live windows that stay within a memory limit."""
