"""Making model files from others: Hugging Face folders as GGUF files."""
