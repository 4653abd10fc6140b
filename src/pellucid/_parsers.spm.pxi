# SentencePiece model files: writing one from pieces, scores and types, and reading one back.
#
# The format is a protocol buffer, ModelProto in sentencepiece_model.proto. Only these fields matter here:
#   ModelProto      1 pieces (repeated)   2 trainer_spec   3 normalizer_spec
#   SentencePiece   1 piece (bytes)   2 score (float)   3 type (enum)
#   TrainerSpec     3 model_type (1 unigram, 2 bpe)   35 byte_fallback
#   NormalizerSpec  1 name   2 precompiled_charsmap   3 add_dummy_prefix   4 remove_extra_whitespaces
#                   5 escape_whitespaces

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object unicode, Py_ssize_t *size) except NULL


cdef enum:
    USER_DEFINED = 4


cdef inline int varint_size(uint64_t value) noexcept nogil:
    cdef int size = 1
    while value >= 128:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t *put_varint(uint8_t *at, uint64_t value) noexcept nogil:
    while value >= 128:
        at[0] = <uint8_t>(value & 127) | 128
        at += 1
        value >>= 7
    at[0] = <uint8_t>value
    return at + 1


cdef inline Py_ssize_t count_spaces(const char *text, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i, count = 0
    for i in range(size):
        count += text[i] == b" "
    return count


cdef inline const char *utf8(object piece, Py_ssize_t *size) except NULL:
    """The bytes of a str or bytes piece, owned by the object (or by its cache)."""
    cdef char *text = NULL
    if PyUnicode_Check(piece):
        return PyUnicode_AsUTF8AndSize(piece, size)
    PyBytes_AsStringAndSize(piece, &text, size)
    return text


def encode_spm(list pieces not None, const float[::1] scores not None, const int32_t[::1] types not None,
               bint byte_fallback):
    """A BPE model of ``pieces`` (str or bytes), scores (n,) and types (n,), serialised.

    Normalisation is the identity, spaces are kept and escaped, and no space is put before the text. Spaces in
    user-defined pieces are written as U+2581, because those pieces are matched with the escaped text.
    Raises ``ValueError`` if the lengths differ, ``TypeError`` for a piece of another type.
    """
    cdef Py_ssize_t n = len(pieces), i, size = 0, k, total = 64, body
    cdef const char *text
    cdef uint32_t spaces
    if scores.shape[0] != n or types.shape[0] != n:
        raise ValueError(f"{n} pieces, {scores.shape[0]} scores and {types.shape[0]} types; expected equal numbers")
    # A piece takes at most 3 x its bytes (all spaces), 5 for the score, 11 for the type, and two headers of up to 11.
    for i in range(n):
        utf8(pieces[i], &size)
        total += 38 + (3 * size if types[i] == USER_DEFINED else size)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, total)
    cdef uint8_t *start = <uint8_t *>PyBytes_AsString(made)
    cdef uint8_t *at = start
    for i in range(n):
        text = utf8(pieces[i], &size)
        spaces = 0
        if types[i] == USER_DEFINED and size and memchr(text, b" ", size) != NULL:
            spaces = count_spaces(text, size)
        body = size + 2 * spaces
        at[0] = 0x0A
        at = put_varint(at + 1, 1 + varint_size(body) + body + 5 + 1 + varint_size(<uint64_t>types[i]))
        at[0] = 0x0A
        at = put_varint(at + 1, body)
        if spaces:
            for k in range(size):
                if text[k] == b" ":
                    memcpy(at, b"\xe2\x96\x81", 3)
                    at += 3
                else:
                    at[0] = text[k]
                    at += 1
        else:
            memcpy(at, text, size)
            at += size
        at[0] = 0x15
        memcpy(at + 1, &scores[i], 4)  # little-endian, like all supported machines
        at[5] = 0x18
        at = put_varint(at + 6, <uint64_t>types[i])
    cdef bytes rest = b"\x12\x05\x18\x02\x98\x02" + (b"\x01" if byte_fallback else b"\x00")
    rest += b"\x1a\x10\x0a\x08identity\x18\x00\x20\x00\x28\x01"
    memcpy(at, PyBytes_AsString(rest), len(rest))
    at += len(rest)
    return made[:at - start]


