"""Rows in, a sealed version out: readers, checks, ledger, splits, rendering and the packing plan. No torch."""
