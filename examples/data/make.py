"""生成 examples/data/ 里的小数据：句子都由下面的模板和词拼成，种子固定，不含任何他人的文本。

    python examples/data/make.py

Write the small data sets beside this file. All sentences come from the templates and words below;
the seed is fixed, so the files come out the same each time. No held-out sentence is among those to
train on, and of the places, brands, works and topic words in it half are in none of these.
"""

# ruff: noqa: SIM905 - lists of words read better as texts

import itertools
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

FOLDER = Path(__file__).parent
N_TRAIN, N_DEV = 600, 150
Random = random.Random

# === names ===

SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕"
GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰涛明超秀霞平刚桂英华玉兰文婷建国志红梅海燕晓东雪峰宇浩子轩思雨"
PLACES = """北京 上海 广州 深圳 杭州 南京 成都 武汉 西安 重庆 苏州 天津 长沙 青岛 大连 厦门 昆明
郑州 济南 沈阳 福州 合肥 南昌 哈尔滨 长春 太原 贵阳 南宁 兰州 海口 宁波 无锡 温州 珠海 洛阳 桂林
扬州 绍兴 烟台 银川""".split()
BRANDS = "华星 远航 东方 新锐 天行 博雅 金桥 蓝海 长风 恒通 明德 启元 卓越 时代 晨光 中联".split()
KINDS = "科技公司 大学 医院 银行 研究院 出版社 博物馆 汽车集团 食品公司 图书馆".split()
WORKS = """春天的河 远山 归途 小城往事 老街 星空之下 海边的灯 雨夜 青石巷 大漠孤烟 梨花开了 父亲的船
北方来信 长夜将尽 稻田 渡口 南风起 冬至 山谷回声 旧时光 石桥 风过麦田 月光小镇 白鹭""".split()


def known(words: list[str], held_out: bool) -> list[str]:
    """The words of a part: half of them, or all for what is held out."""
    return words if held_out else words[::2]


def place(rng: Random, held_out: bool) -> str:
    return rng.choice(known(PLACES, held_out))


def brand(rng: Random, held_out: bool) -> str:
    return rng.choice(known(BRANDS, held_out))


def person(rng: Random, held_out: bool) -> str:
    return rng.choice(SURNAMES) + "".join(rng.sample(GIVEN, rng.choice([1, 2, 2])))


def organisation(rng: Random, held_out: bool) -> str:
    return rng.choice([place, brand])(rng, held_out) + rng.choice(KINDS)


def year(rng: Random, held_out: bool) -> str:
    return f"{rng.randint(1950, 2023)}年"


# === classification ===

TOPICS = {
    "体育": "足球 篮球 排球 网球 游泳 马拉松 乒乓球 羽毛球 体操 滑雪 拳击 射箭",
    "财经": "股票 基金 债券 黄金 汇率 利率 银行 房价 期货 税收 外贸 原油",
    "科技": "手机 芯片 机器人 软件 卫星 电池 网络 无人机 电脑 浏览器 相机 导航",
    "健康": "感冒 高血压 睡眠 维生素 疫苗 近视 减肥 过敏 牙齿 心脏 咳嗽 骨折",
    "教育": "高考 考研 小学 幼儿园 教材 作业 大学 奖学金 英语 家长 课堂 留学",
}
TALK = {
    "体育": "{w}比赛今晚开打 主队赢下{w}决赛 {w}名将宣布退役 "
    "{w}联赛第三轮战平 教练谈{w}训练 {w}世锦赛再夺金牌",
    "财经": "{w}价格连续三天上涨 专家分析{w}走势 {w}市场交易清淡 "
    "投资者关注{w}风险 {w}收益创下新低 央行谈{w}政策",
    "科技": "新一代{w}正式发布 {w}技术取得突破 工程师改进{w}性能 "
    "这款{w}功能更强 {w}系统升级上线 国产{w}投入使用",
    "健康": "{w}患者要注意什么 医生提醒{w}的误区 {w}怎么预防 "
    "饮食与{w}的关系 {w}治疗有新办法 老人{w}问题不可忽视",
    "教育": "{w}改革方案公布 老师谈{w}的变化 {w}报名即将开始 "
    "学校加强{w}管理 学生热议{w}新规 {w}成绩下周公布",
}
PLAIN = "关于{w}的最新消息 今天聊聊{w} {w}又上热搜了 大家怎么看{w} {w}这件事你听说了吗"


def topics(rng: Random, held_out: bool) -> str:
    label = rng.choice(list(TOPICS))
    word = rng.choice(known(TOPICS[label].split(), held_out))
    pattern = rng.choice([*TALK[label].split(), *PLAIN.split()])
    return f"{label}\t{rng.choice(['', '', '快讯：'])}{pattern.format(w=word)}"