cdef class _Fields:
    """A cursor over protocol-buffer bytes [at, end). Malformed bytes raise ``TokenizerError``."""
    cdef const uint8_t *base
    cdef Py_ssize_t at
    cdef Py_ssize_t end

    cdef int fail(self, str what) except -1:
        raise TokenizerError(f"not a SentencePiece model: {what} at byte {self.at}")

    cdef uint64_t varint(self) except? 0xFFFFFFFFFFFFFFFF:
        cdef uint64_t value = 0
        cdef int shift = 0
        while self.at < self.end and shift < 64:
            value |= <uint64_t>(self.base[self.at] & 127) << shift
            self.at += 1
            if self.base[self.at - 1] < 128:
                return value
            shift += 7
        self.fail("a number that does not end")

    cdef Py_ssize_t length(self) except -1:
        cdef uint64_t value = self.varint()
        if value > <uint64_t>(self.end - self.at):
            self.fail(f"a field of {value} bytes where {self.end - self.at} are left")
        return <Py_ssize_t>value

    cdef bytes take(self):
        cdef Py_ssize_t size = self.length()
        cdef bytes value = PyBytes_FromStringAndSize(<const char *>self.base + self.at, size)
        self.at += size
        return value

    cdef float real(self) except? -1:
        cdef float value
        if self.end - self.at < 4:
            self.fail("a number cut short")
        memcpy(&value, self.base + self.at, 4)
        self.at += 4
        return value

    cdef int skip(self, int wire) except -1:
        cdef Py_ssize_t size = 0
        if wire == 0:
            self.varint()
        elif wire == 2:
            size = self.length()
        elif wire == 1 or wire == 5:
            size = 8 if wire == 1 else 4
            if self.end - self.at < size:
                self.fail("a number cut short")
        else:
            self.fail(f"wire type {wire}")
        self.at += size
        return 0


def decode_spm(bytes data not None):
    """The parts of a serialised model, as a dict: pieces (list of bytes), scores (float32), types (int32), and the
    fields model_type, byte_fallback, precompiled_charsmap, add_dummy_prefix, remove_extra_whitespaces and
    escape_whitespaces, with the format's defaults if absent. Raises ``TokenizerError`` if the bytes are malformed.
    """
    cdef _Fields r = _Fields.__new__(_Fields)
    cdef Py_ssize_t stop, whole = len(data)
    cdef uint64_t tag
    cdef bytes piece
    cdef float score
    cdef uint64_t kind
    r.base = <const uint8_t *>PyBytes_AsString(data)
    r.at = 0
    r.end = whole
    cdef list pieces = [], scores = [], types = []
    spec = {"model_type": 1, "byte_fallback": 0, "precompiled_charsmap": b"", "add_dummy_prefix": 1,
            "remove_extra_whitespaces": 1, "escape_whitespaces": 1}
    trainer = {3: "model_type", 35: "byte_fallback"}
    normalizer = {3: "add_dummy_prefix", 4: "remove_extra_whitespaces", 5: "escape_whitespaces"}
    while r.at < whole:
        tag = r.varint()
        if tag == 0x0A:
            stop = r.length() + r.at
            r.end = stop
            piece, score, kind = b"", 0, 1
            while r.at < stop:
                tag = r.varint()
                if tag == 0x0A:
                    piece = r.take()
                elif tag == 0x15:
                    score = r.real()
                elif tag == 0x18:
                    kind = r.varint()
                else:
                    r.skip(tag & 7)
            pieces.append(piece)
            scores.append(score)
            types.append(kind if kind < 100 else 100)
            r.end = whole
        elif tag == 0x12 or tag == 0x1A:
            fields = trainer if tag == 0x12 else normalizer
            stop = r.length() + r.at
            r.end = stop
            while r.at < stop:
                tag = r.varint()
                if (tag & 7) == 0 and (tag >> 3) in fields:
                    spec[fields[tag >> 3]] = r.varint()
                elif tag == 0x12 and fields is normalizer:
                    spec["precompiled_charsmap"] = r.take()
                else:
                    r.skip(tag & 7)
            r.end = whole
        else:
            r.skip(tag & 7)
    spec.update(pieces=pieces, scores=np.array(scores, np.float32), types=np.array(types, np.int32))
    return spec
