# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Parsers of untrusted bytes: headers of GGUF files, and SentencePiece models, which are written here, too."""

from cpython.bytes cimport PyBytes_AsString, PyBytes_AsStringAndSize, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_Check, PyUnicode_DecodeUTF8
from libc.stdint cimport INT64_MAX, int16_t, int32_t, int64_t, int8_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

import numpy as np

from pellucid.errors import ModelFileError, TokenizerError

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #error "model files are little-endian: these parsers need a little-endian machine"
    #endif
    """

include "_parsers.gguf.pxi"
include "_parsers.spm.pxi"
