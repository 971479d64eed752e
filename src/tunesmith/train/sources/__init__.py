"""Where the batches of a run come from, step by step: rows that lie on disk, or whatever else makes batches."""
