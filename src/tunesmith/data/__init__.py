"""Rows in, a dataset on disk out: readers, kinds of rows, checks, ledger, splits, packing plan. No torch."""
