"""Tokens per second of writing, on every backend, against `transformers` on PyTorch.

    python benchmarks/generating.py [--rounds 5] [--engines tensorflow jax …] [--cases beam4 …]

BERT-base as a language model (12 layers of 768, 21,128 tokens), 32 new tokens after 128 random:
greedy for 1 and for 8 prompts, and a beam search of 4. T5-small: beam search of 4 after 128 tokens.
Ours is `Generator.generate`; the peer is `generate` of `BertLMHeadModel` and of
`T5ForConditionalGeneration`, its cache on, with the same random weights. Engines called `-predict`
are what scripts for the original do: an `AutoRegressiveDecoder` whose `predict` calls
`model.predict` on everything that was written so far; `-last-token` does so by `last_token(model)`.

Every engine is a process of its own with the same number of processors; they write in turns, and
the others wait meanwhile. All start from lists of ids and end in lists of ids. Before anything is
timed, they must have written the same tokens as the peer.

Printed are tokens per second (those of the result: a beam search writes one text), the median over
the rounds of the time of the peer as a multiple of ours (above 1: ours is faster) with its range,
and what share of the floor that is: the time that reading all weights once for every token takes,
measured in the same process as sums over them.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable

import numpy as np
from turns import PEER, ask, ratio, seconds, start, stop, use_all_processors

BACKENDS = ("tensorflow", "jax", "torch")
SCRIPTS = ("tensorflow-last-token", "tensorflow-predict", "jax-predict")
ENGINES = (PEER, *BACKENDS, *SCRIPTS)
# Name → model, prompts, beams.
CASES = {
    "greedy1": ("bert", 1, 1),
    "greedy8": ("bert", 8, 1),
    "beam4": ("bert", 1, 4),
    "t5-beam4": ("t5", 1, 4),
}
VOCABULARY, SOURCE, NEW = {"bert": 21128, "t5": 32128}, 128, 32
END = {"bert": 102, "t5": 1}


def prompts(case: str) -> list[list[int]]:
    """Random token ids."""
    model, n, _ = CASES[case]
    return np.random.default_rng(n).integers(1000, VOCABULARY[model], (n, SOURCE)).tolist()


def cases_of(model: str, engine: str) -> list[str]:
    """The cases that an engine takes part in: scripts for the original are slow."""
    names = [name for name, (wanted, *_) in CASES.items() if wanted == model]
    return ["beam4"] if engine in SCRIPTS else names


# ---------------------------------------------------------------------------------- in the engines

Write = Callable[[str], list[list[int]]]


def transformers_engine(model: str, folder: str) -> tuple[Write, int]:
    """The peer: how it writes, and the size of its weights in bytes."""
    import torch
    import transformers

    use_all_processors()
    kind = {"bert": "BertLMHeadModel", "t5": "T5ForConditionalGeneration"}[model]
    network = getattr(transformers, kind).from_pretrained(f"{folder}/{model}").eval()

    @torch.inference_mode()
    def write(case: str) -> list[list[int]]:
        ids = torch.tensor(prompts(case))
        written = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=NEW,
            max_new_tokens=NEW,
            num_beams=CASES[case][2],
            do_sample=False,
            use_cache=True,
            length_penalty=0.0,
            pad_token_id=0,
            eos_token_id=END[model],
        )
        return written[:, -NEW:].tolist()

    return write, sum(p.nbytes for p in network.parameters())


def keras_engine(model: str, folder: str, way: str) -> tuple[Write, int]:
    """Ours, on the backend that `KERAS_BACKEND` names."""
    import keras

    from bert4keras.generation import Generator
    from bert4keras.models import build_transformer_model

    if keras.backend.backend() == "torch":
        use_all_processors()
    options = {"bert": {"application": "lm", "with_mlm": "linear"}, "t5": {"with_lm": "linear"}}
    network = build_transformer_model(f"{folder}/{model}", **options[model])
    size = sum(int(np.prod(w.shape)) * 4 for w in network.weights)
    if way:
        return decoder(network, way), size
    generator = Generator(network, end_id=END[model], maxlen=NEW, minlen=NEW)

    def write(case: str) -> list[list[int]]:
        return generator.generate(prompts(case), topk=CASES[case][2])

    return write, size


def decoder(network: object, way: str) -> Write:
    """What a script for the original does, one prompt at a time."""
    from bert4keras.snippets import AutoRegressiveDecoder

    class Script(AutoRegressiveDecoder):
        @AutoRegressiveDecoder.wraps(default_rtype="logits")
        def predict(self, inputs, output_ids, states):
            token_ids = np.concatenate([inputs[0], output_ids], axis=1)
            segment_ids = np.zeros_like(token_ids)
            if way == "last-token":
                return self.last_token(network).predict([token_ids, segment_ids])
            return network.predict([token_ids, segment_ids], verbose=0)[:, -1]

    script = Script(start_id=None, end_id=-1, maxlen=NEW)

    def write(case: str) -> list[list[int]]:
        return [script.beam_search([ids], CASES[case][2]).tolist() for ids in prompts(case)]

    return write


def reading(size: int) -> float:
    """Seconds that it takes to read so many bytes, with all processors."""
    from concurrent.futures import ThreadPoolExecutor

    from turns import processors

    parts = np.array_split(np.ones(size // 4, "float32"), processors())
    with ThreadPoolExecutor(len(parts)) as pool:
        return min(seconds(lambda: list(pool.map(np.max, parts))) for _ in range(7))


def serve(engine: str, model: str, folder: str) -> None:
    """Write the cases that come in by name, and answer with the time taken."""
    if engine == PEER:
        write, size = transformers_engine(model, folder)
    else:
        write, size = keras_engine(model, folder, engine.partition("-")[2])
    for case in cases_of(model, engine):
        for _ in range(3 if engine == "torch" else 1):  # records after 64 steps
            write(case)
        with open(f"{folder}/{engine}-{case}.json", "w") as file:
            json.dump(write(case), file)
    print("ready", flush=True)
    for line in sys.stdin:
        what = line.strip()
        if what == "floor":
            print(reading(size), flush=True)
        else:
            print(seconds(lambda case=what: write(case)), flush=True)


# ---------------------------------------------------------------------------------- in the parent


def make_weights(folder: str) -> None:
    """Save random weights and their configs in the format of the peer."""
    import torch
    import transformers

    torch.manual_seed(0)
    bert = transformers.BertConfig(vocab_size=VOCABULARY["bert"], is_decoder=True)
    bert.initializer_range = 0.1  # so that the best token is the best by far
    transformers.BertLMHeadModel(bert).save_pretrained(f"{folder}/bert")
    t5 = transformers.T5Config(
        vocab_size=VOCABULARY["t5"], decoder_start_token_id=0, tie_word_embeddings=True
    )
    transformers.T5ForConditionalGeneration(t5).save_pretrained(f"{folder}/t5")


def check(engines: list[str], case: str, folder: str) -> None:
    """Make sure that all engines wrote the same."""
    written = {}
    for engine in engines:
        with open(f"{folder}/{engine}-{case}.json") as file:
            written[engine] = json.load(file)
    for engine in engines:
        assert written[engine] == written[PEER], (case, engine, written[engine], written[PEER])


def compare(engines: list[str], model: str, cases: list[str], rounds: int, folder: str) -> None:
    """Print what all engines take for all cases of one model."""
    workers = {engine: start(__file__, engine, model, folder) for engine in engines}
    floors = [ask(workers[PEER], "floor") for _ in range(3)]
    print(f"\n{model}: reading the weights takes {min(floors) * 1e3:.1f} ms")
    for case in cases:
        present = [engine for engine in engines if case in cases_of(model, engine)]
        check(present, case, folder)
        times = {engine: [] for engine in present}
        for _ in range(rounds):
            for engine in present:
                times[engine].append(ask(workers[engine], case))
        print(f"\n{case}", flush=True)
        for engine in present:
            taken = statistics.median(times[engine])
            tokens = NEW * CASES[case][1] / taken
            share = NEW * min(floors) / taken
            print(
                f"{engine:22} {tokens:6.1f} tokens/s   {ratio(times[PEER], times[engine])}   "
                f"{share:4.0%} of the floor",
                flush=True,
            )
    stop(workers.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(*args.serve)
    with tempfile.TemporaryDirectory() as folder:
        make_weights(folder)
        for model in ("bert", "t5"):
            cases = [case for case in args.cases if CASES[case][0] == model]
            engines = [PEER, *(e for e in args.engines if e != PEER)]
            if model == "t5":
                engines = [e for e in engines if e not in SCRIPTS]
            if cases:
                compare(engines, model, cases, args.rounds, folder)


if __name__ == "__main__":
    main()
