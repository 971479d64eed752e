"""Suites, comparison with intervals, and the report."""
