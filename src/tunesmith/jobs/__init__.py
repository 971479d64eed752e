"""The road composed: what a child process runs, by name, and how a caller starts it."""
