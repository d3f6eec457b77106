"""Rules of Chinese chess (xiangqi), and games of a player that only knows how to take pieces.

Squares are numbered 9 · rank + file from red's left corner, and are named as in ICCS: files a to i
from red's left, ranks 0 to 9 from red's side. A move is a pair of squares, `h2e2`. Red's pieces are
R N B A K C P (rook, knight, bishop, advisor, king, cannon, pawn), black's the same in lower case.
"""

import random
from collections.abc import Iterator
from functools import cache

FILES, RANKS = "abcdefghi", "0123456789"
NAMES = [file + rank for rank in RANKS for file in FILES]
START = "rnbakabnr/9/1c5c1/p1p1p1p1p/9/9/P1P1P1P1P/1C5C1/9/RNBAKABNR"
STRAIGHT = ((1, 0), (-1, 0), (0, 1), (0, -1))
DIAGONAL = ((1, 1), (1, -1), (-1, 1), (-1, -1))
# What taking a piece is worth to the player below.
WORTH = {"K": 1000, "R": 9, "C": 5, "N": 4, "B": 2, "A": 2, "P": 1}
SHARE_TAKING = 0.75

Move = tuple[int, int]


def square(rank: int, file: int) -> int | None:
    """The number of a square; None outside the board."""
    return 9 * rank + file if 0 <= rank < 10 and 0 <= file < 9 else None


@cache
def rays(origin: int) -> tuple[tuple[int, ...], ...]:
    """The squares in each straight direction, the nearest first."""
    rank, file = divmod(origin, 9)
    found = []
    for up, right in STRAIGHT:
        ray = [square(rank + n * up, file + n * right) for n in range(1, 10)]
        found.append(tuple(each for each in ray if each is not None))
    return tuple(found)


@cache
def steps(piece: str, origin: int) -> tuple[tuple[int, int | None], ...]:
    """Where a piece other than rook and cannon goes: target, and the square that must be empty."""
    rank, file = divmod(origin, 9)
    red, kind = piece.isupper(), piece.upper()
    forward = 1 if red else -1
    crossed = rank > 4 if red else rank < 5
    found: list[tuple[int | None, int | None]] = []
    if kind == "N":
        for up, right in STRAIGHT:
            leg = square(rank + up, file + right)
            for side in (-1, 1):
                # Two along the leg's direction, one to a side of it.
                target = square(
                    rank + 2 * up + side * abs(right), file + 2 * right + side * abs(up)
                )
                found.append((target, leg))
    elif kind == "B":
        for up, right in DIAGONAL:
            target = square(rank + 2 * up, file + 2 * right)
            if target is not None and (target // 9 < 5) == red:
                found.append((target, square(rank + up, file + right)))
    elif kind in "AK":
        for up, right in DIAGONAL if kind == "A" else STRAIGHT:
            target = square(rank + up, file + right)
            palace = range(3) if red else range(7, 10)
            if target is not None and target // 9 in palace and 3 <= target % 9 <= 5:
                found.append((target, None))
    elif kind == "P":
        found.append((square(rank + forward, file), None))
        if crossed:
            found += [(square(rank, file + 1), None), (square(rank, file - 1), None)]
    return tuple(each for each in found if each[0] is not None)


class Board:
    """A position, and whose turn it is."""

    def __init__(self) -> None:
        ranks = START.split("/")[::-1]
        for n in RANKS[1:]:
            ranks = [rank.replace(n, "." * int(n)) for rank in ranks]
        self.squares = list("".join(ranks))  # "." is empty
        self.red_moves = True

    def is_own(self, piece: str, red: bool) -> bool:
        return piece != "." and piece.isupper() == red

    def targets(self, origin: int) -> Iterator[int]:
        """Where the piece on a square goes or takes, checks not considered."""
        piece = self.squares[origin]
        red = piece.isupper()
        if piece.upper() not in "RC":
            for target, empty in steps(piece, origin):
                if (empty is None or self.squares[empty] == ".") and not self.is_own(
                    self.squares[target], red
                ):
                    yield target
            return
        for ray in rays(origin):
            occupied = (target for target in ray if self.squares[target] != ".")
            first, second = next(occupied, None), next(occupied, None)
            for target in ray:
                if target == first:
                    break
                yield target
            # A rook takes what it meets, a cannon what is behind it.
            taken = first if piece.upper() == "R" else second
            if taken is not None and not self.is_own(self.squares[taken], red):
                yield taken

    def moves(self) -> list[Move]:
        """The moves of the side whose turn it is, checks not considered."""
        return [
            (origin, target)
            for origin, piece in enumerate(self.squares)
            if self.is_own(piece, self.red_moves)
            for target in self.targets(origin)
        ]

    def legal_moves(self) -> list[Move]:
        return [move for move in self.moves() if self.is_safe(move)]

    def is_safe(self, move: Move) -> bool:
        """Whether a move leaves the own king out of check."""
        taken = self.do(move)
        safe = not self.in_check(not self.red_moves)
        self.undo(move, taken)
        return safe

    def in_check(self, red: bool) -> bool:
        """Whether a side's king could be taken, or faces the other king."""
        king, other = (self.squares.index(name) for name in ("Kk" if red else "kK"))
        if king % 9 == other % 9:
            low, high = sorted((king, other))
            if all(self.squares[between] == "." for between in range(low + 9, high, 9)):
                return True
        return any(
            king in self.targets(origin)
            for origin, piece in enumerate(self.squares)
            if self.is_own(piece, not red)
        )

    def do(self, move: Move) -> str:
        """Make a move; returns what stood on its target."""
        origin, target = move
        taken = self.squares[target]
        self.squares[target], self.squares[origin] = self.squares[origin], "."
        self.red_moves = not self.red_moves
        return taken

    def undo(self, move: Move, taken: str) -> None:
        """Take the last move back."""
        origin, target = move
        self.squares[origin], self.squares[target] = self.squares[target], taken
        self.red_moves = not self.red_moves


def move_name(move: Move) -> str:
    return NAMES[move[0]] + NAMES[move[1]]


def read_move(name: str) -> Move:
    """A move from `h2e2` or `H2-E2`.

    Raises:
        ValueError: it is none.
    """
    text = name.lower().replace("-", "")
    if len(text) != 4 or text[:2] not in NAMES or text[2:] not in NAMES:
        raise ValueError(f"{name!r} is no move: expected two squares such as h2e2")
    return NAMES.index(text[:2]), NAMES.index(text[2:])


def play(rng: random.Random, n_moves: int) -> list[Move]:
    """A game of at most so many moves. Most moves take the best piece there is to be taken."""
    board, game = Board(), []
    while len(game) < n_moves:
        moves = board.moves()
        rng.shuffle(moves)
        if rng.random() < SHARE_TAKING:
            moves.sort(key=lambda move: -WORTH.get(board.squares[move[1]].upper(), 0))
        move = next(filter(board.is_safe, moves), None)
        if move is None:  # mated, or without a move: lost in either case
            break
        board.do(move)
        game.append(move)
    return game