# === pairs of questions ===

THINGS = """信用卡 会员卡 校园卡 公交卡 护照 驾照 身份证 居住证 社保卡 医保卡 快递 订单 套餐 宽带
发票 优惠券""".split()
ASKED = {
    "办理": "怎么办理{t} 如何申请{t} 办{t}要哪些手续 {t}在哪里可以办",
    "费用": "{t}要多少钱 {t}怎么收费 {t}的费用是多少 {t}贵不贵",
    "时间": "{t}几天能好 {t}要等多久 {t}什么时候能拿到 {t}多长时间下来",
    "取消": "怎么取消{t} {t}不想要了怎么办 如何注销{t} {t}能退掉吗",
    "丢失": "{t}丢了怎么办 {t}找不到了 {t}不见了怎么处理 我把{t}弄丢了",
    "查询": "怎么查{t} 在哪里能看到{t} {t}的进度怎么看 如何查询{t}",
}
ENDS = ["", "", "？", "，谢谢", "呢"]


def question(rng: Random, thing: str, intent: str, not_this: str = "") -> str:
    forms = [form for form in ASKED[intent].split() if form != not_this]
    return rng.choice(["", "", "请问", "你好，"]) + rng.choice(forms) + rng.choice(ENDS)


def two_questions(rng: Random, same_thing: bool, same_intent: bool) -> tuple[str, str]:
    things = rng.sample(THINGS, 2)
    intents = rng.sample(list(ASKED), 2)
    a, b = rng.choice(ASKED[intents[0]].split()), intents[0] if same_intent else intents[1]
    first = rng.choice(["", "", "请问", "你好，"]) + a + rng.choice(ENDS)
    second = question(rng, things[0], b, not_this=a)
    return first.format(t=things[0]), second.format(t=things[0] if same_thing else things[1])


def pairs(rng: Random, held_out: bool) -> str:
    label = rng.random() < 0.5
    first, second = two_questions(rng, same_thing=True, same_intent=label)
    return f"{first}\t{second}\t{int(label)}"


def similarities(rng: Random, held_out: bool) -> str:
    same = rng.choice([(True, True), (False, True), (True, False), (False, False)])
    score = {(True, True): 5, (False, True): 3, (True, False): 1, (False, False): 0}[same]
    first, second = two_questions(rng, *same)
    return f"{first}\t{second}\t{score}"


# === entities ===

NAMES = {"PER": person, "ORG": organisation, "LOC": place}
NEWS = """{PER}昨天在{LOC}接受了采访。
{ORG}的{PER}教授来到{LOC}讲学。
据{ORG}介绍，新产品将于下月在{LOC}上市。
{PER}出生在{LOC}，后来到{ORG}工作。
{LOC}和{LOC}之间开通了高铁。
{ORG}与{ORG}签署了合作协议。
{PER}、{PER}和{PER}一起参加了会议。
今年夏天{LOC}下了很大的雨。
{ORG}总经理{PER}表示，公司明年会扩大规模。
在{LOC}，我们见到了{PER}的家人。
{PER}说他最喜欢{LOC}的秋天。
这本书由{ORG}出版，作者是{PER}。
会议在{ORG}举行，{PER}作了报告。
天气很好，大家都去公园散步了。
经过三年努力，这个项目终于完成了。""".split("\n")


def news(rng: Random, held_out: bool) -> tuple[str, list[tuple[int, int, str]]]:
    """A sentence and the entities in it: first character, one behind the last, kind."""
    text, spans = "", []
    for part in rng.choice(NEWS).replace("}", "{").split("{"):
        word = NAMES[part](rng, held_out) if part in NAMES else part
        if part in NAMES:
            spans.append((len(text), len(text) + len(word), part))
        text += word
    return text, spans


def bio(rng: Random, held_out: bool) -> str:
    text, spans = news(rng, held_out)
    tags = ["O"] * len(text)
    for start, end, kind in spans:
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return "".join(f"{c} {tag}\n" for c, tag in zip(text, tags, strict=True))


def nested(rng: Random, held_out: bool) -> str:
    """As CLUENER writes it; the place inside an organisation's name is an entity of its own."""
    text, spans = news(rng, held_out)
    for start, end, kind in list(spans):
        inside = [name for name in PLACES if kind == "ORG" and text[start:end].startswith(name)]
        spans += [(start, start + len(name), "LOC") for name in inside]
    label: dict = {}
    for start, end, kind in sorted(spans):
        label.setdefault(kind, {}).setdefault(text[start:end], []).append([start, end - 1])
    return json.dumps({"text": text, "label": label}, ensure_ascii=False)


# === relations ===

