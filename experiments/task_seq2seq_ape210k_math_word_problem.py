"""Word problems of primary school, answered by an expression that a UniLM writes (Ape210K).

    python experiments/task_seq2seq_ape210k_math_word_problem.py --data DATA --quick
    python experiments/task_seq2seq_ape210k_math_word_problem.py predict 一本书240页，… --output RUN

From a problem to an expression (Zhao et al., 2020, https://arxiv.org/abs/2009.11506;
https://kexue.fm/archives/7809), which is then computed: an expression is right if its value is the
answer, whatever it looks like. The numbers of a problem are replaced by a, b, c, …, in the problem
and in its expression, so that 40*30 and 12*7 are the same lesson, a*b. Every character is a token.

Scored by the share of right answers, beside what the most frequent expression for so many numbers
gives. The data here are the 10,000 problems of the original validation and test parts; of the
200,000 to train on none was to be had.

Data: `ape210k/ape210k.zip` (`ape210k/{train,valid,test}.ape.json`). Trained on are the problems
whose equation gives the answer, the test is complete.
"""

import argparse
import ast
import json
import operator
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from string import ascii_lowercase
from typing import NamedTuple

from common import Size, arguments, load_best, read_json_lines, remember, report
from writing import UniLM

from bert4keras.models import Model
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=8, batch_size=32, learning_rate=1e-3, maxlen=128)
FULL = Size(epochs=30, batch_size=32, learning_rate=2e-5, maxlen=192)
ARCHIVE = "ape210k/ape210k.zip"
MAX_EXPRESSION = 32  # tokens, the end token included

DECIMAL = r"\d+(?:\.\d+)?%?"
# 1(3/4) and (3/4) are how the data write fractions.
NUMBER = rf"\d*\(\d+/\d+\)|{DECIMAL}"
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
TOLERANCE = Fraction(1, 10_000)  # answers are rounded
MAX_BITS = 1000  # of a power


# --- arithmetic


def value(expression: str) -> Fraction | None:
    """The value of an expression in the notation of the data; None if it is none."""
    text = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", expression)
    text = re.sub(r"(\d+)(\(\d+/\d+\))", r"(\1+\2)", text)
    text = text.replace("^", "**").replace(":", "/")
    if not re.fullmatch(r"[\d.+*/()-]+", text):
        return None
    try:
        return computed(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def computed(node: ast.expr) -> Fraction:
    """The value of a tree of numbers and operators."""
    match node:
        case ast.Constant(value=number):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -computed(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return computed(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return power(computed(left), computed(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](computed(left), computed(right))
    raise ValueError(f"{ast.dump(node)} is no arithmetic")


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """A whole power that is not too large."""
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * size > MAX_BITS:
        raise ValueError(f"{base} to the power of {exponent} is not computed")
    return base ** int(exponent)


def same(found: Fraction | None, wanted: Fraction | None) -> bool:
    if found is None or wanted is None:
        return False
    return abs(found - wanted) <= TOLERANCE * max(1, abs(wanted))


# --- data


class Problem(NamedTuple):
    """A problem and its expression with letters, the numbers they stand for, and the answer."""

    text: str
    expression: str
    numbers: list[str]
    answer: Fraction | None


def with_letters(text: str) -> tuple[str, list[str]]:
    """Replace the numbers of a text by letters, the same by the same, and list them."""
    numbers = list(dict.fromkeys(re.findall(NUMBER, text)))[: len(ascii_lowercase)]
    return replaced(text, numbers), numbers


def replaced(text: str, numbers: Sequence[str]) -> str:
    """Replace numbers by the letters of their places; those that are not listed stay."""
    letters = dict(zip(numbers, ascii_lowercase, strict=False))

    def letter(found: re.Match) -> str:
        number = found[0]
        if number in letters or re.fullmatch(DECIMAL, number):
            return letters.get(number, number)
        return re.sub(DECIMAL, letter, number)  # a fraction whose parts the text may name

    return re.sub(NUMBER, letter, text)


def with_numbers(expression: str, numbers: Sequence[str]) -> str:
    """Put the numbers back into an expression; a letter that stands for none stays."""
    letters = dict(zip(ascii_lowercase, numbers, strict=False))

    def number(found: re.Match) -> str:
        return f"({letters[found[0]]})" if found[0] in letters else found[0]

    return re.sub("[a-z]", number, expression)


def as_problem(row: dict) -> Problem:
    text, numbers = with_letters(row["original_text"])
    expression = row["equation"].removeprefix("x=").replace(" ", "")
    return Problem(text, replaced(expression, numbers), numbers, value(row["ans"]))


def is_right(expression: str, problem: Problem) -> bool:
    return same(value(with_numbers(expression, problem.numbers)), problem.answer)


# --- the model


class Solver(UniLM):
    """Reads problems and writes expressions; every character is a token."""

    def build(self, args: argparse.Namespace) -> tuple[Tokenizer, Model, Model]:
        tokenizer, *models = super().build(args)
        return Tokenizer(tokenizer.token_dict, do_lower_case=True, pre_tokenize=list), *models

    def text(self, ids: list[int]) -> str:
        return "".join(self.tokenizer.ids_to_tokens(ids))


def scores_of(expressions: Sequence[str], problems: Sequence[Problem]) -> dict[str, float]:
    """The shares of right answers, and of expressions that have a value."""
    pairs = list(zip(expressions, problems, strict=True))
    right = sum(is_right(*pair) for pair in pairs)
    computable = sum(value(with_numbers(text, each.numbers)) is not None for text, each in pairs)
    n = len(pairs)
    return {"accuracy": round(right / n, 4), "computable": round(computable / n, 4)}


def most_frequent(train: Sequence[Problem], problems: Sequence[Problem]) -> list[str]:
    """For each problem the expression that most training problems with as many numbers have."""
    counts: dict[int, Counter] = {}
    for each in train:
        counts.setdefault(len(each.numbers), Counter())[each.expression] += 1
    best = {n: count.most_common(1)[0][0] for n, count in counts.items()}
    return [best.get(len(each.numbers), "") for each in problems]


# --- the experiment


def predict(args: argparse.Namespace, solver: Solver) -> None:
    """Print the expression and the value for each problem."""
    load_best(args, solver.model)
    texts, numbers = zip(*map(with_letters, args.texts), strict=True)
    for text, own, found in zip(args.texts, numbers, solver.write(texts), strict=True):
        expression = with_numbers(found, own)
        result = value(expression)
        answer = None if result is None else round(float(result), 4)
        row = {"problem": text, "expression": expression, "answer": answer}
        print(json.dumps(row, ensure_ascii=False))


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    solver = Solver(args, MAX_EXPRESSION)
    if args.texts is not None:
        return predict(args, solver)

    train, valid, test = (
        [as_problem(r) for r in read_json_lines(args.data, ARCHIVE, f"ape210k/{part}.ape.json")]
        for part in ("train", "valid", "test")
    )
    train = [each for each in train if is_right(each.expression, each)]
    remember(args)

    def scored(problems: list[Problem]) -> dict[str, float]:
        return scores_of(solver.write([each.text for each in problems]), problems)

    solver.fit(args, [each[:2] for each in train], lambda: scored(valid))
    scores = scored(test)
    baseline = scores_of(most_frequent(train, test), test)
    compared = {"written": scores, "most frequent": baseline}
    return report(args, f"ape210k, {len(test)} problems", {**scores, "expressions": compared})


if __name__ == "__main__":
    main()
