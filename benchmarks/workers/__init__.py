"""One runtime per file, each in a process of its own: what `benchmarks/peers.py` drives."""
