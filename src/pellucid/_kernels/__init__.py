"""Every kernel of every instruction set by itself, for tests and benchmarks.

The engine calls the kernels from C and never through here. A tier is named as in `PELLUCID_ISA` ("scalar", "avx2" ...);
one that this build lacks or this processor cannot run is a `ValueError`.
"""
