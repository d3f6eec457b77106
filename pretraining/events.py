"""Numbers over steps in the file format of TensorBoard, written without it.

The file is a TFRecord file of tensorflow/core/util/event.proto, whose summaries are
tensorflow/core/framework/summary.proto.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from records import field, framed, replacing, to_varints

NAME = "events.out.tfevents.0.pretraining"


def event(wall_time: float, step: int, numbers: Mapping[str, float]) -> bytes:
    """One record: numbers by name at a step."""
    content = to_varints([1 << 3 | 1]) + struct.pack("<d", wall_time)
    content += to_varints([2 << 3, step])
    values = b""
    for tag, number in numbers.items():
        simple_value = to_varints([2 << 3 | 5]) + struct.pack("<f", number)
        values += field(1, field(1, tag.encode()) + simple_value)
    return framed(content + field(5, values))


def write_events(
    folder: Path, rows: Sequence[tuple[float, int, Mapping[str, float]]], append: bool = False
) -> None:
    """Write or append the events of rows (time, step, numbers by name) in a folder."""
    content = b"".join(event(*row) for row in rows)
    if append:
        with open(folder / NAME, "ab") as file:
            file.write(content)
        return
    folder.mkdir(exist_ok=True)
    version = to_varints([1 << 3 | 1]) + struct.pack("<d", 0) + field(3, b"brain.Event:2")
    with replacing(folder / NAME) as file:
        file.write(framed(version) + content)
