"""Hand a published model to others: to the Hugging Face hub."""
