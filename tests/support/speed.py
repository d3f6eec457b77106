"""How fast this machine is now: limits of time that are the same on slow and on busy machines."""

import json
import time

WORK = 0.01
"""Seconds that `piece_of_work` takes where limits are meant as they are written."""
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
ENTRIES = json.dumps({str(i): ENTRY for i in range(5000)})


def piece_of_work() -> float:
    """Compute with JSON, numbers and small objects; return the seconds of computing it took."""
    start = time.process_time()
    for value in json.loads(ENTRIES, object_pairs_hook=dict).values():
        sorted({*value["shape"], *value["data_offsets"]})
    return time.process_time() - start


def seconds_here(seconds: float) -> float:
    """Return how many seconds of computing these are here and now; never fewer."""
    return seconds * max(1, min(piece_of_work() for _ in range(3)) / WORK)
