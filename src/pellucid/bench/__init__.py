"""Benchmarks: the limits of the machine, and how close a model comes to them."""
