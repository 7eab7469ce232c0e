"""Pure decisions: step(now, event) -> effects. No clock, no randomness, no I/O, no threads."""
