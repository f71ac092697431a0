"""Tokenizers: the ones of pretrained models through `transformers`, and the tiny one of the embedded policy.

The tiny tokenizer is a byte-level BPE, so it encodes any text. It is trained on the diary's own sentences and a
list of frequent English words, and the scaffolding of an operation (`<tool_call>\\n{"name": "memory_insert", …`)
is one token each: a model of 0.25 M parameters spends its steps on what to write, not on JSON.
"""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from finemem_jax.config import UserError
from finemem_jax.env.counting import TokenCounter

EMBEDDED = "embedded:"
END_OF_TURN = "<|im_end|>"
PADDING = "<|pad|>"

# One token each. Longer ones win over their prefixes.
SCAFFOLD = (
    "<|im_start|>system\n",
    "<|im_start|>user\n",
    "<|im_start|>assistant\n",
    "<tools>",
    "</tools>",
    "<chunk>\n",
    "\n</chunk>\n",
    "<memory>\n",
    "\n</memory>",
    "memory_insert",
    "memory_update",
    "memory_delete",
    "memory_skip",
    '<tool_call>\n{"name": "memory_insert", "arguments": {"content": "',
    '<tool_call>\n{"name": "memory_update", "arguments": {"content": "',
    '<tool_call>\n{"name": "memory_delete", "arguments": {"id": "',
    '<tool_call>\n{"name": "memory_skip", "arguments": {}}\n</tool_call>\n',
    '{"content": "',
    '"}\n{"content": "',
    '"}\n</memory>',
    '"}}\n</tool_call>\n',
    " =>",
)
ITEM_IDS = tuple(f"{before}#{i}" for before in ("", '", "id": "') for i in range(1, 65))

# ChatML with the tools listed by name alone: the tiny policy learns their use from examples, not from schemas.
CHAT_TEMPLATE = """\
{%- if tools or messages[0].role == 'system' -%}
<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif -%}
{% if tools %}<tools>{% for tool in tools %}{{ (tool.function or tool).name }}{% endfor %}</tools>{% endif -%}
<|im_end|>
{% endif -%}
{%- for message in messages if message.role != 'system' -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}"""

