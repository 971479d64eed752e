"""Where base models come from, and what was fetched: GGUF files, the hub, the package index; no torch."""