FACTS = {
    "作者": "《{s}》是{o}写的一部小说 {o}的长篇小说《{s}》出版了 小说《{s}》的作者是{o}",
    "导演": "电影《{s}》由{o}执导 {o}导演的电影《{s}》上映了 导演{o}带来新片《{s}》",
    "出生地": "{s}出生于{o} {s}是{o}人 来自{o}的{s}",
    "毕业院校": "{s}毕业于{o} {s}曾就读于{o} {s}在{o}读完本科",
    "董事长": "{s}的董事长是{o} {o}担任{s}董事长 {s}董事长{o}",
    "总部地点": "{s}的总部设在{o} 总部位于{o}的{s} {s}把总部搬到了{o}",
}
FORM = dict(zip(FACTS, "wp wp pl pu cp cl".split(), strict=True))  # kinds of subject and object
TYPES = {"w": "作品", "p": "人物", "l": "地点", "u": "学校", "c": "企业"}


def thing(rng: Random, kind: str, held_out: bool) -> str:
    if kind == "w":
        return rng.choice(known(WORKS, held_out))
    if kind == "u":
        return place(rng, held_out) + rng.choice("大学 师范大学 理工大学 学院".split())
    if kind == "c":
        return brand(rng, held_out) + rng.choice("科技 食品 汽车 集团 影业".split())
    return {"p": person, "l": place}[kind](rng, held_out)


def relations(rng: Random, held_out: bool) -> str:
    """One or two facts in the form of DuIE; the second may be about the object of the first."""
    clauses, triples = [], []
    for predicate in rng.sample(list(FACTS), rng.choice([1, 2, 2])):
        kinds = FORM[predicate]
        of_before = [t["object"] for t in triples if FORM[t["predicate"]][1] == kinds[0]]
        subject = of_before[0] if of_before else thing(rng, kinds[0], held_out)
        found = {
            "subject": subject,
            "predicate": predicate,
            "object": thing(rng, kinds[1], held_out),
        }
        types = {"subject_type": TYPES[kinds[0]], "object_type": TYPES[kinds[1]]}
        clause = rng.choice(FACTS[predicate].split())
        clauses.append(clause.format(s=found["subject"], o=found["object"]))
        triples.append(found | types)
    text = "，".join(clauses) + "。"
    return json.dumps({"text": text, "spo_list": triples}, ensure_ascii=False)


# === reading comprehension ===

ABOUT = {
    "建成": "{x}建成于{a} {x}在{a}落成 {a}，{x}正式建成",
    "扩建": "{a}进行了扩建 后来在{a}扩建 {a}完成扩建工程",
    "位置": "它位于{a}市中心 馆址在{a} 它坐落在{a}的江边",
    "馆长": "现任馆长是{a} 馆长{a}已经上任五年 由{a}担任馆长",
    "设计": "建筑由{a}设计 设计师是{a} {a}主持了它的设计",
    "藏品": "馆内有藏品{a}件 共收藏{a}件文物 藏品多达{a}件",
}
ASKING = {
    "建成": "{x}是哪一年建成的？ {x}什么时候落成？",
    "扩建": "{x}是哪一年扩建的？ {x}什么时候扩建？",
    "位置": "{x}在哪个城市？ {x}位于哪里？",
    "馆长": "{x}的馆长是谁？ 谁担任{x}的馆长？",
    "设计": "{x}是谁设计的？ {x}的设计师是谁？",
    "藏品": "{x}有多少件藏品？ {x}收藏了多少件文物？",
}
VALUES: dict[str, Callable[[Random, bool], str]] = {
    "建成": year,
    "扩建": year,
    "位置": place,
    "馆长": person,
    "设计": person,
    "藏品": lambda rng, held_out: str(rng.randint(300, 90000)),
}


def passage(rng: Random, number: int, held_out: bool) -> dict:
    """A passage about one museum and questions to it, in the form of SQuAD and CMRC 2018."""
    x = brand(rng, held_out) + rng.choice("博物馆 美术馆 纪念馆 科技馆 艺术馆 图书馆".split())
    values = {key: make(rng, held_out) for key, make in VALUES.items()}
    order = rng.sample(list(ABOUT)[1:], rng.choice([3, 4]))
    sentences = []
    for key in ["建成", *order]:
        sentences.append(rng.choice(ABOUT[key].split()).format(x=x, a=values[key]))
    context = "，".join(sentences) + "。"
    questions = []
    for key in rng.sample(["建成", *order], 2):
        sentence = sentences[["建成", *order].index(key)]
        start = context.index(sentence) + sentence.index(values[key])
        questions.append(
            {
                "id": f"{number}-{len(questions)}",
                "question": rng.choice(ASKING[key].split()).format(x=x),
                "answers": [{"text": values[key], "answer_start": start}],
            }
        )
    return {"title": x, "paragraphs": [{"context": context, "qas": questions}]}


