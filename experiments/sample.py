"""The made-up data of `--sample`, in the form in which the data sets of the experiments come.

    python experiments/sample.py FOLDER                  # write all of them, some 2 MB, to look at
    python experiments/task_sentiment_albert.py --sample # write them and train on them

Some are those of `examples/data` in another form; of the other kinds the sentences are put together
here from templates and words of our own. A score on them says that a script runs and learns, and
nothing of real texts.
"""

import gzip
import importlib.util
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "examples" / "data"
spec = importlib.util.spec_from_file_location("examples_data_make", DATA / "make.py")
assert spec and spec.loader
make: Any = importlib.util.module_from_spec(spec)
"""The words and names of `examples/data`."""
spec.loader.exec_module(make)

Files = Iterator[tuple[str, str]]
"""Paths below the folder of the data sets, and what the files hold."""
Random = random.Random
N_TRAIN, N_DEV, N_TEST = 600, 75, 75


def lines_of(name: str) -> tuple[list[str], list[str], list[str]]:
    """The lines of a kind of `examples/data`: to train on, to validate on, to test on."""
    train, held_out = (
        next((DATA / name).glob(f"{part}.*")).read_text(encoding="utf-8").splitlines()
        for part in ("train", "dev")
    )
    return train, held_out[: len(held_out) // 2], held_out[len(held_out) // 2 :]


def drawn(draw: Callable[[Random], Any], seed: int = 0) -> tuple[list, list, list]:
    """Different samples of a kind, likewise."""
    rng, known, found = Random(seed), set(), []
    while len(found) < N_TRAIN + N_DEV + N_TEST:
        sample = draw(rng)
        if str(sample) not in known:
            known.add(str(sample))
            found.append(sample)
    return found[:N_TRAIN], found[N_TRAIN:-N_TEST], found[-N_TEST:]


def named(pattern: str, names: str, parts: Any) -> Files:
    """Files of lines: strings, or objects that become JSON."""
    for name, part in zip(names.split(), parts, strict=True):
        yield pattern.format(name), text_of(part)


def text_of(rows: list) -> str:
    return "".join(f"{row if isinstance(row, str) else as_json(row)}\n" for row in rows)


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def filled(pattern: str, values: dict[str, str]) -> tuple[str, dict[str, int]]:
    """A pattern with values in its braces, and where each of them begins."""
    text, starts = "", {}
    for part in pattern.replace("}", "{").split("{"):
        if part in values:
            starts[part] = len(text)
        text += values.get(part, part)
    return text, starts


# --- reviews

OPENINGS = {
    "酒店": "这家酒店 前台推荐的这家店 上周住的酒店",
    "书": "这本书 朋友送的这本书 给孩子买的书",
    "电脑": "这台电脑 刚到手的笔记本 新买的电脑",
    "外卖": "这家外卖 今天点的套餐 常点的这家店",
}
GOOD = {
    "酒店": "房间干净 服务热情 离地铁很近 早餐丰富 床很舒服 隔音不错",
    "书": "故事感人 文字流畅 插图漂亮 内容实用 纸张很好 孩子很喜欢",
    "电脑": "速度很快 屏幕清晰 键盘手感好 很安静 电池耐用 做工精细",
    "外卖": "送得很快 味道不错 分量很足 包装严实 菜很新鲜 价格实惠",
}
BAD = {
    "酒店": "房间有霉味 服务冷淡 周围太吵 早餐难吃 床太硬 空调不制冷",
    "书": "情节无聊 错别字多 印刷模糊 内容空洞 纸张很差 翻译生硬",
    "电脑": "开机很慢 屏幕有坏点 键盘松动 风扇太吵 电池不耐用 经常死机",
    "外卖": "送得太慢 味道很咸 分量太少 汤都洒了 菜不新鲜 价格太贵",
}
ENDINGS = {1: "推荐给大家。 下次还会再来。 非常满意。", 0: "不推荐。 再也不会来了。 很失望。"}


def review(rng: Random) -> str:
    label, thing = rng.randint(0, 1), rng.choice(list(OPENINGS))
    own, other = (GOOD, BAD) if label else (BAD, GOOD)
    clauses = rng.sample(own[thing].split(), 2)
    if rng.random() < 0.3:
        clauses = [f"虽然{rng.choice(other[thing].split())}，不过{clauses[0]}", clauses[1]]
    opening, ending = rng.choice(OPENINGS[thing].split()), rng.choice(ENDINGS[label].split())
    return f"{opening}{'，'.join(clauses)}，{ending}\t{label}"


def sentiment() -> Files:
    yield from named("sentiment/sentiment/sentiment.{}.data", "train valid test", drawn(review))


# --- CLUE


def clue() -> Files:
    topics = list(make.TOPICS)
    for name, description in (("iflytek", "label_des"), ("tnews", "label_desc")):
        yield from task_of_clue(
            name,
            [
                [
                    {"sentence": text, "label": str(topics.index(label)), description: label}
                    for label, text in (line.split("\t") for line in part)
                ]
                for part in lines_of("topics")
            ],
        )
    names = ("sentence1", "sentence2", "label")
    pairs = drawn(question_pair, seed=1)
    rows = [[dict(zip(names, line.split("\t"), strict=True)) for line in part] for part in pairs]
    yield from task_of_clue("afqmc", rows)
    yield from task_of_clue("csl", drawn(keywords))
    yield from task_of_clue("wsc", drawn(pronoun))
    yield from task_of_clue("ocnli", drawn(inference), "train.10k")


def task_of_clue(name: str, parts: Any, train: str = "train") -> Files:
    """The files of a task; its test has no labels."""
    parts = [[{**row, "id": i} for i, row in enumerate(part)] for part in parts]
    for row in parts[2]:
        del row["label"]
    yield from named(f"clue/{name}/{{}}.json", f"{train} dev test", parts)


def keywords(rng: Random) -> dict:
    row = json.loads(make.titles(rng, False))
    label = rng.randint(0, 1)
    event = next(each for each in make.EVENTS if each in row["title"])
    city = row["title"].split(event)[0]
    others = [each for each in make.EVENTS if each != event]
    found = [city, event, row["title"].split(event)[1]] if label else [city, rng.choice(others)]
    return {"abst": row["content"], "keyword": found, "label": str(label)}


PRONOUNS = {
    "{A}批评了{B}，因为{P}又迟到了。": "B",
    "{A}感谢{B}，因为{P}帮了大忙。": "B",
    "{A}请{B}帮忙，因为{P}一个人做不完。": "A",
    "{A}向{B}道歉，因为{P}忘了约好的时间。": "A",
    "{A}去医院看{B}，听说{P}摔伤了腿。": "B",
    "{A}把雨伞借给了{B}，因为{P}没有带伞。": "B",
    "{A}没有认出{B}，因为{P}忘了戴眼镜。": "A",
}


def pronoun(rng: Random) -> dict:
    pattern, right = rng.choice(list(PRONOUNS.items()))
    first, second = rng.sample("王李张刘陈杨赵黄周吴", 2)
    values = {"A": f"小{first}", "B": f"老{second}", "P": "他"}
    text, starts = filled(pattern, values)
    asked = rng.choice("AB")
    target = {
        **{"span1_index": starts[asked], "span1_text": values[asked]},
        **{"span2_index": starts["P"], "span2_text": "他"},
    }
    return {"target": target, "text": text, "label": "true" if asked == right else "false"}


INFERENCES = {
    "{PER}昨天在{LOC}接受了采访。": {
        "entailment": "{PER}昨天在{LOC}。",
        "neutral": "{PER}很喜欢{LOC}。",
        "contradiction": "{PER}昨天没有接受采访。",
    },
    "{PER}出生在{LOC}，后来到{ORG}工作。": {
        "entailment": "{PER}在{ORG}工作过。",
        "neutral": "{PER}在{ORG}工作了十年。",
        "contradiction": "{PER}从来没有去过{LOC}。",
    },
    "{ORG}的新产品下月在{LOC}上市。": {
        "entailment": "{ORG}有新产品。",
        "neutral": "{ORG}的新产品卖得很好。",
        "contradiction": "{ORG}的新产品已经在{LOC}上市了。",
    },
}


def inference(rng: Random) -> dict:
    premise, hypotheses = rng.choice(list(INFERENCES.items()))
    label = rng.choice(list(hypotheses))
    values = {kind: draw(rng, False) for kind, draw in make.NAMES.items()}
    texts = (filled(pattern, values)[0] for pattern in (premise, hypotheses[label]))
    return {**dict(zip(("sentence1", "sentence2"), texts, strict=True)), "label": label}


# --- pairs of questions


def question_pair(rng: Random) -> str:
    return make.pairs(rng, False)


def questions() -> Files:
    lcqmc = lines_of("pairs")
    yield from named("lcqmc/lcqmc/lcqmc.{}.data", "train valid test", lcqmc)
    spoken = drawn(question_pair, seed=2)
    unlabelled = [line.rsplit("\t", 1)[0] for line in spoken[2]]
    names, parts = "train dev test_unlabelled", (*spoken[:2], unlabelled)
    yield from named("oppo_xiaobu/oppo_xiaobu/{}.tsv", names, parts)
    folder = "oppo_xiaobu/oppo_breeno_round1_data/gaiic_track3_round1_{}_20210228.tsv"
    parts = (spoken[0] + spoken[1], unlabelled)
    characters = sorted({c for part in parts for line in part for c in line} - set("\t01"))
    Random(0).shuffle(characters)
    number = {character: i for i, character in enumerate(characters)}
    hidden = [
        [
            "\t".join(
                text if text in "01" else " ".join(str(number[c]) for c in text if c in number)
                for text in line.split("\t")
            )
            for line in part
        ]
        for part in parts
    ]
    yield from named(folder, "train testA", hidden)
    yield from named("sts_b_zh/sts_b_zh/sts-b-{}.txt", "train dev test", lines_of("similarities"))


# --- titles

FIELDS = {
    "体育": "马拉松 龙舟赛",
    "文化": "读书节 音乐节 书画展 电影周 花灯会",
    "科技": "机器人大赛 科普周",
    "商业": "美食节 招聘会 车展",
}


def field(title: str) -> str:
    return next(f for f, events in FIELDS.items() if any(e in title for e in events.split()))


def abstract(row: dict) -> str:
    """The news with another sentence, so that it can be cut in halves."""
    rng = Random(row["title"])
    years, people = rng.randint(2, 12), 100 * rng.randint(3, 60)
    return (
        f"{row['content']}这项活动已经连续举办了{years}年，今年有{people}多人报名，最小的只有六岁。"
    )


def titles() -> Files:
    train, *held_out = ([json.loads(line) for line in part] for part in lines_of("titles"))
    papers, others = train[: N_TRAIN // 2], train[N_TRAIN // 2 :]
    tables = [[f"{row['title']}\t{abstract(row)}" for row in p] for p in (papers, *held_out)]
    yield from named("csl/csl/{}.tsv", "train val test", tables)
    fields = [
        [f"{row['title']}\t{field(row['title'])}" for row in part]
        for part in (others, papers, [*held_out[0], *held_out[1]])
    ]
    yield from named("csl/csl_category/{}.tsv", "train dev test", fields)
    news = [[{**row, "label": 0} for row in part] for part in (train, held_out[0] + held_out[1])]
    yield from named("inews/{}.jsonl.gz", "train dev", news)


# --- texts and problems


def recipes() -> Files:
    """Recipes, where lyrics are expected."""
    rows = [
        {
            "rhythmic": text.split("的做法")[0],
            "author": "",
            "paragraphs": [f"{sentence}。" for sentence in text.split("：")[1].split("。")[:-1]],
        }
        for text in itertools.chain(*lines_of("recipes"))
    ]
    yield "poetry/song_ci.json.gz", as_json(rows)


PROBLEMS = {
    "{p}有{a}个苹果，又买了{b}个，一共有多少个苹果？": "{a}+{b}",
    "一本书有{c}页，{p}每天看{b}页，看了{d}天，还剩多少页？": "{c}-{b}*{d}",
    "{p}买了{d}支笔，每支{b}元，付了{c}元，应找回多少元？": "{c}-{d}*{b}",
    "一辆汽车每小时行{a}千米，{d}小时行多少千米？": "{a}*{d}",
    "果园里有{a}棵梨树，桃树比梨树多{b}棵，两种树一共有多少棵？": "{a}+{a}+{b}",
    "把{e}块糖平均分给{d}个小朋友，每人分到多少块？": "{e}/{d}",
}


def problem(rng: Random) -> dict:
    pattern, equation = rng.choice(list(PROBLEMS.items()))
    a, b, c, d = rng.randint(20, 99), rng.randint(11, 19), rng.randint(200, 400), rng.randint(2, 9)
    numbers = {"a": a, "b": b, "c": c, "d": d, "e": d * rng.randint(10, 40)}
    text = pattern.format(p=make.person(rng, False), **numbers)
    equation = equation.format(**numbers)
    answer = eval(equation, {})
    return {
        **{"segmented_text": " ".join(text), "original_text": text},
        **{"ans": f"{answer:g}", "equation": f"x={equation}"},
    }


def problems() -> Files:
    parts = [[{"id": str(i), **row} for i, row in enumerate(part)] for part in drawn(problem)]
    yield from named("ape210k/ape210k/{}.ape.json", "train valid test", parts)


# --- words and names

SEGMENTED = [
    "{PER} 昨天 在 {LOC} 接受 了 采访 。",
    "{ORG} 的 {PER} 教授 来到 {LOC} 讲学 。",
    "据 {ORG} 介绍 ， 新 产品 将 于 下月 在 {LOC} 上市 。",
    "{PER} 出生 在 {LOC} ， 后来 到 {ORG} 工作 。",
    "{LOC} 和 {LOC} 之间 开通 了 高铁 。",
    "{ORG} 与 {ORG} 签署 了 合作 协议 。",
    "今年 夏天 {LOC} 下 了 很 大 的 雨 。",
    "{ORG} 总经理 {PER} 表示 ， 公司 明年 会 扩大 规模 。",
    "{PER} 说 他 最 喜欢 {LOC} 的 秋天 。",
    "会议 在 {ORG} 举行 ， {PER} 作 了 报告 。",
]


def segmented(rng: Random) -> str:
    """A sentence in words; a family name is one, and so is a given name."""
    words = []
    for word in rng.choice(SEGMENTED).split():
        match word:
            case "{PER}":
                name = make.person(rng, False)
                words += [name[0], name[1:]]
            case "{LOC}":
                words.append(make.place(rng, False))
            case "{ORG}":
                words += [rng.choice([make.place, make.brand])(rng, False), rng.choice(make.KINDS)]
            case _:
                words.append(word)
    return "  ".join(words)


def tags() -> Files:
    train, _, test = drawn(segmented)
    yield "cws/icwb2-data/training/pku_training.utf8", text_of(train)
    yield "cws/icwb2-data/gold/pku_test_gold.utf8", text_of(test)
    train, dev = (
        (DATA / "entities" / f"{part}.txt").read_text(encoding="utf-8").strip("\n")
        for part in ("train", "dev")
    )
    sentences = dev.split("\n\n")
    valid, test = ("\n\n".join(part) for part in (sentences[::2], sentences[1::2]))
    for part, text in (("train", train), ("dev", valid), ("test", test)):
        yield f"ner_people_daily/china-people-daily-ner-corpus/example.{part}", f"{text}\n"
        yield f"ner_msra/msra_ner/{part}.txt", f"{text}\n"


# --- relations and events


def relations() -> Files:
    parts = [[json.loads(line) for line in part] for part in lines_of("relations")]
    for spo in (spo for part in parts for row in part for spo in row["spo_list"]):
        spo["object"], spo["object_type"] = ({"@value": spo[k]} for k in ("object", "object_type"))
    yield from named("relation_duie/duie2/duie_{}.json", "train dev test", parts)
    schema = [
        {
            "predicate": predicate,
            "subject_type": make.TYPES[make.FORM[predicate][0]],
            "object_type": {"@value": make.TYPES[make.FORM[predicate][1]]},
        }
        for predicate in make.FACTS
    ]
    yield "relation_duie/duie2/duie_schema.json", text_of(schema)


EVENTS = {
    "收购": ("{date}，{sub}以{money}收购{obj}。", "{sub}宣布收购{obj}，金额为{money}。"),
    "签约": ("{sub}与{obj}在{place}签约。", "{date}，{sub}和{obj}正式签约。"),
    "上市": ("{sub}将于{date}在{place}上市。", "{date}，{sub}在{place}成功上市。"),
    "任命": ("{sub}任命{person}为{title}。", "{date}，{person}被{sub}任命为{title}。"),
    "捐款": ("{sub}向{obj}捐款{money}。", "{date}，{sub}在{place}捐款{money}。"),
}
ROLES: dict[str, Callable[[Random], str]] = {
    "sub": lambda rng: make.thing(rng, "c", False),
    "obj": lambda rng: make.organisation(rng, False),
    "money": lambda rng: f"{rng.randint(1, 90)}{rng.choice(['万元', '亿元'])}",
    "date": lambda rng: f"{rng.randint(1, 12)}月{rng.randint(1, 28)}日",
    "place": lambda rng: make.place(rng, False),
    "person": lambda rng: make.person(rng, False),
    "title": lambda rng: rng.choice(["总经理", "董事长", "首席科学家", "财务总监"]),
}


def event(rng: Random) -> dict:
    kind = rng.choice(list(EVENTS))
    values = {role: draw(rng) for role, draw in ROLES.items()}
    text, starts = filled(rng.choice(EVENTS[kind]), values)
    found = [
        {"role": role, "argument": values[role], "argument_start_index": start, "alias": []}
        for role, start in starts.items()
    ]
    trigger = {"event_type": kind, "trigger": kind, "trigger_start_index": text.index(kind)}
    return {"text": text, "event_list": [{**trigger, "arguments": found, "class": "财经"}]}


def events() -> Files:
    parts = [[{"id": str(i), **row} for i, row in enumerate(part)] for part in drawn(event)]
    names = "train_data/train dev_data/dev test_data/test"
    yield from named("event_fewfc/ee/{}.json", names, parts)
    schema = [
        {
            "event_type": kind,
            "role_list": [{"role": role} for role in ROLES if f"{{{role}}}" in "".join(patterns)],
        }
        for kind, patterns in EVENTS.items()
    ]
    yield "event_fewfc/ee/event_schema/event_schema.json", text_of(schema)


# --- reading comprehension


def reading() -> Files:
    for part, name in (("train", "WebQA"), ("dev", "SogouQA")):
        articles = json.loads((DATA / f"reading/{part}.json").read_text(encoding="utf-8"))["data"]
        paragraphs = [each for article in articles for each in article["paragraphs"]]
        folder = "reading_comprehension"
        content = {"data": [{"title": "", "paragraphs": paragraphs}]}
        yield f"{folder}/dureader_robust-data/{part}.json", as_json(content)
        rows = [
            {
                **{"id": each["id"], "question": each["question"]},
                "answer": each["answers"][0]["text"],
                "passages": [{"passage": p["context"], "answer": each["answers"][0]["text"]}],
            }
            for p in paragraphs
            for each in p["qas"]
        ]
        yield f"{folder}/qa_datasets/{name}.json", as_json(rows)


KINDS = (sentiment, clue, questions, titles, recipes, problems, tags, relations, events, reading)


def write(folder: Path) -> Path:
    """Write all data sets into a folder, and return it."""
    for path, text in itertools.chain.from_iterable(kind() for kind in KINDS):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        content = text.encode()
        file.write_bytes(gzip.compress(content, mtime=0) if file.suffix == ".gz" else content)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    write(Path(sys.argv[1]))
