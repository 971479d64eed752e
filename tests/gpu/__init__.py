"""What only a GPU runs."""
