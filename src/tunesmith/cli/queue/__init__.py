"""Commands about jobs in a queue, and about what holds them."""
