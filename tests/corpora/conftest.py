"""Raw data for the builders: tiny made-up records in every source's own format."""

import csv
import gzip
import json

import pytest


@pytest.fixture
def raw(tmp_path):
    """A folder of raw records in the format of a source: `raw("squad")`."""

    def write(source):
        folder = tmp_path / f"raw_{source}"
        if not folder.exists():
            folder.mkdir()
            WRITERS[source](folder)
        return str(folder)

    return write


def _gzipped(path, value):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(value, file)


def _lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _clinc150(folder):
    intents = ("book_flight", "pay_bill", "tell_joke", "set_alarm", "play_music")

    def rows(part, count):
        return [[f"{part} words {i} on {intent}", intent] for intent in intents for i in range(count)]

    data = {"train": rows("train", 16), "val": rows("val", 4), "test": [*rows("test", 8), *rows("train", 1)]}
    data |= {f"oos_{part}": [[f"{part} chatter {i}", "oos"] for i in range(40)] for part in ("train", "val", "test")}
    _gzipped(folder / "data_full.json.gz", data)
    domains = {"travel": ["book_flight"], "money": ["pay_bill"], "home": ["tell_joke", "set_alarm", "play_music"]}
    (folder / "domains.json").write_text(json.dumps(domains))


def _banking77(folder):
    for part in ("train", "test"):
        with (folder / f"{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "category"])
            writer.writerows([[f"{part} {i}, about {c}", c] for c in ("card_arrival", "top_up") for i in range(12)])


def _nlu(folder):
    for part in ("train", "test"):
        intents = ("iot_lights", "iot_coffee", "music_play")
        rows = [{"text": f"{part} {i} {intent}", "intent": intent} for intent in intents for i in range(8)]
        _lines(folder / f"{part}.jsonl", rows)


def _pubmedqa(folder):
    _gzipped(
        folder / "ori_pqal.json.gz",
        {
            f"{number:03}": {
                "CONTEXTS": [
                    f"Little is known of disease {number} in the young. It is common all the same.",
                    f"We measured the blood of {number} patients twice.",
                    f"In {number} cases the value rose by half.",
                ],
                "LABELS": ["BACKGROUND", "PATIENTS AND METHODS", "BACKGROUND AND RESULTS"],
                "LONG_ANSWER": f"Disease {number} is not rare and can be found early.",
            }
            for number in range(60)
        },
    )


def _squad(folder):
    def paragraph(article, number):
        # no answer shares a word with its question, or the extractive answerer, rightly, would not give it
        who, town = f"Ada{article}x{number} Lund{article}x{number}", f"Town {article}x{number}"
        context = f"{who} was born in {town}. " + "Nothing else is known. " * 6
        asked = []
        for question, text in ((f"Who was born in {town}?", who), (f"Where was {who} born?", town)):
            gold = [{"text": text, "answer_start": context.index(text)}]
            asked.append({"question": question, "answers": gold, "is_impossible": False})
        asked.append({"question": f"Why {article}-{number}?", "answers": [], "is_impossible": True})
        return {"context": context.strip(), "qas": asked}

    articles = [{"title": f"T{a}", "paragraphs": [paragraph(a, p) for p in range(8)]} for a in range(10)]
    (folder / "part.json").write_text(json.dumps({"version": "1.1", "data": articles}))


def _hotpotqa(folder):
    def row(number):
        context = [
            [f"{name} {number}", [f"{name} {number} is a thing.", f" It has {name.lower()}s in year {number}."]]
            for name in ("Alpha", "Beta", "Gamma")
        ]
        facts = [[f"Alpha {number}", 1], [f"Beta {number}", 0]]
        question = f"What of Alpha and Beta {number}?"
        return {"question": question, "answer": f"year {number}", "context": context, "supporting_facts": facts}

    def by_column(pairs, first, second):
        return {first: [pair[0] for pair in pairs], second: [pair[1] for pair in pairs]}

    original = [row(number) for number in range(20)]
    columns = [row(number) for number in range(20, 40)]
    # 4 is held out, as every fifth; this one needs its articles too
    columns.append(row(4) | {"question": "Once more, what of Alpha and Beta 4?"})
    for entry in columns:
        entry["context"] = by_column(entry["context"], "title", "sentences")
        entry["supporting_facts"] = by_column(entry["supporting_facts"], "title", "sent_id")
    (folder / "a.json").write_text(json.dumps(original))
    (folder / "b.json").write_text(json.dumps(columns))


def _longmemeval(folder):
    def record(number):
        turns = [
            {"role": "user", "content": f"I bought {number} lamps.", "has_answer": True},
            {"role": "assistant", "content": "Nice. " * 5, "has_answer": False},
        ]
        return {
            "question_id": f"q{number}" + ("_abs" if number == 3 else ""),
            "question_type": "temporal-reasoning" if number == 2 else "single-session-user",
            "question": f"How many lamps did I buy in case {number}?",
            "answer": number,
            "question_date": "2023/06/01 (Thu) 00:58",
            "haystack_dates": [f"2023/05/{1 + number % 27:02} (Mon) 10:00"],
            "haystack_sessions": [turns],
        }

    _lines(folder / "part.jsonl", [record(number) for number in range(30)])


def _locomo(folder):
    def conversation(c):
        said = {"speaker_a": "Ann", "speaker_b": "Bo"}
        for s in range(1, 9):
            said[f"session_{s}_date_time"] = f"1:00 pm on {s} May, 2023"
            said[f"session_{s}"] = [
                {"speaker": "Ann", "dia_id": f"D{s}:1", "text": f"Hello, this is talk {c}-{s}."},
                {"speaker": "Bo", "dia_id": f"D{s}:2", "text": f"I saw film {c}-{s}.", "blip_caption": "a cinema"},
            ]
        asked = []
        for s in range(1, 9):
            for question, turn, answer in (("Which film", 2, f"film {c}-{s}"), ("Which talk", 1, f"talk {c}-{s}")):
                asked.append({"question": f"{question} in {c}-{s}?", "answer": answer, "evidence": [f"D{s}:{turn}"]})
                asked[-1]["category"] = 1
        asked.append({"question": f"Both of {c}?", "answer": "film", "evidence": ["D1:2; D2:2"], "category": 3})
        asked.append({"question": "Never said?", "adversarial_answer": "x", "evidence": ["D1:1"], "category": 5})
        return {"sample_id": f"conv-{c}", "conversation": said, "qa": asked}

    _gzipped(folder / "locomo_part.json.gz", [conversation(c) for c in range(5)])


def _squality(folder):
    rows = [
        {
            "document": f"Story {number}\n   \n  Once there was a king of {number}. " + "He ruled on and on. " * 40,
            "questions": [
                {"question_text": "What is the plot?", "responses": [{"response_text": f"{w} {number}"} for w in "ab"]}
            ],
        }
        for number in range(6)
    ]
    _lines(folder / "train.jsonl", rows)


def _text(folder):
    for number in range(6):
        (folder / f"{number}.txt").write_text(f"Part {number}. " + "More of the same here. " * 60)


def _conversations(folder):
    def messages(user):
        said = [(f"Message {user} {number} of mine. ", f"Answer {user} {number} to it. ") for number in range(6)]
        roles = ("user", "assistant")
        return [{"role": role, "content": text * 5} for pair in said for role, text in zip(roles, pair, strict=True)]

    _lines(folder / "chats.jsonl", [{"user": f"user{user}", "messages": messages(user)} for user in range(16)])


WRITERS = {
    "banking77": _banking77,
    "clinc150": _clinc150,
    "conflict": _squad,
    "conversations": _conversations,
    "hotpotqa": _hotpotqa,
    "locomo": _locomo,
    "longmemeval": _longmemeval,
    "nlu": _nlu,
    "pubmedqa": _pubmedqa,
    "squad": _squad,
    "squality": _squality,
    "text": _text,
}
