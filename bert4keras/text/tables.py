"""Tables that are filled on demand."""

from collections.abc import Callable

_KEPT = 20_000
_KEPT_LENGTH = 20


class Table(dict):
    """Dict that computes missing values, and caches up to `_KEPT` of them for short keys."""

    def __init__(self, compute: Callable):
        super().__init__()
        self._compute = compute

    def __missing__(self, key):
        value = self._compute(key)
        if isinstance(key, int) or len(key) <= _KEPT_LENGTH:
            if len(self) >= _KEPT:
                self.clear()
            self[key] = value
        return value
