# Parser of GGUF headers, versions 2 and 3, from bytes or from a file that is read no further than needed.
# The file is treated as hostile: every count and length is compared with the remaining bytes before it is used, so
# that no more is allocated than the file holds, and no read leaves the buffer. Errors are ModelFileErrors with file,
# field, offset and what was expected. Gemma's header (262,144 pieces) takes a few milliseconds, because arrays of
# strings stay in the buffer and only their offsets are collected.
#
# Source: the specification of the format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

# Far above anything real (vocabularies have up to about 300,000 pieces, the largest models some 10,000 tensors), and
# low enough that a crafted file cannot keep the parser busy for long.
cdef uint64_t MAX_PAIRS = 1 << 20
cdef uint64_t MAX_TENSORS = 1 << 20
cdef uint64_t MAX_ELEMENTS = 1 << 26
cdef uint64_t MAX_KEY = 65535          # the specification's
cdef uint64_t MAX_NAME = 1023          # the specification says 64; longer ones exist and are harmless
cdef uint64_t MAX_ALIGNMENT = 1 << 20
cdef uint64_t FIRST_READ = 1 << 18     # bytes; each later read doubles the buffer

# Value types by number: name, bytes of an element (0: not of fixed size), NumPy type of arrays.
VALUE_TYPES = (
    ("uint8", 1, "u1"), ("int8", 1, "i1"), ("uint16", 2, "<u2"), ("int16", 2, "<i2"), ("uint32", 4, "<u4"),
    ("int32", 4, "<i4"), ("float32", 4, "<f4"), ("bool", 1, "?"), ("string", 0, None), ("array", 0, None),
    ("uint64", 8, "<u8"), ("int64", 8, "<i8"), ("float64", 8, "<f8"),
)
cdef enum:
    V_UINT8 = 0, V_INT8, V_UINT16, V_INT16, V_UINT32, V_INT32, V_FLOAT32, V_BOOL, V_STRING, V_ARRAY
    V_UINT64, V_INT64, V_FLOAT64, V_COUNT
cdef int[13] VALUE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8]

# Tensor types: number -> (name, weights per block, bytes per block). Missing numbers were withdrawn.
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}


cdef class StringArray:
    """The strings of one array of a header, stored in the header's bytes (which it keeps alive).
    A sequence of ``bytes``; strings are decoded on request. ``field`` names the array in errors.
    """

    cdef const uint8_t[::1] _buffer
    cdef int64_t[::1] _starts       # (n + 1,): string i is bytes starts[i] .. starts[i + 1] - 8 of the buffer
    cdef Py_ssize_t _n
    cdef readonly str field
    cdef readonly object file

    def __init__(self):
        raise TypeError("a StringArray comes from a file")

    def __len__(self):
        return self._n

    cdef bytes _get(self, Py_ssize_t i):
        cdef int64_t start = self._starts[i]
        cdef int64_t n = self._starts[i + 1] - 8 - start
        if n == 0:
            return b""
        return PyBytes_FromStringAndSize(<const char *>&self._buffer[start], n)

    cdef str _text(self, Py_ssize_t i):
        cdef int64_t start = self._starts[i]
        cdef int64_t n = self._starts[i + 1] - 8 - start
        if n == 0:
            return ""
        try:
            return PyUnicode_DecodeUTF8(<const char *>&self._buffer[start], n, NULL)
        except UnicodeDecodeError as error:
            raise ModelFileError(f"byte {error.start} of the string is not UTF-8", file=self.file,
                                 field=f"{self.field}[{i}]", offset=start + error.start,
                                 expected="UTF-8 text") from None

    def __getitem__(self, index):
        """Bytes of one string; a list of them for a slice."""
        if isinstance(index, slice):
            return [self._get(i) for i in range(*index.indices(self._n))]
        cdef Py_ssize_t i = index
        if i < 0:
            i += self._n
        if i < 0 or i >= self._n:
            raise IndexError(f"index {index} of {self._n} strings")
        return self._get(i)

    def text(self, Py_ssize_t i):
        """String ``i`` (0 .. n-1) as text; ModelFileError naming the index if it is not UTF-8."""
        if i < 0 or i >= self._n:
            raise IndexError(f"index {i} of {self._n} strings")
        return self._text(i)

    def to_bytes_list(self):
        """All strings as bytes."""
        cdef Py_ssize_t i
        return [self._get(i) for i in range(self._n)]

    def to_str_list(self):
        """All strings as text; ModelFileError naming the first index that is not UTF-8."""
        cdef Py_ssize_t i
        return [self._text(i) for i in range(self._n)]

    def __repr__(self):
        return f"<StringArray {self.field}: {self._n} strings>"


