"""A language model that plays Chinese chess: games are its texts, squares its tokens.

    python experiments/task_language_model_chinese_chess.py --quick
    python experiments/task_language_model_chinese_chess.py predict "h2e2 h9g7" "" --output RUN

A game is a text of moves in ICCS notation, each of which is two tokens, the squares from and to
(https://kexue.fm/archives/7877). Nothing tells the model what a board is, or how pieces go. It
starts from a checkpoint of BERT, of whose tokens few are kept; a square, h2, starts as the mean of
its letter and its digit.

The games are made by the script (`chinese_chess.py`): both sides move by the rules at random, and
most of the time take the best piece that they can. The ends of games are cut off.

Scored by the share of positions of the test games in which the move that the model writes is legal,
beside that of the moves made in other games after as many moves; and by perplexity, for a move,
beside the one of a player who knows the rules and nothing else. `predict` goes on with a game,
"" being its start, by the best move that the rules allow.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence

import numpy as np
from chinese_chess import FILES, NAMES, RANKS, Board, Move, move_name, play, read_move
from common import Batches, Size, arguments, fit, load_best, remember, report
from writing import compile_for_tokens, log_probabilities, next_tokens, scorer

from bert4keras.generation import Generator
from bert4keras.models import Model, build_transformer_model

QUICK = Size(epochs=8, batch_size=32, learning_rate=1e-3, maxlen=122)
FULL = Size(epochs=20, batch_size=64, learning_rate=1e-4, maxlen=242)
N_GAMES = {True: 8000, False: 100_000}  # by --quick
N_VALID, N_TEST = 100, 200  # games
N_POSITIONS = 5  # of each of these games, in which the model has to move
KEPT = ["[PAD]", "[CLS]", "[SEP]", *FILES, *RANKS]  # behind them come the squares
START_ID, END_ID, FIRST_SQUARE = 1, 2, len(KEPT)
TOPK = 5


# --- games as texts


def to_ids(game: Sequence[Move]) -> list[int]:
    """[CLS] and two tokens for each move."""
    return [START_ID, *(FIRST_SQUARE + square for move in game for square in move)]


def to_move(ids: Sequence[int]) -> Move | None:
    """The move that two tokens are; None if they are no squares."""
    if len(ids) != 2 or min(ids) < FIRST_SQUARE:
        return None
    return ids[0] - FIRST_SQUARE, ids[1] - FIRST_SQUARE


def make(pad: Callable, samples: list[tuple[list[int]]]) -> tuple:
    """Inputs of the model, and at each position the square behind it."""
    token_ids = pad([ids for (ids,) in samples])
    return [token_ids, np.zeros_like(token_ids)], next_tokens(token_ids)


def build(args: argparse.Namespace) -> Model:
    """The probabilities of the next square."""
    return build_transformer_model(
        args.files.config,
        args.files.checkpoint if args.texts is None else None,
        application="lm",
        keep_tokens=args.tokenizer.tokens_to_ids(KEPT),
        compound_tokens=[[KEPT.index(character) for character in name] for name in NAMES],
    )


# --- playing


def position(game: Sequence[Move]) -> Board:
    """The board after some moves.

    Raises:
        ValueError: one of them is not legal.
    """
    board = Board()
    for n, move in enumerate(game, 1):
        if move not in board.legal_moves():
            raise ValueError(f"move {n}, {move_name(move)}, is not legal")
        board.do(move)
    return board


def squares_of(moves: Sequence[Move]) -> Callable[[list[int]], list[int]]:
    """What may be written, so that it is one of some moves."""

    def allowed(output: list[int]) -> list[int]:
        n = len(output)
        begun = [ids for ids in (to_ids([move])[1:] for move in moves) if ids[:n] == output]
        # A beam may be wider than there are moves; what is left over ends.
        return sorted({ids[n] for ids in begun}) or [END_ID]

    return allowed


class Player:
    """Goes on with games.

    Args:
        model: of `build`.
    """

    def __init__(self, model: Model) -> None:
        self.generator = Generator(model, end_id=END_ID, maxlen=2)

    def proposals(self, games: Sequence[Sequence[Move]]) -> list[Move | None]:
        """The moves that the model writes, whether they are legal or not."""
        return [to_move(ids) for ids in self.generator.generate(list(map(to_ids, games)))]

    def move(self, game: Sequence[Move]) -> Move | None:
        """The legal move that the model finds most probable; None if there is none."""
        moves = position(game).legal_moves()
        if not moves:
            return None
        options = {"topk": TOPK, "allowed": squares_of(moves)}
        return to_move(self.generator.generate([to_ids(game)], **options)[0])


# --- scores


def places(games: Sequence[Sequence[Move]]) -> list[tuple[list[Move], list[Move]]]:
    """Some positions of each game: the moves up to there, and the legal ones."""
    found = []
    for n, game in enumerate(games):
        chosen = random.Random(n).sample(range(len(game)), min(N_POSITIONS, len(game)))
        found += [(game[:at], position(game[:at]).legal_moves()) for at in sorted(chosen)]
    return found


def legal_share(moves: Sequence[Move | None], wanted: Sequence[tuple]) -> float:
    """The share of moves that are legal."""
    legal = [move in allowed for move, (_, allowed) in zip(moves, wanted, strict=True)]
    return round(float(np.mean(legal)), 4)


def move_of_another(game: Sequence[Move], others: Sequence[Sequence[Move]], n: int) -> Move | None:
    """The move that another game has after as many moves."""
    other = others[n % len(others)]
    return other[len(game)] if len(game) < len(other) else None


def move_perplexity(scoring: object, games: Sequence[Sequence[Move]]) -> float:
    """One over the geometric mean of the probabilities of all moves."""
    totals = log_probabilities(scoring, [(to_ids(game),) for game in games], make)
    return round(float(np.exp(-totals[:, 0].sum() / sum(map(len, games)))), 2)


# --- the experiment


def predict(args: argparse.Namespace, player: Player) -> None:
    """Print the model's move for each game."""
    for text in args.texts:
        try:
            move = player.move([read_move(name) for name in text.split()])
        except ValueError as error:
            raise SystemExit(f"{text!r}: {error}") from error
        row = {"game": text, "move": move and move_name(move)}
        print(json.dumps(row, ensure_ascii=False))


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv, needs_data=False)
    model = build(args)
    player = Player(model)
    if args.texts is not None:
        load_best(args, model)
        return predict(args, player)

    remember(args)
    rng = random.Random(0)  # the games are the same for every --seed
    n_games = N_VALID + N_TEST + N_GAMES[args.quick]
    games = [play(rng, (args.size.maxlen - 2) // 2) for _ in range(n_games)]
    valid, test = games[:N_VALID], games[N_VALID:][:N_TEST]
    train = games[N_VALID + N_TEST :]
    batches = Batches([(to_ids(game),) for game in train], args.batch_size, make)
    compile_for_tokens(args, model, batches)
    scoring = scorer(model)

    def scored(games: Sequence, wanted: list) -> dict[str, float]:
        proposals = player.proposals([game for game, _ in wanted])
        return {
            "legal": legal_share(proposals, wanted),
            "perplexity": move_perplexity(scoring, games),
        }

    wanted = places(valid)
    fit(args, model, batches, lambda: scored(valid, wanted))
    wanted = places(test)
    others = [move_of_another(game, train, n) for n, (game, _) in enumerate(wanted)]
    choices = [len(moves) for _, moves in wanted]
    scores = scored(test, wanted)
    baseline = {
        "legal": legal_share(others, wanted),
        "perplexity": round(float(np.exp(np.mean(np.log(choices)))), 2),
    }
    compared = {"model": scores, "other games, any legal move": baseline}
    return report(args, f"{len(test)} games", {**scores, "moves": compared})


if __name__ == "__main__":
    main()
