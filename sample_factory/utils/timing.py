"""Where the time goes: nested timers that cost well under a microsecond.

`Timing` keeps, per key, the last duration (`timeit`), the total (`add_time`) or the mean of the last calls
(`time_avg`), and also a tree of the same numbers by call path. All values are seconds.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

from sample_factory.utils.attr_dict import AttrDict

MIN_DURATION_SEC = 1e-8  # never zero: callers divide by durations

_LAST, _TOTAL, _AVERAGE = range(3)


class AvgTime:
    """Mean of the last `num_values_to_avg` durations."""

    def __init__(self, num_values_to_avg: int) -> None:
        self.values: deque[float] = deque(maxlen=num_values_to_avg)

    @property
    def value(self) -> float:
        """Mean in seconds, 0 before the first measurement."""
        return sum(self.values) / len(self.values) if self.values else 0.0

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4f}"


class TimingTreeNode:
    """Time spent in one call path; `timing` maps the keys of nested contexts to their nodes."""

    __slots__ = ("self_time", "started", "timing")

    def __init__(self) -> None:
        self.self_time: float | AvgTime = 0.0
        self.timing: dict[str, TimingTreeNode] = {}
        self.started = 0.0

    def total_time(self) -> float:
        """Seconds of this node (nested contexts included, as measured)."""
        return float(self.self_time)


class TimingContext:
    """Reusable context manager for one key of one `Timing`; safe to nest in itself."""

    __slots__ = ("_average", "_key", "_kind", "_stack", "_timing")

    def __init__(self, timing: Timing, key: str, kind: int, average: int = 0) -> None:
        self._timing = timing
        self._key = key
        self._kind = kind
        self._average = average
        self._stack = timing._open_contexts_stack

    def __enter__(self) -> TimingContext:
        stack = self._stack
        children = stack[-1].timing
        node = children.get(self._key)
        if node is None:
            node = self._new_node(children)
        stack.append(node)
        node.started = perf_counter()
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        node = self._stack.pop()
        elapsed = perf_counter() - node.started
        if elapsed < MIN_DURATION_SEC:
            elapsed = MIN_DURATION_SEC

        timing, key = self._timing, self._key
        if self._kind == _TOTAL:
            timing[key] += elapsed
            node.self_time += elapsed  # type: ignore[operator]
        elif self._kind == _LAST:
            timing[key] = elapsed
            node.self_time = elapsed
        else:
            timing[key].values.append(elapsed)
            node.self_time.values.append(elapsed)  # type: ignore[union-attr]

    def _new_node(self, siblings: dict[str, TimingTreeNode]) -> TimingTreeNode:
        """First visit of this call path: the entries appear in the printout in the order of entering."""
        node = siblings[self._key] = TimingTreeNode()
        is_average = self._kind == _AVERAGE
        if is_average:
            node.self_time = AvgTime(self._average)
        if isinstance(dict.get(self._timing, self._key), AvgTime) != is_average or self._key not in self._timing:
            self._timing[self._key] = AvgTime(self._average) if is_average else 0.0
        return node


class Timing(AttrDict):
    """Durations by key, readable as attributes: ``with timing.add_time("step"): ...; timing.step``.

    Contexts opened inside each other also form a tree by call path. A key used on several paths has one flat value and
    one value per path. Not thread-safe: one object per thread.
    """

    # Slots of the subclass live outside the mapping, so the caches are neither printed nor pickled.
    __slots__ = ("_average_contexts", "_last_contexts", "_total_contexts")

    _name: str
    _root_context: TimingTreeNode
    _open_contexts_stack: list[TimingTreeNode]
    _last_contexts: dict[str, TimingContext]
    _total_contexts: dict[str, TimingContext]
    _average_contexts: dict[tuple[str, int], TimingContext]

    def __new__(cls, *args: Any, **kwargs: Any) -> Timing:
        timing = super().__new__(cls)
        assert isinstance(timing, Timing)
        timing._last_contexts = {}
        timing._total_contexts = {}
        timing._average_contexts = {}
        return timing

    def __init__(self, name: str = "Profile") -> None:
        self._name = name
        self._root_context = TimingTreeNode()
        self._open_contexts_stack = [self._root_context]

    def timeit(self, key: str) -> TimingContext:
        """Keep the duration of the last call."""
        context = self._last_contexts.get(key)
        if context is None:
            context = self._last_contexts[key] = TimingContext(self, key, _LAST)
        return context

    def add_time(self, key: str) -> TimingContext:
        """Accumulate the durations of all calls."""
        context = self._total_contexts.get(key)
        if context is None:
            context = self._total_contexts[key] = TimingContext(self, key, _TOTAL)
        return context

    def time_avg(self, key: str, average: int = 10) -> TimingContext:
        """Keep the durations of the last `average` calls (an `AvgTime`)."""
        context = self._average_contexts.get((key, average))
        if context is None:
            context = self._average_contexts[key, average] = TimingContext(self, key, _AVERAGE, average)
        return context

    def flat_str(self) -> str:
        """`key: seconds` for every key, comma-separated."""
        return ", ".join(f"{key}: {float(value):.4f}" for key, value in dict.items(self) if not key.startswith("_"))

    def tree_str(self) -> str:
        """Multi-line tree by call path: on each level the leaves share a line, inner nodes follow."""
        return "\n".join([f"{self._name} tree view:", *_tree_lines(self._root_context, indent="")])

    def __str__(self) -> str:
        return self.tree_str()


def _tree_lines(node: TimingTreeNode, indent: str) -> list[str]:
    leaves = [f"{key}: {child.total_time():.4f}" for key, child in node.timing.items() if not child.timing]
    lines = [indent + ", ".join(leaves)] if leaves else []
    for key, child in node.timing.items():
        if child.timing:
            lines.append(f"{indent}{key}: {child.total_time():.4f}")
            lines.extend(_tree_lines(child, indent + "  "))
    return lines


_global_profiler: Timing | None = None


def init_global_profiler(t: Timing) -> None:
    """Make `t` the profiler that `global_profiler` returns in this process."""
    global _global_profiler
    _global_profiler = t


def global_profiler() -> Timing:
    """The profiler of this process, created on first use."""
    if _global_profiler is None:
        init_global_profiler(Timing("Global profiler"))
    assert _global_profiler is not None
    return _global_profiler
