"""Tiny models of every family, as Hugging Face folders and GGUF files, compared with transformers. See case.py."""
