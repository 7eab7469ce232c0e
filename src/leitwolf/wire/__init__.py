"""Fixed-layout messages between processes and guards. Standard library only."""
