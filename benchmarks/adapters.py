"""A step of training with adapters by LoRA, beside one that trains all weights.

    python benchmarks/adapters.py [--rounds 7] [--engine tensorflow] [--layers 12] [--size 768]
                                  [--processor-time]

A BERT of `--layers` × `--size` with a head of two classes learns from 8 texts of 128 tokens, by
Adam in float32; `all` trains every weight, `lora` adapters of rank 8 on the projections of
attention, and the head. Each is a process of its own; they take turns, a step each. Printed are the
median time of a step, the median over the rounds of the time of `all` as a multiple of that of
`lora` with its range, the numbers that are trained, and how much the memory of the process grew
from before the first step to its peak. `--processor-time` counts the time that is computed, for a
machine that has other work to do.
"""

import argparse
import resource
import statistics
import sys
import time

import numpy as np
from turns import ask, ratio, seconds, start, stop

ROWS, LENGTH, VOCABULARY = 8, 128, 21128


def peak() -> float:
    """The largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(kind: str, layers: int, size: int, clock: str) -> None:
    """Answer questions: `step` by the seconds of a step, others by a number."""
    import keras

    from bert4keras.layers import Dense
    from bert4keras.models import Model, build_transformer_model
    from bert4keras.training import add_lora

    keras.utils.set_random_seed(1)
    bert = build_transformer_model(
        vocab_size=VOCABULARY,
        hidden_size=size,
        num_hidden_layers=layers,
        num_attention_heads=size // 64,
        intermediate_size=4 * size,
        hidden_act="gelu",
    )
    model = Model(bert.inputs, Dense(2, activation="softmax", name="Head")(bert.output[:, 0]))
    if kind == "lora":
        add_lora(model, trainable="Head")
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (ROWS, LENGTH), dtype="int32")
    data = [ids, 0 * ids], np.arange(ROWS) % 2
    model.predict_on_batch(data[0])
    before = peak()
    model.train_on_batch(*data)
    answers = {
        "numbers": lambda: sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        "step": lambda: seconds(lambda: model.train_on_batch(*data), getattr(time, clock)),
        "memory": lambda: peak() - before,
    }
    print("ready", flush=True)
    for line in sys.stdin:
        print(answers[line.strip()](), flush=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engine", default="tensorflow")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--serve")
    parser.add_argument("--kind")
    given = parser.parse_args()
    if given.serve:
        clock = "process_time" if given.processor_time else "perf_counter"
        serve(given.kind, given.layers, given.size, clock)
        return
    options = ["--layers", str(given.layers), "--size", str(given.size)]
    options += ["--processor-time"] if given.processor_time else []
    workers = {
        kind: start(__file__, given.engine, "--kind", kind, *options) for kind in ("all", "lora")
    }
    times = {kind: [] for kind in workers}
    for _ in range(given.rounds):
        for kind, worker in workers.items():
            times[kind].append(ask(worker, "step"))
    for kind, worker in workers.items():
        numbers, memory = int(ask(worker, "numbers")), ask(worker, "memory")
        print(
            f"{kind:5} {statistics.median(times[kind]):6.2f} s  "
            f"{ratio(times['all'], times[kind])}  {numbers:,} trained  {memory:.0f} MiB"
        )
    stop(list(workers.values()))


if __name__ == "__main__":
    main()
