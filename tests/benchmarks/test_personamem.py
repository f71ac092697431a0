"""PersonaMem-v2 from made-up files of its schema: rows, options, histories, and splits that share no persona."""

import csv
import dataclasses
import json

import pytest

from finemem_jax import main
from finemem_jax.benchmarks import personamem
from finemem_jax.config import DataConfig, UserError
from finemem_jax.env.environment import Asked, play
from finemem_jax.env.rehearsal import rehearse
from finemem_jax.types import ANSWER, WRITE, Completion

COLUMNS = (
    "persona_id,user_query,correct_answer,incorrect_answers,pref_type,who,updated,related_conversation_snippet,"
    "chat_history_32k_link,chat_history_128k_link"
).split(",")
TEXT = "benchmark/text"


def row(persona, number=0, **fields):
    snippet = [{"role": "user", "content": f"I, {persona}, would never eat walnuts"}]
    told = {
        "persona_id": persona,
        "user_query": str({"role": "user", "content": f"What shall I bake, number {number}?"}),  # a Python literal
        "correct_answer": "An apple cake",
        "incorrect_answers": json.dumps(["A walnut cake", "Nothing", "It's up to you"]),
        "pref_type": "food",
        "who": "self",
        "updated": "False",
        "related_conversation_snippet": str(snippet),
        "chat_history_32k_link": f"data/short/{persona}.json",
        "chat_history_128k_link": f"data/long/{persona}.json",
    }
    return told | fields


def write_repository(root, files):
    """Rows by file name, and a history for every persona: a system turn, three messages of 12 words."""
    for name, rows in files.items():
        path = root / TEXT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *(list(row.values()) for row in rows)])
        for persona in {found["persona_id"] for found in rows}:
            said = [
                "hello, what a fine day it is, let us talk a bit",
                f"I, {persona}, would never eat walnuts",
                "noted",
            ]
            roles = ("user", "user", "assistant")
            history = [{"role": "system", "content": "SECRET PERSONA"}]
            history += [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
            for folder, form in (("short", {"chat_history": history}), ("long", history * 2)):
                place = root / "data" / folder / f"{persona}.json"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(json.dumps(form))
    return str(root)


def load(path, split="train", **fields):
    return personamem.load(DataConfig(name="personamem", path=path, chunk_tokens=16, **fields), split, 0)


def test_an_episode_is_a_history_with_its_rows(tmp_path):
    others = {"who": "others", "updated": "True"}
    path = write_repository(tmp_path, {"train.csv": [row("ann"), row("ann", 1, **others)], "val.csv": [row("bob")]})
    write_repository(tmp_path, {"benchmark.csv": [row("eve")]})
    found = load(path, eval_path=f"{path}/{TEXT}/benchmark.csv")
    episode = next(e for e in found if "ann" in e.id)
    text = "\n\n".join(chunk.text for chunk in episode.chunks)
    assert len(found) == 2 and len(episode.chunks) > 1 and "SECRET" not in text
    assert "Message 2 (user): I, ann, would never eat walnuts" in text and "Message 3 (assistant): noted" in text
    assert [q.kind for q in episode.questions] == ["food", "food updated others"]
    assert all("walnuts" in episode.chunks[i].text for q in episode.questions for i in q.evidence)
    assert all(q.evidence for q in episode.questions)
    (long,) = load(path, "eval", eval_path=f"{path}/{TEXT}/benchmark.csv", sources=("personamem-128k",))
    assert long.source == "personamem-128k" and len(long.chunks) > len(episode.chunks) and "eve" in long.id


def test_the_right_option_has_the_letter_that_is_gold_wherever_it_stands(tmp_path):
    path = write_repository(tmp_path, {"train.csv": [row("ann", number) for number in range(24)], "val.csv": []})
    (episode,) = load(path, eval_path=write_repository(tmp_path / "x", {"train.csv": [row("eve")]}))
    golds = set()
    for question in episode.questions:
        (gold,) = question.answers
        assert f"\n({gold}) An apple cake" in question.text and question.text.count("\n(") == 4
        golds.add(gold)
    assert golds == set("abcd")
    assert [q.text for q in episode.questions] == [
        q.text for q in load(path, limit=1, eval_path=f"{path}/x")[0].questions
    ]


def test_no_persona_is_in_two_splits(tmp_path):
    """As published, personas of train.csv are in val.csv again."""
    people = [f"p{number}" for number in range(60)]
    path = write_repository(tmp_path, {"train.csv": [row(p) for p in people], "val.csv": [row(p, 1) for p in people]})
    train, held_out = (load(path, split) for split in ("train", "eval"))
    who = [{episode.id.split("-")[2] for episode in split} for split in (train, held_out)]
    assert who[0] | who[1] == set(people) and not who[0] & who[1] and 2 <= len(who[1]) <= 12
    assert all(len(episode.questions) == 2 for episode in held_out)  # of both files
    assert load(path) == train != load(path, limit=5)
    write_repository(tmp_path, {"benchmark.csv": [row(p, 2) for p in people[:9]]})
    own = load(path, eval_path=f"{path}/{TEXT}/benchmark.csv")
    assert {episode.id.split("-")[2] for episode in own} == set(people[9:])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"incorrect_answers": "__import__('os').getcwd()"}, "incorrect_answers"),
        ({"incorrect_answers": "[" * 5000}, "incorrect_answers"),
        ({"user_query": "{'role': 'user'}"}, "user_query"),
        ({"chat_history_32k_link": "../../../etc/passwd"}, "chat_history_32k_link"),
        ({"chat_history_32k_link": "data/short/nobody.json"}, "chat_history_32k_link"),
        ({"chat_history_32k_link": "data/\0"}, "chat_history_32k_link"),
        ({"chat_history_32k_link": "x" * 5000}, "chat_history_32k_link"),
        ({"beyond": "x"}, "more cells than the table has columns"),
        ({"correct_answer": " "}, "correct_answer"),
    ],
)
def test_a_bad_row_is_named_with_its_field(tmp_path, fields, said, capsys):
    path = write_repository(tmp_path, {"train.csv": [row("ann"), row("ann", 1, **fields)], "val.csv": []})
    eval_path = write_repository(tmp_path / "x", {"train.csv": [row("eve")]})
    with pytest.raises(UserError, match=rf"train\.csv row 1: .*{said}.*on_bad_row=skip"):
        load(path, eval_path=eval_path)
    (episode,) = load(path, eval_path=eval_path, on_bad_row="skip")
    assert len(episode.questions) == 1 and "1 bad rows" in capsys.readouterr().err