def reading(rng: Random, n: int, held_out: bool) -> str:
    data = [passage(rng, number, held_out) for number in range(n // 2)]
    return json.dumps({"version": "v1.0", "data": data}, ensure_ascii=False, indent=1)


# === titles ===

EVENTS = """马拉松 读书节 美食节 音乐节 书画展 机器人大赛 招聘会 花灯会 科普周 龙舟赛 车展
电影周""".split()
LEADS = ["日前记者获悉，", "据当地媒体报道，", "经过几个月的筹备，", "天气转暖，", "消息传来，", ""]
HAPPENS = {
    "开幕": "{p}{e}昨天上午正式拉开帷幕 {e}昨天在{p}拉开了序幕",
    "延期": "原定本周举行的{p}{e}因为大雨推迟 由于场地检修，{p}宣布{e}推迟到下月",
    "闭幕": "为期一周的{p}{e}落下帷幕 {p}{e}昨晚结束了全部日程",
    "报名启动": "{p}{e}从今天起接受报名 想参加{p}{e}的市民现在可以登记了",
}
DETAILS = """吸引了众多市民参加 主办方对此作了说明 今年的规模比去年更大 现场秩序良好
有关部门提前做好了准备""".split()


def titles(rng: Random, held_out: bool) -> str:
    city, event, what = rng.choice(PLACES), rng.choice(EVENTS), rng.choice(list(HAPPENS))
    body = rng.choice(HAPPENS[what].split()).format(p=city, e=event)
    content = f"{rng.choice(LEADS)}{body}，{'，'.join(rng.sample(DETAILS, 2))}。"
    return json.dumps({"title": f"{city}{event}{what}", "content": content}, ensure_ascii=False)


# === recipes ===

MEAT = "牛肉 鸡肉 排骨 羊肉 鸭肉 鱼块 虾仁 五花肉".split()
GREENS = "土豆 萝卜 白菜 番茄 青椒 豆腐 茄子 冬瓜 木耳 香菇 洋葱 莲藕".split()
COOK = {
    "炒": "锅里放油烧热，下{m}炒到变色，再放{g}翻炒{n}分钟",
    "炖": "把{m}和{g}一起放进砂锅，加水没过食材，小火炖{n}分钟",
    "蒸": "把{m}铺在{g}上面，放进蒸锅，大火蒸{n}分钟",
    "红烧": "锅里放油和白糖，下{m}炒出糖色，加{g}和热水，烧{n}分钟",
}
CUT = ["切块", "切片", "切成丝", "切成小丁"]
LAST = ["最后加盐调味", "出锅前撒一把葱花", "加一点生抽和盐", "盛出来撒上香菜"]


def recipes(rng: Random, held_out: bool) -> str:
    m, g, how = rng.choice(MEAT), rng.choice(GREENS), rng.choice(list(COOK))
    n = rng.choice("三 五 八 十 十五 二十 三十 四十".split())
    first = f"先把{g}洗净{rng.choice(CUT)}，{m}{rng.choice(CUT)}，用料酒腌一会儿"
    return f"{g}{how}{m}的做法：{first}。{COOK[how].format(m=m, g=g, n=n)}。{rng.choice(LAST)}。"


# === files ===


def lines(make: Callable[[Random, bool], str]) -> tuple[list[str], list[str]]:
    """Lines to train on and lines held out, all of them different."""
    rng = random.Random(0)
    train = list(itertools.islice(distinct(lambda: make(rng, False), set()), N_TRAIN))
    dev = list(itertools.islice(distinct(lambda: make(rng, True), set(train)), N_DEV))
    return train, dev


def distinct(make: Callable[[], str], known: set[str]) -> Iterable[str]:
    while True:
        line = make()
        if line not in known:
            known.add(line)
            yield line


def write(name: str, text: str) -> None:
    path = FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    for pattern, make in {
        "topics/{}.tsv": topics,
        "pairs/{}.tsv": pairs,
        "similarities/{}.tsv": similarities,
        "entities/{}.txt": bio,
        "nested_entities/{}.json": nested,
        "relations/{}.json": relations,
        "titles/{}.json": titles,
        "recipes/{}.txt": recipes,
    }.items():
        for part, found in zip(("train", "dev"), lines(make), strict=True):
            write(pattern.format(part), "\n".join(found) + "\n")
    rng = random.Random(0)
    write("reading/train.json", reading(rng, N_TRAIN, False))
    write("reading/dev.json", reading(rng, N_DEV, True))


if __name__ == "__main__":
    main()
