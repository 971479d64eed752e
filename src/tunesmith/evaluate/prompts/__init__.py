"""Prompts beside tuned models: variants, the examples in them, asking with a cache and a budget, and the table."""
