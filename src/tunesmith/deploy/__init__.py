"""Hand an exported model to others: to the Hugging Face hub."""
