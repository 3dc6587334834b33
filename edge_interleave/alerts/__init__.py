"""Rules, alarms, and how events are delivered."""