cdef class Header:
    """The contents of a file's header.
    ``metadata``: key -> int, float, bool, str (bytes if not UTF-8), NumPy array (a copy), or StringArray.
    ``kinds`` and ``places``: key -> name of the value's type, offset of the value.
    ``tensors``: a list of (name, type name, shape, offset in the file, bytes), shape in NumPy's order.
    ``data_start``: where tensor data begins. ``size``: bytes of the whole file.
    """

    cdef readonly int version
    cdef readonly int64_t alignment
    cdef readonly int64_t data_start
    cdef readonly int64_t size
    cdef readonly dict metadata
    cdef readonly dict kinds
    cdef readonly dict places
    cdef readonly list tensors


cdef class _Parser:
    cdef const uint8_t[::1] buffer      # the first `have` bytes of `size`
    cdef const uint8_t *p
    cdef uint64_t have
    cdef uint64_t size
    cdef uint64_t pos
    cdef object source                  # object to read the others from
    cdef object file

    cdef int fetch(self, uint64_t end, str field) except -1:
        """Makes the bytes before `end`, at most `size`, available; `p` may move."""
        if end <= self.have:
            return 0
        cdef uint64_t room = min(max(end, 2 * self.have, FIRST_READ), self.size)
        more = np.empty(room, np.uint8)
        if self.have:
            more[:self.have] = self.buffer
        self.source.read_into(more[self.have:], self.have, field)
        self.buffer = more
        self.p = &self.buffer[0]
        self.have = room
        return 0

    cdef object fail(self, str message, str field, uint64_t offset, str expected=None):
        return ModelFileError(message, file=self.file, field=field, offset=offset, expected=expected)

    cdef int need(self, uint64_t n, str field) except -1:
        if n > self.size - self.pos:
            raise self.fail("the file ends here", field, self.pos,
                            f"{n} more bytes, {self.size - self.pos} remain")
        return self.fetch(self.pos + n, field)

    cdef uint32_t u32(self, str field) except? 0xffffffff:
        cdef uint32_t value
        self.need(4, field)
        memcpy(&value, self.p + self.pos, 4)
        self.pos += 4
        return value

    cdef uint64_t u64(self, str field) except? 0xffffffffffffffff:
        cdef uint64_t value
        self.need(8, field)
        memcpy(&value, self.p + self.pos, 8)
        self.pos += 8
        return value

    cdef uint64_t length(self, str field, uint64_t limit) except? 0xffffffffffffffff:
        """A string's length, checked against what remains; its bytes are available."""
        cdef uint64_t at = self.pos
        cdef uint64_t n = self.u64(field)
        if n > self.size - self.pos:
            raise self.fail(f"a string of {n} bytes", field, at, f"at most the {self.size - self.pos} that remain")
        if n > limit:
            raise self.fail(f"a string of {n} bytes", field, at, f"at most {limit}")
        self.fetch(self.pos + n, field)
        return n

    cdef str name(self, str field, uint64_t limit):
        """A key or a tensor's name: text, never empty."""
        cdef uint64_t at = self.pos
        cdef uint64_t n = self.length(field, limit)
        if n == 0:
            raise self.fail("an empty name", field, at, f"1 to {limit} bytes of text")
        try:
            text = PyUnicode_DecodeUTF8(<const char *>self.p + self.pos, n, NULL)
        except UnicodeDecodeError as error:
            raise self.fail("not UTF-8", field, self.pos + <uint64_t>error.start, "UTF-8 text") from None
        if "\0" in text:
            raise self.fail("a NUL byte in a name", field, self.pos, "text")
        self.pos += n
        return text

    cdef object string(self, str field):
        """A string value: text, or bytes if it is not UTF-8 (an error only if text is required)."""
        cdef uint64_t n = self.length(field, INT64_MAX)
        cdef const char *start = <const char *>self.p + self.pos
        self.pos += n
        try:
            return PyUnicode_DecodeUTF8(start, n, NULL)
        except UnicodeDecodeError:
            return PyBytes_FromStringAndSize(start, n)

    cdef object scalar(self, uint32_t kind, str field):
        cdef const uint8_t *at
        cdef uint16_t u2
        cdef uint32_t u4
        cdef uint64_t u8
        cdef float f4
        cdef double f8
        self.need(VALUE_BYTES[kind], field)
        at = self.p + self.pos
        self.pos += VALUE_BYTES[kind]
        if kind == V_UINT8:
            return at[0]
        if kind == V_INT8:
            return <int8_t>at[0]
        if kind == V_BOOL:
            if at[0] > 1:
                raise self.fail(f"a truth value of {at[0]}", field, self.pos - 1, "0 or 1")
            return at[0] == 1
        if kind == V_UINT16 or kind == V_INT16:
            memcpy(&u2, at, 2)
            return u2 if kind == V_UINT16 else <int16_t>u2
        if kind == V_FLOAT32:
            memcpy(&f4, at, 4)
            return f4
        if kind == V_FLOAT64:
            memcpy(&f8, at, 8)
            return f8
        if kind == V_UINT32 or kind == V_INT32:
            memcpy(&u4, at, 4)
            return u4 if kind == V_UINT32 else <int32_t>u4
        memcpy(&u8, at, 8)
        return u8 if kind == V_UINT64 else <int64_t>u8

    cdef object strings(self, uint64_t n, str key):
        """Collects the offsets of n strings; the caller has checked that 8 n bytes remain."""
        starts = np.empty(n + 1, np.int64)
        cdef int64_t[::1] out = starts
        cdef uint64_t i = 0, length = 0, pos = self.pos, size = self.size, have
        cdef const uint8_t *p
        while True:
            p, have = self.p, self.have
            with nogil:
                while i < n and pos + 8 <= have:
                    memcpy(&length, p + pos, 8)
                    if length > size - pos - 8:
                        break
                    out[i] = <int64_t>(pos + 8)
                    pos += 8 + length
                    i += 1
            if i == n or pos + 8 <= have or pos + 8 > size:
                break
            self.fetch(pos + 8, key)
        self.pos = pos
        if i < n:
            self.length(f"{key}[{i}]", INT64_MAX)      # raises: reads the string at which the loop stopped
        self.fetch(pos, key)
        out[n] = <int64_t>(pos + 8)
        cdef StringArray array = StringArray.__new__(StringArray)
        array._starts = out
        array._n = n
        array.field = key
        array.file = self.file
        return array

    cdef tuple array(self, str key):
        """(kind, value) of an array."""
        cdef uint64_t at = self.pos
        cdef uint32_t kind = self.u32(key)
        if kind >= V_COUNT:
            raise self.fail(f"elements of type {kind}", key, at, f"0 to {V_COUNT - 1}")
        if kind == V_ARRAY:
            raise self.fail("an array of arrays", key, at, "an array of numbers, truth values or strings")
        at = self.pos
        cdef uint64_t n = self.u64(key)
        cdef uint64_t least = 8 if kind == V_STRING else VALUE_BYTES[kind]
        if n > (self.size - self.pos) // least:
            raise self.fail(f"an array of {n} elements of at least {least} bytes", key, at,
                            f"at most {(self.size - self.pos) // least}: the file ends there")
        if n > MAX_ELEMENTS:
            raise self.fail(f"an array of {n} elements", key, at, f"at most {MAX_ELEMENTS}")
        name, _, dtype = VALUE_TYPES[kind]
        if kind == V_STRING:
            return f"array of {name}", self.strings(n, key)
        if n == 0:
            return f"array of {name}", np.empty(0, dtype)
        cdef uint64_t end = self.pos + n * least
        self.fetch(end, key)
        raw = np.frombuffer(self.buffer[self.pos:end], np.uint8)
        if kind == V_BOOL and raw.max() > 1:
            i = int(np.argmax(raw > 1))
            raise self.fail(f"a truth value of {raw[i]}", f"{key}[{i}]", self.pos + <uint64_t>i, "0 or 1")
        value = raw.copy().view(dtype)
        value.flags.writeable = False
        self.pos = end
        return f"array of {name}", value

    cdef int pair(self, uint64_t i, Header header) except -1:
        field = f"metadata[{i}]"
        cdef uint64_t at = self.pos
        key = self.name(field, MAX_KEY)
        if key in header.metadata:
            raise self.fail("a second value for this key", key, at, "keys that differ")
        at = self.pos
        cdef uint32_t kind = self.u32(key)
        if kind >= V_COUNT:
            raise self.fail(f"a value of type {kind}", key, at, f"0 to {V_COUNT - 1}")
        header.places[key] = self.pos
        if kind == V_ARRAY:
            header.kinds[key], header.metadata[key] = self.array(key)
        else:
            header.kinds[key] = VALUE_TYPES[kind][0]
            header.metadata[key] = self.string(key) if kind == V_STRING else self.scalar(kind, key)
        return 0

    cdef tuple tensor(self, uint64_t i, set names):
        """(name, type name, shape, offset from the data's start, bytes or -1 if the type is unknown, place)."""
        field = f"tensors[{i}]"
        cdef uint64_t place = self.pos
        cdef uint64_t at = place
        name = self.name(f"{field}.name", MAX_NAME)
        if name in names:
            raise self.fail("a second tensor of this name", name, at, "names that differ")
        names.add(name)
        at = self.pos
        cdef uint32_t n_dims = self.u32(f"{name}.dims")
        if n_dims < 1 or n_dims > 4:
            raise self.fail(f"{n_dims} dimensions", f"{name}.dims", at, "1 to 4")
        cdef uint64_t n = 1, dim = 0, row = 0
        cdef uint32_t d
        shape = []
        for d in range(n_dims):
            at = self.pos
            dim = self.u64(f"{name}.dims[{d}]")
            # 2**56 weights of 8 bytes still fit an int64.
            if dim == 0 or dim > (<uint64_t>1 << 56) // n:
                raise self.fail(f"a dimension of {dim}", f"{name}.dims[{d}]", at,
                                "1 or more, and a product of at most 2**56")
            if d == 0:
                row = dim
            n *= dim
            shape.append(dim)
        at = self.pos
        cdef uint32_t number = self.u32(f"{name}.type")
        known = TENSOR_TYPES.get(number)
        cdef int64_t nbytes = -1
        cdef uint64_t block, block_bytes
        if known is None:
            type_name = f"ggml type {number}"
        else:
            type_name, block, block_bytes = known
            if row % block:
                raise self.fail(f"rows of {row} weights in {type_name}", f"{name}.dims[0]", at,
                                f"a multiple of {block}")
            nbytes = <int64_t>(n // block * block_bytes)
        at = self.pos
        cdef uint64_t offset = self.u64(f"{name}.offset")
        if offset > self.size:
            raise self.fail(f"tensor data at {offset}", f"{name}.offset", at,
                            f"an offset within the file's {self.size} bytes")
        return name, type_name, tuple(reversed(shape)), offset, nbytes, at

    cdef Header run(self):
        cdef Header header = Header.__new__(Header)
        cdef StringArray array
        cdef uint64_t i
        header.metadata, header.kinds, header.places, header.tensors = {}, {}, {}, []
        header.size = self.size
        self.fetch(min(self.size, 4), "magic")
        if self.size < 4 or self.p[0] != 71 or self.p[1] != 71 or self.p[2] != 85 or self.p[3] != 70:
            magic = PyBytes_FromStringAndSize(<const char *>self.p, 4 if self.size >= 4 else <Py_ssize_t>self.size)
            raise self.fail(f"the file starts with {magic!r}", "magic", 0, "b'GGUF'")
        self.pos = 4
        cdef uint32_t version = self.u32("version")
        if version and version & 0xffff == 0:
            raise self.fail("a big-endian file", "version", 4, "a little-endian one")
        if version != 2 and version != 3:
            raise self.fail(f"GGUF version {version}", "version", 4, "2 or 3")
        header.version = version
        cdef uint64_t n_tensors = self.count("tensor_count", 33, MAX_TENSORS)      # name, dims, type, offset
        cdef uint64_t n_pairs = self.count("metadata_count", 14, MAX_PAIRS)        # key, type, value
        for i in range(n_pairs):
            self.pair(i, header)
        header.alignment = self.alignment(header)
        infos = []
        names = set()
        for i in range(n_tensors):
            infos.append(self.tensor(i, names))
        cdef uint64_t alignment = header.alignment
        cdef uint64_t start = (self.pos + alignment - 1) & ~(alignment - 1)
        header.data_start = start
        for value in header.metadata.values():
            if isinstance(value, StringArray):
                array = value
                array._buffer = self.buffer
        self.lay_out(infos, start, alignment, header)
        return header

    cdef uint64_t count(self, str field, uint64_t least, uint64_t limit) except? 0xffffffffffffffff:
        cdef uint64_t at = self.pos
        cdef uint64_t n = self.u64(field)
        if n > (self.size - self.pos) // least or n > limit:
            raise self.fail(f"a count of {n}", field, at, f"at most {min((self.size - self.pos) // least, limit)}")
        return n

    cdef int64_t alignment(self, Header header) except -1:
        key = "general.alignment"
        value = header.metadata.get(key, 32)
        if type(value) is not int or value < 8 or value > MAX_ALIGNMENT or value & (value - 1):
            raise self.fail(f"{value!r:.80}", key, header.places[key], f"a power of two from 8 to {MAX_ALIGNMENT}")
        return value

    cdef int lay_out(self, list infos, uint64_t start, uint64_t alignment, Header header) except -1:
        """Checks where the tensors' data lie; data of unknown type extend to the next tensor."""
        cdef int64_t nbytes
        cdef uint64_t offset, end, at, known, low = 0
        order = sorted(range(len(infos)), key=[info[3] for info in infos].__getitem__)
        sizes = [0] * len(infos)
        before = None
        for rank, index in enumerate(order):
            name, type_name, _, offset, nbytes, at = infos[index]
            if offset % alignment:
                raise self.fail(f"tensor data at {offset}", f"{name}.offset", at, f"a multiple of {alignment}")
            if offset < low:
                raise self.fail(f"the data of {name!r} overlap those of {before!r}", f"{name}.offset", at,
                                f"{low} or more")
            if start > self.size or offset > self.size - start:
                raise self.fail("the file ends before the tensor's data", f"{name}.offset", at,
                                f"a file of more than {start + offset} bytes, not {self.size}")
            known = <uint64_t>nbytes
            if nbytes < 0:
                end = self.size - start
                if rank + 1 < len(order):
                    end = min(end, <uint64_t>infos[order[rank + 1]][3])
                known = end - offset        # not negative: offsets ascend, and this one is within the file
            if known > self.size - start - offset:
                raise self.fail(f"the file ends within the tensor's data ({known} bytes)", f"{name}.offset", at,
                                f"a file of at least {start + offset + known} bytes, not {self.size}")
            # A tensor of unknown type has at least a byte: two tensors never start at the same offset.
            low = offset + (known if known else 1)
            before = name
            sizes[index] = known
        for index, (name, type_name, shape, offset, _, _) in enumerate(infos):
            header.tensors.append((name, type_name, shape, start + offset, sizes[index]))
        return 0


def parse_gguf(source, file=None):
    """Header of a GGUF file: its bytes, or an object with its ``size`` and ``read_into(array, offset, field)``.

    ``file``: the name for errors. Raises ModelFileError if the header is malformed.
    """
    cdef _Parser parser = _Parser()
    parser.file = file
    if isinstance(source, bytes):
        parser.buffer = source
        parser.size = parser.have = parser.buffer.shape[0]
        parser.p = &parser.buffer[0] if parser.size else NULL
    else:
        parser.source = source
        parser.size = source.size
    return parser.run()