def test_a_run_in_its_manner_hides_the_question_and_reads_the_letter(env, tmp_path):
    cfg = main.load_config("configs/neighbours/personamem.py", [])
    own = dataclasses.replace(env, memory=cfg.memory, prompt=cfg.prompt, method=cfg.method)
    rehearse(own, cfg.rewards, cfg.advantage)
    path = write_repository(tmp_path, {"train.csv": [row("ann")], "val.csv": []})
    (episode,) = load(path, eval_path=write_repository(tmp_path / "x", {"train.csv": [row("eve")]}))
    (gold,) = episode.questions[0].answers
    said = ["- hates walnuts"] * len(episode.chunks) + [f"<think>walnuts: no</think> \\boxed{{{gold}}}"]
    game = play(own, episode, Asked(((),) * len(episode.chunks), episode.questions), lambda requests: [])
    turns = [next(game)]
    for text in said:
        tokens = (*env.tokenizer.encode(text, add_special_tokens=False), env.tokenizer.eos_token_id)
        try:
            turns.append(game.send(Completion(tokens, (-0.5,) * len(tokens), "stop")))
        except StopIteration as end:
            rollout = end.value()
    shown = {turn.role: env.tokenizer.decode(turn.prompt_tokens) for turn in turns}
    assert "apple cake" not in shown[WRITE] and "hates walnuts" in shown[ANSWER] and "apple cake" in shown[ANSWER]
    assert [(answer.text, answer.score) for answer in rollout.answers] == [(gold, 1.0)]
    assert rollout.memory.items[0].text == "- hates walnuts"
