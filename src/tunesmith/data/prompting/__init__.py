"""A prompt around rows: how it is written, which rows are worked examples, and rows that are trained on with one."""
