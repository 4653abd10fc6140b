"""The prefix cache: what was computed for earlier requests, for later ones that begin with the same tokens.

A radix tree of token ids under a root for each key. A node may own a sequence that holds the tokens of its path. A
request that begins with a path forks a sequence at or below its end and rewinds the fork. Full attention can be rewound
to any length, so that only the leaves own sequences. Windows and recurrent layers cannot: for these, forks are kept at
several places of a path (see :class:`Found`). The cache may change how fast an answer comes, never what it is.

Nothing here is thread-safe: the scheduler's lock must be held.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple, Protocol

from pellucid.errors import OutOfMemoryError

__all__ = ["Cached", "Found", "PrefixCache", "common"]

STEP = 1024  # tokens by which a sequence of full attention is shortened at a time
PAGE = 64  # tokens
MOST_SEQUENCES = 1024  # kept: each takes some KB beside its pages
MOST_TRIED = 64  # sequences whose `reach` is called in one lookup


class Cached(Protocol):
    """What the cache keeps: ``_engine.Sequence``."""

    @property
    def length(self) -> int: ...

    def fork(self) -> Cached: ...

    def rewind(self, n: int) -> int: ...

    def reach(self, n: int) -> int:
        """The greatest length up to n to which it can be rewound."""

    def pages(self) -> list[tuple[int, int]]:
        """Its memory: (identity, bytes) of each page. Forks share pages."""


class Found(NamedTuple):
    """What is known of a prompt: a sequence can be rewound to its first `length` tokens. known: how many of its tokens
    the tree has seen before; if these are more, a sequence kept there would have been of use."""

    length: int
    known: int
    source: Any = None  # the node that owns the sequence; None: no sequence is of use
    end: Any = None  # the node at or before whose end the prompt leaves the tree


class _Node:
    """The end of a path. ids: of the path, from the parent's end on; used: when it was last used."""

    __slots__ = ("children", "depth", "ids", "pages", "parent", "sequence", "used")

    def __init__(self, parent: _Node | None, ids: array[int]) -> None:
        self.parent = parent
        self.ids = ids
        self.depth: int = len(ids) + (parent.depth if parent is not None else 0)
        self.children: dict[int, _Node] = {}
        self.sequence: Any = None
        self.pages: list[tuple[int, int]] = []
        self.used = 0

    def below(self) -> Iterator[_Node]:
        """This node and those below it."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack += node.children.values()


class PrefixCache:
    """The sequences kept for later requests. limit: bytes of pages that it may hold; None: whatever the pool gives.
    whole: whether each sequence can be rewound to any length."""

    def __init__(self, limit: int | None = None, *, whole: bool) -> None:
        self._limit = limit
        self._whole = whole
        self._roots: dict[Hashable, _Node] = {}
        self._owners: dict[_Node, None] = {}  # the nodes that own sequences
        self._pages: dict[int, int] = {}  # how many sequences hold a page
        self._clock = count(1)
        self.bytes = 0  # of the pages that it holds, some of which requests may hold, too

    def __len__(self) -> int:
        """Number of sequences kept."""
        return len(self._owners)

    def find(self, key: Hashable, ids: Sequence[int], most: int) -> Found:
        """Looks up the first `most` of a prompt's ids. What is found must be taken before the next change."""
        root = self._roots.get(key)
        if root is None or most < 1:
            return Found(0, 0)
        node, known = _walk(root, array("i", ids[:most]))
        source, n = self._best(node, known)
        return Found(n, known, source, node)

    def take(self, found: Found) -> Any:
        """-> a sequence of the tokens that were found, owned by the caller; None: there is no memory for it."""
        try:
            sequence = found.source.sequence.fork()
        except OutOfMemoryError:
            return None
        if sequence.length > found.length:
            sequence.rewind(found.length)
        now = next(self._clock)
        if self._whole:
            _touch(found.end if found.end.depth <= found.length else found.end.parent, now)
        else:
            found.source.used = now
        return sequence

    def _best(self, node: _Node, known: int) -> tuple[_Node | None, int]:
        """(the node whose sequence can be rewound to the most of the first `known` tokens, which end in `node`; how
        many these are)."""
        best, length = None, 0
        above = node if node.depth <= known else node.parent
        while above is not None and best is None:
            if above.sequence is not None:
                best, length = above, above.depth
            above = above.parent
        tried = 0
        level: _Node | None = node
        while level is not None:  # others leave the path above `node`, and may be rewound to where they left it
            most = min(known, level.depth)
            for below in level.below():
                if length >= most or tried == MOST_TRIED:
                    break
                if below.sequence is not None:
                    n, tried = below.sequence.reach(most), tried + 1
                    if n > length:
                        best, length = below, n
            level = level.parent
        return best, length

    def insert(self, key: Hashable, ids: Sequence[int], sequence: Cached) -> None:
        """Keeps a sequence, which holds exactly these ids and which the cache then owns."""
        if not ids:
            return
        try:
            self._insert(key, ids, sequence)
        except BaseException:
            self.clear()  # if an interrupt ends it halfway, the counts of pages are wrong
            raise

    def _insert(self, key: Hashable, ids: Sequence[int], sequence: Cached) -> None:
        path = array("i", ids)
        root = self._roots.setdefault(key, _Node(None, array("i")))
        node, known = _walk(root, path)
        now = next(self._clock)
        if self._whole:
            if known == len(path) and known:  # a longer one serves as well
                _touch(node, now)
                return
            node = self._extend(_split(node, known), path[known:])
            _touch(node, now)
        else:
            node = _split(node, known)
            if known < len(path):
                node = _child(node, path[known:])
            node.used = now
        if node.sequence is None:
            self._own(node, sequence)
        while len(self._owners) > MOST_SEQUENCES or (self._limit is not None and self.bytes > self._limit):
            self._evict()

    def _extend(self, node: _Node, ids: array[int]) -> _Node:
        """The end of a path beyond a node, for a new sequence, which makes the node's own sequence useless."""
        if node.sequence is None or node.parent is None:
            return _child(node, ids)
        self._drop(node)
        node.ids += ids
        node.depth += len(ids)
        return node

    def _own(self, node: _Node, sequence: Cached) -> None:
        node.sequence, node.pages = sequence, sequence.pages()
        self._owners[node] = None
        for page, size in node.pages:
            users = self._pages.get(page, 0)
            self._pages[page] = users + 1
            if not users:
                self.bytes += size

    def _drop(self, node: _Node) -> Any:
        """Removes a node's sequence, and returns it."""
        for page, size in node.pages:
            users = self._pages[page] - 1
            if users:
                self._pages[page] = users
            else:
                del self._pages[page]
                self.bytes -= size
        sequence, node.sequence, node.pages = node.sequence, None, []
        del self._owners[node]
        return sequence

    # ---- eviction -------------------------------------------------------------------------------------------------

    def evict(self, least: int) -> bool:
        """Evicts the least recently used, at least so many bytes or all -> whether there was anything. Requests may
        still hold some of these pages."""
        if not self._owners:
            return False
        upto = self.bytes - max(least, 1)
        try:
            while self._owners and self.bytes > max(upto, 0):
                self._evict()
        except BaseException:
            self.clear()  # as in `insert`
            raise
        return True

    def _evict(self) -> None:
        """Drops the least recently used sequence; with full attention, shortens it: what is nearer to the root is more
        likely to be used again."""
        node = min(self._owners, key=lambda node: node.used)
        sequence, parent = self._drop(node), node.parent
        if self._whole and parent is not None:
            left = max(parent.depth, (node.depth - STEP) // PAGE * PAGE)
            if left > parent.depth:
                sequence.rewind(left)
                del node.ids[left - parent.depth :]
                node.depth = left
                self._own(node, sequence)
                return
            if parent.depth and len(parent.children) == 1:  # the parent becomes a leaf
                sequence.rewind(parent.depth)
                self._own(parent, sequence)
        self._prune(node)

    def _prune(self, node: _Node | None) -> None:
        """Removes nodes that nothing needs, from one upwards."""
        while node is not None and node.sequence is None and node.parent is not None:
            parent = node.parent
            if not node.children:
                del parent.children[node.ids[0]]
            elif len(node.children) == 1:
                (child,) = node.children.values()
                if self._whole and node.used > child.used:  # which will then be a leaf
                    return
                child.ids = node.ids + child.ids
                child.parent = parent
                parent.children[child.ids[0]] = child
                return
            else:
                return
            node = parent
        if node is not None and node.parent is None and not node.children:
            self._roots = {key: root for key, root in self._roots.items() if root is not node}

    def kept(self) -> list[tuple[Hashable, list[int]]]:
        """(root, ids) of each kept sequence, the most recently used first."""
        roots = {id(root): key for key, root in self._roots.items()}
        out = []
        for node in sorted(self._owners, key=lambda node: node.used, reverse=True):
            parts, above = [], node
            while above.parent is not None:
                parts.append(above.ids)
                above = above.parent
            out.append((roots[id(above)], [token for part in reversed(parts) for token in part]))
        return out

    def copy(self, key: Hashable, ids: Sequence[int]) -> Any:
        """-> a fork of a kept sequence, which does not count as its use; None: it is no longer kept, or there is no
        memory."""
        root = self._roots.get(key)
        node, known = (root, 0) if root is None else _walk(root, array("i", ids))
        if node is None or node.sequence is None or not known == len(ids) == node.depth:
            return None
        try:
            return node.sequence.fork()
        except OutOfMemoryError:
            return None

    def clear(self) -> None:
        """Drops all sequences."""
        for node in self._owners:  # nodes refer to each other, and would keep the sequences for a while
            node.sequence = None
        self._roots.clear()
        self._owners.clear()
        self._pages.clear()
        self.bytes = 0


def common(a: Sequence[int], b: Sequence[int], start: int = 0) -> int:
    """How many tokens two lists (or arrays) have in common at the beginning. start: so many are known to be equal."""
    least, most = start, min(len(a), len(b))
    step = 64
    while least < most:  # slices are compared at the speed of memory
        end = min(least + step, most)
        if a[least:end] == b[least:end]:
            least, step = end, step * 4
        elif step == 1:
            break
        else:
            most, step = end - 1, max((end - least) // 2, 1)
    return least


def _walk(root: _Node, ids: array[int]) -> tuple[_Node, int]:
    """Follows a path from a root -> (the node at or before whose end it leaves the tree, the tokens until there)."""
    node, at = root, 0
    while at < len(ids):
        child = node.children.get(ids[at])
        if child is None:
            break
        same = common(child.ids, ids[at : at + len(child.ids)])
        node, at = child, at + same
        if same < len(child.ids):
            break
    return node, at


def _split(node: _Node, at: int) -> _Node:
    """The node that ends at `at`, which is within or at the end of the given one's ids."""
    parent = node.parent
    if at == node.depth or parent is None:
        return node
    cut = at - parent.depth
    middle = _Node(parent, node.ids[:cut])
    middle.used = node.used
    node.ids, node.parent = node.ids[cut:], middle
    parent.children[middle.ids[0]] = middle
    middle.children[node.ids[0]] = node
    return middle


def _child(node: _Node, ids: array[int]) -> _Node:
    child = node.children[ids[0]] = _Node(node, ids)
    return child


def _touch(node: _Node | None, now: int) -> None:
    while node is not None:
        node.used = now
        node = node.parent
