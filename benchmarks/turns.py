"""Engines that compute in turns, each in a process of its own; imported by the benchmarks."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

PEER = "transformers"
# Between two engines: the threads of the one before go to sleep.
PAUSE = 0.3


def processors() -> int:
    """Number of processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def use_all_processors() -> None:
    """Let PyTorch, whichever side it is on, use the same processors as the others."""
    import torch

    torch.set_num_threads(processors())


def seconds(function: Callable, clock: Callable = time.perf_counter) -> float:
    """How long a call takes."""
    start = clock()
    function()
    return clock() - start


def start(script: str, engine: str, *arguments: str) -> subprocess.Popen:
    """Start `script --serve engine …` and wait until it prints that it is ready."""
    environment = os.environ | {
        "KERAS_BACKEND": "torch" if engine.startswith(PEER) else engine.split("-")[0],
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    worker = subprocess.Popen(
        [sys.executable, script, "--serve", engine, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    for line in worker.stdout:
        if line.strip() == "ready":
            return worker
    raise SystemExit(f"{engine} ended before it was ready")


def ask(worker: subprocess.Popen, what: object) -> float:
    """Have an engine compute something, and return the number that it answers."""
    worker.stdin.write(f"{what}\n")
    worker.stdin.flush()
    taken = float(worker.stdout.readline())
    time.sleep(PAUSE)
    return taken


def stop(workers: Sequence[subprocess.Popen]) -> None:
    """Let engines end."""
    for worker in workers:
        worker.stdin.close()
        worker.wait()


def ratio(peer: Sequence[float], ours: Sequence[float]) -> str:
    """The time of the peer as a multiple of ours: median over the rounds, and range."""
    ratios = [a / b for a, b in zip(peer, ours, strict=True)]
    return f"{statistics.median(ratios):5.2f}x ({min(ratios):4.2f} to {max(ratios):4.2f})"
