"""How models that do not chat are evaluated: one file a task. `table` lists them."""
