"""Model files made from others: Hugging Face folders as GGUF files."""
