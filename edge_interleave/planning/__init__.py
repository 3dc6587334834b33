"""Memory budgets: what a live window can hold in a given amount of RAM."""
