"""What rows are worth: the ledger, checks, near duplicates, personal data, and the report on them."""
