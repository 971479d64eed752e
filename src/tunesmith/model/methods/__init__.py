"""Ways to change a base model: one file a method, and the table of them."""
