"""What models that do not chat say of rows: one file a task. `table` lists them."""
