"""Access to each kernel of each instruction set, for tests and benchmarks.
The engine calls the kernels from C and never through this package. Tiers are named as in `PELLUCID_ISA` ("scalar",
"avx2" ...); a tier that this build lacks or this processor cannot run raises a `ValueError`.
"""
