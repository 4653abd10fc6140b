"""Tests of the sampler and of its options."""
