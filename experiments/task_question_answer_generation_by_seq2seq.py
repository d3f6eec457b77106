"""Questions and their answers, both written from a passage by a UniLM (WebQA).

    python experiments/task_question_answer_generation_by_seq2seq.py --data DATA --quick
    python experiments/task_question_answer_generation_by_seq2seq.py predict 李白生在碎叶城

First the answer, then the question to it (https://kexue.fm/archives/7630): [CLS] passage [SEP]
answer [SEP] question [SEP], learnt as one text behind the passage. To make pairs, the answer is
drawn, since a passage has many that one may ask for, from what stands in the passage; the question
is then found by a beam search, since to an answer there are few.

Scored by the questions that are written to the annotated answers of the test, with ROUGE and BLEU
against the annotated question, and beside them the passage up to the answer as if it were one. How
often a drawn answer is the annotated one, of the many that are possible, is told as well.

Data: `WebQA.json` and, for training only, `SogouQA.json`, both in
`reading_comprehension/qa_datasets.zip`. 500 questions of WebQA, drawn once, are the test, 200
others are for validation.
"""

import json
from collections.abc import Sequence

from common import Size, arguments, load_best, remember, report
from webqa import MAX_ANSWER, MAX_QUESTION, Question, following, ids_behind, read_parts, scores_of
from writing import TOPK, UniLM, text_scores

QUICK = Size(epochs=8, batch_size=32, learning_rate=1e-3, maxlen=160)
FULL = Size(epochs=20, batch_size=16, learning_rate=2e-5, maxlen=256)
TOPP = 0.9  # of the answers that are drawn


class Asker(UniLM):
    """Writes an answer and a question behind a passage."""

    def sample(self, question: Question) -> tuple[list[int], list[int]]:
        answer = ids_behind(self.tokenizer, question.answer, MAX_ANSWER)
        asked = ids_behind(self.tokenizer, question.question, MAX_QUESTION)
        return self.source(question.passage), answer + asked

    def answers(self, passages: Sequence[str], seed: int) -> list[str]:
        """An answer out of each passage, drawn by its probability."""
        prompts = [self.source(text) for text in passages]
        end_id = self.tokenizer._token_end_id
        allowed = [following([prompt[1:-1]], end_id) for prompt in prompts]
        options = {"sample": True, "topp": TOPP, "seed": seed, "allowed": allowed}
        found = self.generator.generate(prompts, maxlen=MAX_ANSWER, **options)
        return [self.text(ids) for ids in found]

    def questions(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The question for each passage and answer."""
        prompts = []
        for passage, answer in pairs:
            source, given = self.source(passage), ids_behind(self.tokenizer, answer, MAX_ANSWER)
            # The answer has been written: it is part of the second segment.
            prompts.append((source + given, [0] * len(source) + [1] * len(given)))
        found = self.generator.generate(prompts, maxlen=MAX_QUESTION, topk=TOPK)
        return [self.text(ids) for ids in found]


def scored(asker: Asker, questions: Sequence[Question]) -> dict[str, float]:
    """ROUGE and BLEU of the questions to the annotated answers."""
    found = asker.questions([(each.passage, each.answer) for each in questions])
    return text_scores(found, [each.question for each in questions])


def up_to_answer(question: Question) -> str:
    """The clause with the answer, and 什么 in its place."""
    at = question.passage.index(question.answer)
    before = question.passage[:at]
    for mark in "。！？；，":
        before = before.rsplit(mark, 1)[-1]
    return f"{before}什么？"


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    asker = Asker(args, MAX_ANSWER + MAX_QUESTION)
    if args.texts is not None:
        load_best(args, asker.model)
        answers = asker.answers(args.texts, args.seed)
        questions = asker.questions(list(zip(args.texts, answers, strict=True)))
        for passage, answer, question in zip(args.texts, answers, questions, strict=True):
            row = {"passage": passage, "answer": answer, "question": question}
            print(json.dumps(row, ensure_ascii=False))
        return None

    parts = read_parts(args)
    remember(args)
    asker.fit(args, parts["train"], lambda: scored(asker, parts["valid"]))
    test = parts["test"]
    scores = scored(asker, test)
    baseline = text_scores(list(map(up_to_answer, test)), [each.question for each in test])
    drawn = scores_of(asker.answers([each.passage for each in test], args.seed), test)
    result = {
        **scores,
        "drawn_exact": drawn["exact"],
        "drawn_f1": drawn["f1"],
        "questions": {"written": scores, "clause up to the answer": baseline},
    }
    return report(args, f"WebQA, {len(test)} questions", result)


if __name__ == "__main__":
    main()
