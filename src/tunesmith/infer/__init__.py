"""Prompts to tokens. `local` runs a model in this process; all engines answer the same protocol."""
