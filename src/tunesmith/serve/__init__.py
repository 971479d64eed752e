"""The OpenAI-compatible API: files, fine-tuning jobs, models and chat over HTTP."""
