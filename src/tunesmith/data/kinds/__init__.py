"""What a row can be: one file for each kind, with all that is particular to it. `table` lists them."""
