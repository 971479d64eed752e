"""Jobs as records: put there once, worked on by whoever holds the lease, steered by people from anywhere."""
