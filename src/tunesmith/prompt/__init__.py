"""The prompt contract: a base model's name resolved, its tokenizer, chat template, stop ids and mask rule. No torch."""
