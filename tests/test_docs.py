"""The pages tell the truth: their commands parse, what they name exists, their links lead somewhere.

Nothing that a page says is run here, except the Python of docs/python.md and of the README, and the plug-ins of
docs/plugins.md, which are written into their folders and held to the folders' contracts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from finemem_jax import bench, config, main
from finemem_jax.env.environment import all_questions, play
from finemem_jax.env.turns import advantages, tabulate
from finemem_jax.evaluate import evaluate_baselines
from finemem_jax.types import Completion
from tests import fakes
from tests.contracts import test_plugins as contracts

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "finemem_jax"
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "bash", "console")
STANDS_FOR = {"F": "configs/quickstart.py", "F,F,…": "configs/quickstart.py"}  # what pages write for "your config"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def python_blocks(name: str) -> list[tuple[str, str]]:
    """(title, code) of the Python blocks of a page."""
    found = [(block["info"], block["body"]) for block in FENCE.finditer(page(name))]
    return [("".join(re.findall(r'title="(.+?)"', info)), body) for info, body in found if info.startswith("python")]


PLUGINS = {title: code for title, code in python_blocks("docs/plugins.md")}


@pytest.fixture
def plugged_in(tmp_path, monkeypatch):
    """Writes a plug-in of the page and makes its folder a part of the package's: (folder, name)."""

    def plug_in(title: str) -> tuple[str, str]:
        _, folder, file = title.split("/")
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / file).write_text(PLUGINS[title], encoding="utf-8")
        package = importlib.import_module(f"finemem_jax.{folder}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / folder)])
        return folder, Path(file).stem

    yield plug_in
    for module in [m for m in sys.modules.values() if str(getattr(m, "__file__", "")).startswith(str(tmp_path))]:
        del sys.modules[module.__name__]


# --------------------------------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a page as words: of its shell blocks, and of `finemem …` in its prose that has an option."""
    for block in FENCE.finditer(text):
        if block["info"].strip() in SHELL:
            for line in re.sub(r"\\\n\s*", "", block["body"]).splitlines():
                if block["info"].strip() != "console" or line.startswith("$ "):  # the other lines are output
                    yield from _split(line.removeprefix("$ "))
    for span in spans(text):
        if re.match(r"(finemem \S+ -|bash launch/|python )", span):
            yield from _split(span)


def _split(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()[]")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    depth = 0
    for word in [*lexer, ";"]:
        depth += {"[": 1, "]": -1}.get(word, 0)
        if set(word) <= set(";&|"):
            yield _without_frame(words)
            words = []
        elif word not in "[]" and depth == 0:  # what stands in brackets may be left out
            words.append(word)


def _without_frame(words: list[str]) -> list[str]:
    """Without `do`, and without settings of the environment before the command."""
    while words and (words[0] == "do" or re.fullmatch(r"[A-Z_]+=.*", words[0])):
        words = words[1:]
    return words


def problem(words: list[str]) -> str:
    """What is wrong with a command, or ""."""
    match words:
        case ["finemem", "bench", name, *_]:
            return "" if name in config.plugins(bench.__name__) else f"no benchmark {name}"
        case ["finemem", *arguments]:
            return _finemem_problem(arguments)
        case ["bash" | "sbatch" | "python" | "source", *rest]:
            files = [word for word in rest if re.match(r"(launch|tests|examples|docs|\.ci)/", word)]
            return "".join(f"no file {name}" for name in files if not (ROOT / name).exists())
        case ["pytest", *rest]:
            return "".join(f"no tests {word}" for word in rest if "/" in word and not (ROOT / word).exists())
        case ["pip", "install", *wanted]:
            return "".join(_extra_problem(word) for word in wanted)
    return ""


def _extra_problem(requirement: str) -> str:
    named = re.fullmatch(r"(?:finemem_jax|\.)\[([\w,]+)\]", requirement)
    known = re.findall(r"^(\w+) =", (ROOT / "setup.cfg").read_text().partition("[options.extras_require]")[2], re.M)
    return "" if named is None or set(named[1].split(",")) <= set(known) else f"no extra {named[1]}"


def _finemem_problem(arguments: list[str]) -> str:
    said: list[str] = []
    parser = main._parser()
    try:
        with contextlib.redirect_stderr(_Into(said)):
            parsed, overrides = parser.parse_known_args(arguments)
    except SystemExit:
        return "".join(said)
    path = getattr(parsed, "config", None)
    if path is None and not overrides:
        return ""
    path = STANDS_FOR.get(path or "F", path or "quickstart")
    # NAME and TERM stand for a word of the reader's
    known = [re.sub(r"(weights|guards)\.(TERM|NAME)", _first, override) for override in overrides]
    try:
        main.load_config(path, known)
    except config.UserError as error:
        return str(error)
    return ""


def _first(placeholder: re.Match) -> str:
    return f"{placeholder[1]}." + {"weights": "format", "guards": "kl"}[placeholder[1]]


class _Into:
    def __init__(self, lines: list[str]):
        self.write = lines.append

    def flush(self) -> None:
        pass


# Of these the page says itself that they are mistakes.
WRONG_ON_PURPOSE = [["finemem", "train", "--config.trian.steps=1"]]


@pytest.mark.parametrize("name", PAGES)
def test_commands_parse(name, monkeypatch, plugged_in):
    monkeypatch.chdir(ROOT)
    for title in PLUGINS if name == "docs/plugins.md" else ():
        plugged_in(title)
    for words in commands(page(name)):
        if words not in WRONG_ON_PURPOSE:
            assert not problem(words), f"{' '.join(words)}: {problem(words)}"


@pytest.mark.parametrize(
    "line",
    [
        "finemem trian --config=configs/quickstart.py",
        "finemem train --config=configs/slowstart.py",
        "finemem train --wrokdir=runs/x",
        "finemem train --config=F --config.trian.steps=1",
        "finemem train --config=F --config.train.steps=many",
        "for s in a b; do finemem data build --source=$s --inptu=x --output=y.parquet; done",
        "finemem export --workdir=D",
        "TPU=x bash launch/moon_run.sh --dry-run",
        "finemem bench juggle",
        "pytest -m slow tests/test_nothing.py",
        "pip install 'finemem_jax[everything]'",
    ],
)
def test_a_wrong_command_is_found(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert any(problem(words) for words in commands(f"```\n{line}\n```\n"))
    for words in WRONG_ON_PURPOSE:
        assert problem(words)


# --------------------------------------------------------------------------------------------------------------
# Names
# --------------------------------------------------------------------------------------------------------------


def spans(text: str) -> list[str]:
    """What stands in single back-ticks outside the blocks."""
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


FOLDERS = {path.name for path in [*ROOT.iterdir(), *PACKAGE.iterdir()] if path.is_dir()} - {"build", "runs"}
GROUPS = {name for name, value in config.to_dict(config.Config()).items() if isinstance(value, dict)}
SUFFIXES = (".py", ".sh", ".cfg", ".toml", ".yml", ".cff")


def own_settings(folder: str) -> list[str]:
    """The settings that plug-ins of a folder have of their own, as full names."""
    found = []
    for name in config.plugins(f"finemem_jax.{folder}"):
        settings = getattr(config.resolve(f"finemem_jax.{folder}", name), "Settings", None)
        fields = dataclasses.fields(settings) if settings is not None else ()
        found += [f"config.{folder}.settings.{name}.{field.name}" for field in fields]
    return found


def absent(span: str) -> str:
    """What a span names that does not exist, or ""."""
    for name in re.findall(r"[\w./*-]+(?:\.\w+|/)|[\w.]+", span):
        name = name.removeprefix("--").rstrip(".")
        first = name.split("/")[0].split(".")[0]
        if "/" in name and (first in FOLDERS or name.startswith((".ci/", ".github/"))):
            if not any(list(folder.glob(name.rstrip("/"))) for folder in (ROOT, PACKAGE)):
                return f"file {name}"
        elif "/" not in name and name.endswith(SUFFIXES):
            if not any(path for path in ROOT.glob(f"[!.]*/**/{name}")) and not (ROOT / name).exists():
                return f"file {name}"
        elif name.startswith("finemem_jax."):
            if not _is_importable(name):
                return f"name {name}"
        elif name.endswith((".json", ".jsonl")):  # files of a run
            continue
        elif (first in GROUPS or first == "config") and re.fullmatch(r"[a-z_.\d]+[A-Z_]*(\.[a-z_]+)?", name):
            full = name if first == "config" else f"config.{name}"
            wanted = re.compile(re.sub(r"[A-Z][A-Z_]*", "[a-z_]+", full.replace(".", r"\.")))
            fields = [*config.dotted_names(config.to_dict(config.Config())), *own_settings("rewards")]
            if "." in name and not any(wanted.fullmatch(field) for field in fields):
                return f"setting {name}"
    return ""


def _is_importable(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.mark.parametrize("name", PAGES)
def test_what_is_named_exists(name, plugged_in):
    for title in PLUGINS if name == "docs/plugins.md" else ():
        plugged_in(title)
    written = [title for title, _ in python_blocks(name)]  # files that the page lets its reader write
    for span in spans(page(name)):
        assert span in written or not absent(span), f"{name}: `{span}` names a {absent(span)} that does not exist"


@pytest.mark.parametrize(
    "span",
    [
        "configs/slowstart.py",
        "env/cooking.py",
        "nothing_here.py",
        "finemem_jax/rewards/kindness.py",
        "tests/kindness/",
        "config.train.stpes",
        "train.stpes",
        "--config.rewards.weights.kindness=1",
        "guards.NAME.limits",
        "finemem_jax.rl.grpo.police_loss",
        "finemem_jax.rl.grqo",
    ],
)
def test_a_wrong_name_is_found(span):
    assert absent(span)


@pytest.mark.parametrize("span", ["train.steps", "config.guards.NAME.limit", "rewards.weights.TERM", "rl/grpo.py"])
def test_a_right_name_is_accepted(span):
    assert not absent(span)


# --------------------------------------------------------------------------------------------------------------
# Links, size, site
# --------------------------------------------------------------------------------------------------------------


def dead_links(name: str, text: str) -> list[str]:
    """Targets of the links and images of a page that lead nowhere. Addresses on the web are not followed."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            dead.append(target)
    return dead


def anchors(text: str) -> set[str]:
    """Of every heading, as both GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*PAGES, "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    assert not dead_links(name, page(name))


def test_a_dead_link_is_found():
    assert dead_links("README.md", "[a](docs/nowhere.md) [b](docs/data.md#nowhere) ![c](docs/images/none.png)") == [
        "docs/nowhere.md",
        "docs/data.md#nowhere",
        "docs/images/none.png",
    ]
    assert not dead_links("docs/data.md", "[a](../README.md) [b](data.md#your-own-text) [c](https://example.org/x)")


def test_the_readme_is_short_and_shows_the_test_command():
    assert len(page("README.md").encode()) <= 10_000
    assert "bash launch/test.sh" in page("README.md")


def test_the_architecture_page_names_every_room():
    rooms = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]
    named = {span.rstrip("/") for span in spans(page("docs/architecture.md"))}
    assert len(rooms) > 10 and set(rooms) <= named


def test_every_page_is_in_the_site():
    listed = re.findall(r"[\w-]+\.md", yaml.dump(yaml.safe_load(page("mkdocs.yml"))["nav"]))
    assert sorted(f"docs/{name}" for name in listed) == [name for name in PAGES if name.startswith("docs/")]


# --------------------------------------------------------------------------------------------------------------
# Examples in the pages
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name in ("README.md", "docs/python.md") for i in range(len(python_blocks(name)))]
)
def test_python_of_the_pages_runs(name, number):
    exec(compile(python_blocks(name)[number][1], name, "exec"), {"__name__": "example"})


CONTRACTS = {
    "rewards": (contracts.test_reward_terms,),
    "credit": (contracts.test_credit_rules,),
    "prompts": (contracts.test_prompts_say_the_chunk_and_the_items,),
    "memory": (contracts.test_memory,),
    "answerers": (contracts.test_answerers_answer_in_order_and_take_an_empty_retrieval,),
    "benchmarks": (contracts.test_benchmarks,),
    "measures": (contracts.test_measures,),
    "judges": (contracts.test_judges,),
    "codecs": (contracts.test_codecs_write_and_read_the_operations_of_every_memory_that_they_fit,),
    "models": (contracts.test_model_families,),
}


@pytest.mark.parametrize("title", [title for title in PLUGINS if title.split("/")[1] in CONTRACTS])
def test_plug_ins_of_the_page_keep_their_contract(title, plugged_in):
    folder, name = plugged_in(title)
    assert name in config.plugins(f"finemem_jax.{folder}")
    for contract in CONTRACTS[folder]:
        contract(name)


def test_the_method_of_the_page_keeps_its_contract(plugged_in, env):
    _, name = plugged_in(next(title for title in PLUGINS if "/methods/" in title))
    contracts.test_methods(name, env)


def test_the_baseline_of_the_page_keeps_its_contract_and_is_a_name_of_the_config(plugged_in, env):
    _, name = plugged_in(next(title for title in PLUGINS if "/baselines/" in title))
    contracts.test_baselines(name, env)
    cfg = config.Config(eval=config.EvalConfig(baselines=("no_memory", name)))
    config.validate(cfg)
    episode = fakes.episode(["a is b\nnoise", "noise"], [("what is a?", "b")])
    answerer = config.resolve("finemem_jax.answerers", "extractive").create(config.AnswererConfig())
    found = evaluate_baselines(env, answerer, [episode], cfg)
    assert {name: row.metrics["accuracy"] for name, row in found.items()} == {"no_memory": 0.0, name: 1.0}


def test_the_measure_of_the_page_is_a_column(plugged_in, env):
    _, name = plugged_in(next(title for title in PLUGINS if "/measures/" in title))
    cfg = config.Config(eval=config.EvalConfig(baselines=("store_all",), measures=("memory_length", name)))
    config.validate(cfg)
    episode = fakes.episode(["a is b\nc is d", "e", "f", "g"], [("what is a?", "b")])
    answerer = config.resolve("finemem_jax.answerers", "extractive").create(config.AnswererConfig())
    row = evaluate_baselines(env, answerer, [episode], cfg)["store_all"].metrics
    assert row["first_half"] == 3 / 5 and row["memory_items"] == 5 and "valid_operations" not in row


def test_the_corpus_of_the_page_is_built(tmp_path, plugged_in):
    title = next(title for title in PLUGINS if "/corpora/" in title)
    _, name = plugged_in(title)
    contracts.test_corpora(name, tmp_path)
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(2):
        (raw / f"{number}.txt").write_text("Monday: a tram ride.\n\nTuesday: noodles.", encoding="utf-8")
    from finemem_jax.corpora import build

    report = build(source=name, input=str(raw), output=str(tmp_path / "out.parquet"), split="all", instances=0)
    assert report.instances == 2 and report.chunks == 4


CHOSEN_BY = {
    "rewards": "rewards.weights.{}=1.0",
    "credit": "advantage.credit={}",
    "methods": "method.name={}",
    "memory": "memory.name={}",
    "codecs": "prompt.codec={}",
    "prompts": "prompt.name={}",
    "answerers": "answerer.name={}",
    "benchmarks": "data.name={}",
    "baselines": "eval.baselines=('{}',)",
    "measures": "eval.measures=('{}',)",
    "judges": "judge.prompt={}",
    "models": "model.family={}",
}


@pytest.mark.parametrize("title", [title for title in PLUGINS if "/corpora/" not in title])
def test_a_file_that_is_dropped_in_is_a_name_that_the_config_takes(title, plugged_in):
    folder, name = title.split("/")[1], Path(title).stem
    override = f"--config.{CHOSEN_BY[folder]}"
    with pytest.raises(config.UserError, match=name):
        main.load_config("quickstart", [override.format(name)])
    plugged_in(title)
    assert main.load_config("quickstart", [override.format(name)]) != main.load_config("quickstart", [])


def test_files_that_are_dropped_in_work_together(plugged_in, env):
    """A method, a memory, a codec and a prompt, a reward term and a credit rule, none of which was there before."""
    names = dict(plugged_in(title) for title in PLUGINS)
    env = dataclasses.replace(
        env,
        memory=config.MemoryConfig(name=names["memory"]),
        prompt=config.PromptConfig(name=names["prompts"], codec=names["codecs"]),
        method=config.MethodConfig(name=names["methods"]),
    )
    episode = fakes.episode(["a is b", "c is d"], [("what is a?", "b")])
    answerer = config.resolve("finemem_jax.answerers", names["answerers"]).create(config.AnswererConfig())
    said = ('@memory_insert {{"content": "a is b {}"}}', "@memory_skip {{}}")

    def rollout(text):
        game, number = play(env, episode, all_questions(episode), answerer.submit), itertools.count()
        turn = next(game)
        while True:
            assert "Keep what will be asked for" in env.tokenizer.decode(turn.prompt_tokens)
            tokens = env.tokenizer.encode(text.format(next(number)), add_special_tokens=False)
            try:
                turn = game.send(Completion((*tokens, env.tokenizer.eos_token_id), (0.0,) * (len(tokens) + 1), "stop"))
            except StopIteration as end:
                return end.value()

    group = [rollout(text) for text in said]
    assert [len(r.steps) for r in group] == [4, 4] and [len(r.memory.items) for r in group] == [4, 0]
    assert [r.final_answers[0].text for r in group] == ["a is b 0", ""]
    weights = {names["rewards"]: 1.0, "outcome": 1.0}
    turns = tabulate([group], config.RewardsConfig(weights=weights), env.count_tokens)
    found = advantages(turns, weights, config.AdvantageConfig(credit=names["credit"]))
    assert found.shape == (8,) and (found == 0).all()  # "a is b 0" is not "b": nothing tells them apart


def test_the_page_has_one_example_for_each_kind():
    assert sorted(title.split("/")[1] for title in PLUGINS) == sorted([*CONTRACTS, "methods", "corpora", "baselines"])