# Frequent words of everyday English, so that real text does not fall apart into bytes.
COMMON_WORDS = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then
them these so some her would make like him into time has look two more write go see number no way could people my
than first water been call who oil its now find long down day did get come made may part over new sound take only
little work know place year live me back give most very after thing our just name good sentence man think say great
where help through much before line right too mean old any same tell boy follow came want show also around form
three small set put end does another well large must big even such because turn here why ask went men read need land
different home us move try kind hand picture again change off play spell air away animal house point page letter
mother answer found study still learn should world high every near add food between own below country plant last
school father keep tree never start city earth eye light thought head under story saw left late run while press close
night real life few north open seem together next white children begin got walk example ease paper group always music
those both mark often until mile river car feet care second book carry took science eat room friend began idea fish
mountain stop once base hear horse cut sure watch color face wood main enough plain girl usual young ready above ever
red list though feel talk bird soon body dog family direct leave song measure door product black short class wind
question happen complete ship area half rock order fire south problem piece told knew pass since top whole king space
heard best hour better during hundred five remember step early hold west ground interest reach fast sing listen six
table travel less morning ten simple several toward war lay against pattern slow center love person money serve appear
road map rain rule govern pull cold notice voice unit power town fine certain fly fall lead cry dark machine note wait
plan figure star box noun field rest correct able pound done beauty drive stood contain front teach week final gave
green oh quick develop ocean warm free minute strong special mind behind clear tail produce fact street inch nothing
course stay wheel full force blue object decide surface deep moon island foot system busy test record boat common gold
possible plane dry wonder laugh thousand ago ran check game shape hot miss brought heat snow tire bring yes distant
fill east paint language among account card bank credit balance transfer bill pay payment due date limit rate interest
cash dollar hotel flight ticket book reservation restaurant meeting calendar reminder schedule event alarm timer
weather temperature phone text message email contact location direction traffic distance gas calorie recipe meal
ingredient dinner lunch breakfast shopping cart delivery track status account password report fraud lost stolen card
insurance tax salary income vacation holiday passport visa plug type translate say language spanish french speak fun
joke coin flip roll dice repeat volume speaker next song playlist update delete cancel confirm reply thank goodbye
hello maybe sure tomorrow today yesterday monday tuesday wednesday thursday friday saturday sunday january february
march april june july august september october november december am pm o'clock hours minutes days weeks months years
please need want would could should tell let know much many long far does don't can't what's it's i'm i'd i'll you're
""".split()


def build_tiny(texts: Iterable[str], subwords: int = 256, scaffold: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """The tiny tokenizer: bytes, `subwords` BPE merges, every word of `texts` and of COMMON_WORDS whole, and the
    scaffolding and item ids as one token each; with a chat template that takes tools.

    scaffold: further texts that are one token each."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = list(texts)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + subwords, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = split
    learner.train_from_iterator([" ".join(COMMON_WORDS), *texts], trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab = learned["vocab"]
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    words |= {word for text in COMMON_WORDS for form in (text, f" {text}") for word, _ in split.pre_tokenize_str(form)}
    for word in sorted(words - vocab.keys()):
        vocab[word] = len(vocab)
    # ignore_merges: a word that is whole in the vocabulary needs no chain of merges that leads to it
    bpe = Tokenizer(models.BPE(vocab, [tuple(pair) for pair in learned["merges"]], ignore_merges=True))
    bpe.pre_tokenizer = split
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(PADDING, special=True), AddedToken(END_OF_TURN, special=True)])
    bpe.add_tokens(
        [AddedToken(text, normalized=False, special=False) for text in dict.fromkeys((*SCAFFOLD, *ITEM_IDS, *scaffold))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def embedded_path(name: str) -> str:
    """Folder of a model shipped in the package. Raises UserError listing those there are."""
    folder = importlib.resources.files("finemem_jax") / "assets"
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    if name not in found:
        raise UserError(f"no embedded model {name!r}; there are: {', '.join(found) or 'none'}")
    return str(folder / name)


def resolve_path(path: str) -> str:
    """A model path as given in a config: "embedded:NAME" becomes the folder in the package."""
    return embedded_path(path.removeprefix(EMBEDDED)) if path.startswith(EMBEDDED) else path


def load(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, a hub name or "embedded:NAME". Raises UserError if there is none, or no template."""
    where = resolve_path(path)
    is_folder = os.path.isdir(where)
    if not is_folder and (where.startswith((".", os.sep)) or where.count("/") != 1):
        raise UserError(f"no folder {where}, nor is that a hub name like Qwen/Qwen3-4B (model.path, model.tokenizer)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
        tokenizer.encode("a", add_special_tokens=False)  # some mistakes show at the first use
    except Exception as error:  # each tokenizer class meets a file that it does not expect with an error of its own
        place = "" if is_folder else " (no such folder here, so it was looked for on the hub)"
        raise UserError(f"no tokenizer at {path}{place}: {_reason(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the library's native part; it is no Exception
            raise
        raise UserError(f"no tokenizer at {path}: {_reason(error)}") from error
    if not isinstance(tokenizer.chat_template, str | dict):
        raise UserError(f"the tokenizer of {path} has no chat template, which prompts are rendered with")
    return tokenizer


def _reason(error: BaseException) -> str:
    """An error's first line; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def token_counter(tokenizer: PreTrainedTokenizerBase) -> TokenCounter:
    """Length of a text in tokens, cached."""
    return TokenCounter(tokenizer)


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that end a turn: the tokenizer's EOS, and the chat template's end of turn where that is another token."""
    ids = {tokenizer.eos_token_id, *(tokenizer.get_vocab().get(t) for t in (END_OF_TURN, "<|eot_id|>"))}
    return tuple(sorted(i for i in ids if i is not None))
