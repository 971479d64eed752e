"""What exists: runs, where models come from, and runs beside one another."""
