"""A chunk too long for a prompt is found before the work: named, split with all that belongs to it, or left out."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from finemem_jax.config import PromptConfig, UserError
from finemem_jax.env.chunk_lengths import prompt_tokens, with_fitting_chunks
from finemem_jax.types import Chunk, Episode, Question

SENTENCE = "The tram was late again and nobody spoke. "


def episode(name, *chunks, questions=()):
    return Episode(name, "squad", tuple(Chunk(text, i) for i, text in enumerate(chunks)), tuple(questions))


@pytest.fixture
def narrow(env):
    """An environment in whose prompts a chunk has room for some 60 tokens."""
    most = prompt_tokens("", env) + 60
    return replace(env, prompt=PromptConfig(name="compact", max_prompt_tokens=most))


def fits(chunk, env):
    return prompt_tokens(chunk.text, env) <= env.prompt.max_prompt_tokens


def test_the_first_long_chunk_is_named_with_its_episode_and_how_many_there_are(narrow):
    episodes = [
        episode("e-0", "short"),
        episode("e-1", "short", SENTENCE * 20, SENTENCE * 40),
        episode("e-2", SENTENCE * 9),
    ]
    with pytest.raises(UserError) as raised:
        with_fitting_chunks(episodes, narrow, "stop")
    said = r"episode 'e-1' \(data source 'squad'\), chunk 1: its prompt has \d+ tokens, more than "
    said += r"config\.prompt\.max_prompt_tokens=\d+ \(3 such chunks in 2 episodes, the longest with \d+ tokens\): "
    assert re.match(f"{said}raise it, build shorter chunks, or set config.data.on_long_chunk to ", str(raised.value))
    same = [episode("e-0", "short"), episode("e-3", "also short")]
    for action in ("stop", "split", "skip"):
        assert with_fitting_chunks(same, narrow, action) == (same, "")


def test_only_those_that_will_be_read_are_looked_at(narrow):
    episodes = [episode("e-0", SENTENCE * 20), episode("e-1", "short")]
    assert with_fitting_chunks(episodes, narrow, "stop", [1]) == (episodes, "")
    with pytest.raises(UserError, match="'e-0'"):
        with_fitting_chunks(episodes, narrow, "stop", [1, 0])


def test_the_limit_is_met_to_the_token(env):
    text = SENTENCE * 7
    most = prompt_tokens(text, env)
    episodes = [episode("e-0", text)]
    for tokens, is_long in ((most, False), (most - 1, True)):
        exact = replace(env, prompt=PromptConfig(name="compact", max_prompt_tokens=tokens))
        assert bool(with_fitting_chunks(episodes, exact, "split")[1]) == is_long


def test_episodes_with_a_long_chunk_are_left_out_and_counted(narrow):
    episodes = [episode("e-0", "short"), episode("e-1", "short", SENTENCE * 20), episode("e-2", "short")]
    kept, said = with_fitting_chunks(episodes, narrow, "skip")
    assert kept == (episodes[0], episodes[2])
    assert "'e-1'" in said and said.endswith("left out (config.data.on_long_chunk=skip): 1 episodes")
    with pytest.raises(UserError, match="leaves no episode"):
        with_fitting_chunks(episodes[1:2], narrow, "skip")


def test_a_long_chunk_becomes_several_that_fit_and_keep_all_words_questions_and_evidence(narrow):
    body = SENTENCE * 6 + "Ada met Karl. " + SENTENCE * 6
    about = (Question("Whom?", ("Karl",), evidence=(1,)), Question("What?", ("nothing said",), evidence=(1,)))
    given = Episode(
        "e-0",
        "squad",
        (Chunk("before", 0), Chunk(f"[On 2024-01-02]\n{body}", 1, about), Chunk("after", 2)),
        (
            Question("Whom did Ada meet?", ("Karl",), evidence=(1,)),
            Question("Unknown?", ("nobody knows",), evidence=(1, 2)),
            Question("Last?", ("after",), evidence=(2,)),
        ),
    )
    (split,), said = with_fitting_chunks([given], narrow, "split")
    assert all(fits(chunk, narrow) for chunk in split.chunks)
    assert [chunk.index for chunk in split.chunks] == list(range(len(split.chunks))) and len(split.chunks) >= 4
    parts = split.chunks[1:-1]
    assert all(part.text.startswith("[On 2024-01-02]\n") for part in parts)  # its date stands over every part
    assert " ".join(" ".join(part.text.split("\n", 1)[1] for part in parts).split()) == " ".join(body.split())
    (holder,) = (part for part in parts if "Karl" in part.text)
    every = tuple(part.index for part in parts)
    assert [q.evidence for q in split.questions] == [(holder.index,), (*every, every[-1] + 1), (every[-1] + 1,)]
    assert [(part.index, q.text) for part in parts for q in part.questions] == sorted(
        [(holder.index, "Whom?"), (every[-1], "What?")]
    )
    assert said.endswith(f"split (config.data.on_long_chunk=split): {len(parts) - 1} chunks more")
    assert split.chunks[0] == given.chunks[0] and split.chunks[-1].text == "after"


def test_a_prompt_without_room_for_any_chunk_is_refused(env):
    narrow = replace(env, prompt=PromptConfig(name="compact", max_prompt_tokens=prompt_tokens("", env) + 3))
    with pytest.raises(UserError, match="leaves no room for a chunk: the prompt without one has"):
        with_fitting_chunks([episode("e-0", SENTENCE * 20)], narrow, "split")


def test_a_corpus_is_counted_without_rendering_what_is_far_from_the_limit(env):
    wide = replace(env, prompt=PromptConfig(name="compact", max_prompt_tokens=6000))
    rendered = []

    class Counting:
        def counts(self, texts):
            return [len(text) // 4 for text in texts]

        def __getattr__(self, name):
            raise AttributeError(name)

    class Tokenizer:
        def __getattr__(self, name):
            if name == "apply_chat_template":
                rendered.append(name)
            return getattr(wide.tokenizer, name)

    episodes = [episode(f"e-{i}", *[SENTENCE * 20] * 10) for i in range(200)]
    counting = replace(wide, count_tokens=Counting(), tokenizer=Tokenizer())
    assert with_fitting_chunks(episodes, counting, "stop")[1] == ""
    assert len(rendered) < 20  # of 2000 chunks
