"""The vocabulary that every other room speaks: errors, config sections, records, names, files, events."""
