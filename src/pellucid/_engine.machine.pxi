# Part of _engine.pyx: what this build and this machine have.

def isas():
    """[(name, built, runs)] of every known tier."""
    return [(pl_isa_name(<pl_isa>i).decode(), bool(pl_isa_built(<pl_isa>i)), bool(pl_isa_runs(<pl_isa>i)))
            for i in range(PL_N_ISA)]


def find_isa(name):
    """-> a tier's name: `name` if this build and CPU have it, the best tier for None. Raises IsaError."""
    if name is None:
        return pl_isa_name(pl_isa_best()).decode()
    known = isas()
    for n, built, runs in known:
        if n == name:
            if not built:
                raise IsaError(f"instruction set {name!r} is not built", isa=name)
            if not runs:
                raise IsaError(f"this CPU lacks instruction set {name!r}", isa=name)
            return n
    usable = ", ".join(n for n, built, runs in known if built and runs)
    raise IsaError(f"unknown instruction set {name!r}; this machine runs: {usable}", isa=name)


def cpu_name():
    return pl_cpu_name().decode("utf-8", "replace").strip()


def topology():
    """-> (default number of threads, reason)."""
    cdef pl_topology t
    pl_topology_read(b"", &t)
    return t.threads, t.why.decode("utf-8", "replace")


def processors():
    """How many processors this process can use at the same time: those of its affinity, or a cgroup's quota if that
    allows fewer."""
    cdef pl_topology t
    pl_topology_read(b"", &t)
    return t.processors


def format_number(str name):
    """ggml's number of a weight format, or -1 if the engine does not support it."""
    return pl_format_number(name.encode())


def format_wide(str name):
    """Whether a format's codes are so large that two products with activations of eight bits fill 16 bits."""
    return bool(pl_format_wide(pl_format_number(name.encode())))


def format_names():
    names, i = [], 0
    while pl_format_name(i) != NULL:
        names.append(pl_format_name(i).decode())
        i += 1
    return names
