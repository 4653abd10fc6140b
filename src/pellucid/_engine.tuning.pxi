# Part of _engine.pyx: the tuning, over csrc/kernels/tuning.h.

def tuning_limits():
    """-> {name: (least, most)} of everything that a tuning holds."""
    cdef int32_t least = 0, most = 0
    found = {}
    for i in range(PL_N_TUNING):
        pl_tuning_limits(i, &least, &most)
        found[pl_tuning_name(i).decode()] = (least, most)
    return found


def default_tuning(str isa):
    """-> {name: value}: the tuning for a tier that follows from this processor."""
    cdef pl_tuning tuning
    pl_tuning_default(pl_isa_find(isa.encode()), &tuning)
    return {pl_tuning_name(i).decode(): (<int32_t *>&tuning)[i] for i in range(PL_N_TUNING)}


cdef pl_tuning to_tuning(str isa, values) except *:
    """values: those that differ from the tier's default; None: none. Raises ValueError for an unknown name or a value
    beyond its limits."""
    cdef pl_tuning tuning
    limits = tuning_limits()
    known = default_tuning(isa)
    for name, value in ({} if values is None else values).items():
        if name not in known:
            raise ValueError(f"unknown name in a tuning: {name!r}")
        least, most = limits[name]
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name}={value!r}: expected {least} to {most}")
        known[name] = value
    for i, name in enumerate(limits):
        (<int32_t *>&tuning)[i] = known[name]
    return tuning
