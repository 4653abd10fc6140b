"""Embedders and rerankers: tiny models of every family, compared with transformers and sentence-transformers."""
