"""What the documents of ``benchmarks.retrieval`` say and what is asked: the words that the weights were tuned on, and
others, written afterwards, that they never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Things = Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Draw:
    """Words by language: a thing has a form in the document and another in the question.

    ``says`` and ``asks`` are templates with thing {0}, place {1}, year {2}, amount {3}; one of each is drawn.
    ``chatter`` stands around what a document says.
    """

    places: Mapping[str, Sequence[str]]
    things: Things
    says: Mapping[str, Sequence[str]]
    asks: Mapping[str, Sequence[str]]
    chatter: Mapping[str, Sequence[str]]


TUNED = Draw(
    places={
        "en": ["Ashford", "Brackley", "Corsham", "Dunster", "Exmoor", "Fowey", "Glossop", "Hexham", "Ilkley", "Kendal"],
        "zh": ["杭州", "苏州", "成都", "昆明", "厦门", "大连", "青岛", "桂林", "洛阳", "西安"],
        "de": ["Aachen", "Bamberg", "Celle", "Dessau", "Erfurt", "Fulda", "Gotha", "Husum", "Jena", "Kassel"],
    },
    things={
        "en": [(t, f"{t[:-1]}ies" if t.endswith("y") else f"{t}s") for t in
               ("bakery", "printer", "tractor", "violin", "kettle", "bicycle")],
        "zh": [(t, t) for t in ("苹果汁", "打印机", "拖拉机", "小提琴", "自行车", "电水壶")],
        "de": [
            ("Brandschutzverordnung", "Verordnung zum Brandschutz"),
            ("Kaffeemaschine", "Kaffeemaschinen"),
            ("Rechnungsprüfung", "Prüfung der Rechnung"),
            ("Wasserleitung", "Wasserleitungen"),
            ("Fahrradwerkstatt", "Fahrradwerkstätten"),
            ("Gartengeräte", "Gartengerät"),
        ],
    },
    says={
        "en": ["The report on the {0} in {1}: it was opened in {2} and costs {3} pounds a year."],
        "zh": ["关于{1}的{0}的报告：于{2}年开始使用，每年费用为{3}元。"],
        "de": ["Bericht über die {0} in {1}: seit {2} in Betrieb, Kosten von {3} Euro im Jahr."],
    },
    asks={
        "en": ["What do we know about {1}'s {0}?"],
        "zh": ["{1}的{0}每年费用是多少？"],
        "de": ["Was kostet in {1} die {0}?"],
    },
    chatter={"en": [""], "zh": [""], "de": [""]},
)  # fmt: skip

HELD_OUT = Draw(
    places={
        "en": ["Arbroath", "Bangor", "Conwy", "Dingwall", "Elgin", "Forfar", "Girvan", "Huntly", "Irvine", "Kelso"],
        "zh": ["哈尔滨", "乌鲁木齐", "拉萨", "贵阳", "海口", "银川", "兰州", "南宁", "合肥", "温州"],
        "de": ["Ahlen", "Borken", "Coburg", "Dachau", "Emden", "Freising", "Goslar", "Hameln", "Isny", "Kempten"],
    },
    things={
        "en": [
            ("lease agreement", "rental agreements"),
            ("swimming pool", "pools for swimming"),
            ("parish library", "libraries"),
            ("ferry timetable", "timetable of ferries"),
            ("oak flooring", "floors of oak"),
            ("insurance claim", "claims on the insurance"),
        ],
        "zh": [
            ("租赁合同", "租房合同"),
            ("游泳馆", "游泳"),
            ("图书馆", "图书馆"),
            ("渡轮时刻表", "渡轮的时刻"),
            ("保险理赔", "理赔"),
            ("垃圾分类", "分类垃圾"),
        ],
        "de": [
            ("Mietvertrag", "Mietverträge"),
            ("Schwimmbadsanierung", "Sanierung des Schwimmbads"),
            ("Gemeindebücherei", "Bücherei der Gemeinde"),
            ("Fährverbindung", "Verbindungen der Fähre"),
            ("Hausratversicherung", "Versicherung des Hausrats"),
            ("Heizkostenabrechnung", "Abrechnung der Heizkosten"),
        ],
    },
    says={
        "en": [
            "{1} council discussed the {0}. Since {2} it has been paid from a fund of {3} pounds.",
            "Minutes: the {0} of {1} was renewed in {2}; {3} pounds were set aside.",
            "Nobody objected when the {0} at {1} was put to the vote ({2}). It came to {3} pounds.",
        ],
        "zh": [
            "{1}市政府讨论了{0}，自{2}年起由{3}元的基金支付。",
            "会议记录：{1}的{0}已于{2}年更新，预留{3}元。",
            "{2}年就{1}的{0}进行表决，无人反对，共计{3}元。",
        ],
        "de": [
            "Der Rat von {1} hat über das Thema {0} beraten. Seit {2} kommen {3} Euro aus dem Fonds.",
            "Protokoll: {0}, {1}, im Jahr {2} erneuert; {3} Euro wurden zurückgelegt.",
            "Bei der Abstimmung {2} gab es in {1} keine Einwände, {0} für {3} Euro wurde beschlossen.",
        ],
    },
    asks={
        "en": [
            "How much did {1} spend on {0}?",
            "{0} {1}",
            "I'm looking for the paper where {0} in {1} were decided",
            "When were the {0} in {1} last dealt with, and who pays?",
        ],
        "zh": ["{1}在{0}上花了多少钱？", "{1} {0}", "我在找关于{1}{0}的文件", "请问{1}什么时候处理过{0}？"],
        "de": [
            "Wie viel gibt {1} für {0} aus?",
            "{0} {1}",
            "Ich suche das Schreiben, in dem es um {0} in {1} ging",
            "Wann wurde zuletzt über {0} in {1} gesprochen?",
        ],
    },
    chatter={
        "en": [
            "The meeting was opened at seven and the minutes of the last one were approved.",
            "Questions from the public were answered. The council spends more on roads than on anything else.",
            "Apologies were received from two members. The next meeting is on the first Monday of the month.",
        ],
        "zh": [
            "会议于七点开始，上次的会议记录获得通过。",
            "回答了公众的提问。道路支出最多。",
            "两名成员请假。下次会议在下月第一个星期一。",
        ],
        "de": [
            "Die Sitzung wurde um sieben Uhr eröffnet, das letzte Protokoll genehmigt.",
            "Fragen der Bürger wurden beantwortet. Für Straßen gibt die Gemeinde am meisten aus.",
            "Zwei Mitglieder fehlten entschuldigt. Die nächste Sitzung ist am ersten Montag des Monats.",
        ],
    },
)  # fmt: skip
DRAWS = {"tuned": TUNED, "held-out": HELD_OUT}
