"""The schema is strict, says what is wrong in one line, and every config file fits it."""

from __future__ import annotations

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finemem_jax import config, main
from finemem_jax.config import Config, UserError
from finemem_jax.run.guards import WATCHES
from finemem_jax.schema import legal, reference
from finemem_jax.schema.own_settings import OwnSettings

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py"))


def tree(**changes):
    """The defaults as nested dicts, with dotted changes."""
    values = config.to_dict(Config())
    for name, value in changes.items():
        node = values
        *groups, leaf = name.split("__")
        for group in groups:
            node = node[group]
        node[leaf] = value
    return values


def test_the_defaults_are_the_papers():
    cfg = Config()
    used = {name: weight for name, weight in cfg.rewards.weights.items() if weight}
    assert used == {"format": 1.0, "chunk_qa": 0.5, "evidence": 1.0, "compression": 0.05}
    assert (cfg.rewards.evidence.beta, cfg.train.group_size, cfg.train.episodes) == (0.5, 8, 32)


def test_defaults_have_the_types_of_their_fields():
    """An override takes its type from the default: an int where a float is meant refuses 0.5."""

    def differs(setting, value):
        if dataclasses.is_dataclass(setting.type):
            return any(differs(inner, getattr(value, inner.name)) for inner in legal.settings(setting.type))
        if setting.type is tuple:
            return any(differs(setting.parts[0], item) for item in value)
        return setting.type in (bool, int, float, str) and type(value) is not setting.type

    assert [
        setting.name for setting in legal.settings(Config) if differs(setting, getattr(Config(), setting.name))
    ] == []


def test_a_config_survives_ml_collections_and_back():
    assert config.from_ml_collections(config.default()) == Config()
    assert config.from_ml_collections(config.to_dict(Config())) == Config()


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_file_is_legal(path):
    cfg = main.load_config(str(ROOT / path), [])
    assert cfg.name == Path(path).stem


def test_overrides_reach_every_kind_of_field():
    overrides = [
        "--config.seed=7",
        "--config.loss.kl_coef=0",
        "--config.rewards.weights.chunk_qa=0",
        "--config.eval.temperatures=(0.5,)",
        "--config.prompt.thinking=true",
        "--config.data.path=some where.parquet",
    ]
    cfg = main.load_config(str(ROOT / "configs/quickstart.py"), overrides)
    assert (cfg.seed, cfg.loss.kl_coef, cfg.rewards.weights["chunk_qa"]) == (7, 0.0, 0.0)
    assert (cfg.eval.temperatures, cfg.prompt.thinking, cfg.data.path) == ((0.5,), True, "some where.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss__kl_cef": 1.0}, "unknown config key config.loss.kl_cef: did you mean config.loss.kl_coef?"),
        ({"seed": "x"}, "config.seed must be of type int, got 'x'"),
        ({"seed": True}, "config.seed must be of type int"),
        ({"loss": 3}, "config.loss must be a group of settings"),
        ({"eval__temperatures": "1.0"}, "config.eval.temperatures must be a tuple of float"),
        ({"rewards__evidence__beta": 1.5}, "config.rewards.evidence.beta=1.5: must be from 0 to 1"),
        ({"optimizer__lr": float("nan")}, "config.optimizer.lr=nan"),
        ({"advantage__std": "population"}, "allowed are sample, none"),
        ({"data__name": "dairy"}, "did you mean diary?"),
        ({"rewards__weights": {"evidense": 1.0}}, "did you mean evidence?"),
        ({"rewards__weights": {"format": float("inf")}}, "must be finite"),
        ({"train__top_k": 5}, "training samples from the whole distribution"),
        ({"train__top_p": 0.9}, "training samples from the whole distribution"),
        ({"loss__dual_clip": 3.0, "loss__clip": "cispo"}, "config.loss.dual_clip=3.0 bounds the loss of"),
        ({"loss__dual_clip": 0.5}, "config.loss.dual_clip=0.5: must be above 1"),
        ({"train__mini_batches": 5}, "config.train.episodes=32 is not a multiple of config.train.mini_batches=5"),
        ({"engine__cache_tokens": 100}, "config.engine.cache_tokens=100 holds no prompt and completion"),
        ({"train__row_tokens": 100}, "config.train.row_tokens=100 is shorter than one sequence"),
        ({"train__row_tokens": 8193, "mesh__sequence": 2}, "does not split over config.mesh.sequence=2 devices"),
        ({"mesh__data": 0}, "config.mesh.data=0: must be at least 1, or -1"),
        ({"mesh__fsdp": -1}, "config.mesh.data and config.mesh.fsdp are all -1"),
        ({"loss__constant_length": 0}, "config.loss.constant_length=0: must be at least 1"),
        ({"loss__constant_length": -5}, "config.loss.constant_length=-5: must be at least 1"),
        ({"loss__clip_high": -0.1}, "config.loss.clip_high=-0.1: must be at least 0, or inf"),
        ({"train__temperature": float("inf")}, "config.train.temperature=inf: must be finite, at least 1e-06"),
        ({"optimizer__b2": 1.0}, "config.optimizer.b2=1.0: must be from 0 to below 1"),
        ({"model__lora": {"alpha": -16.0}}, "config.model.lora.alpha=-16.0: must be above 0"),
        ({"model__lora": {"targets": ("q_porj",)}}, "config.model.lora.targets[0]='q_porj': allowed are q_proj"),
        ({"model__lora": {"rank": 4, "targets": ()}}, "config.model.lora.targets is empty"),
        ({"sft__stages": ("copy_lnes",)}, "config.sft.stages[0]='copy_lnes': allowed are copy_random, copy_lines"),
        ({"sft__steps": (-3,)}, "config.sft.steps[0]=-3: must be at least 1"),
        ({"sft__lr": (-1e-3,)}, "config.sft.lr[0]=-0.001: must be from 0 to 10"),
        ({"sft__expert": {"skip": 2.0}}, "config.sft.expert.skip=2.0: must be from 0 to 1"),
        ({"eval__temperatures": (1.0, -1.0)}, "config.eval.temperatures[1]=-1.0: must be at least 0"),
        ({"eval__baselines": ("orcale",)}, "config.eval.baselines[0]='orcale'"),
        ({"guards__non_finite": {"limit": 0.5}}, "config.guards.non_finite.limit=0.5: must be at least 1"),
        ({"guards__kl": {"action": "halt"}}, "config.guards.kl.action='halt': allowed are off, warn, stop"),
        ({"train__steps": 10**400}, "config.train.steps must fit in 64 bits"),
        ({"data__path": "a\0b"}, "NUL"),
        ({"mesh__sequence": -1}, "config.mesh.sequence=-1"),
        ({"sft__lr": (1e-3, 1e-3)}, "must have the same length"),
    ],
)
def test_mistakes_are_named_with_their_knob(changes, message):
    with pytest.raises(UserError) as caught:
        config.from_ml_collections(tree(**changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_every_field_has_its_legal_values_beside_it():
    """A number has a range, a name a list or a folder of plug-ins, free text says so; elements of tuples, too."""

    def holes(name, setting):
        if setting.parts:
            return [hole for part in setting.parts for hole in holes(f"{name}[]", part)]
        return [name] if setting.type in (int, float, str) and setting.legal is None else []

    @dataclasses.dataclass
    class Forgetful:
        number: int
        names: tuple[str, ...]
        kind: bool
        share: legal.Share

    found = [hole for name, setting in legal.walk(Forgetful, "group") for hole in holes(name, setting)]
    assert found == ["group.number", "group.names[]"]
    assert not [hole for name, setting in legal.walk(Config) for hole in holes(name, setting)]


REFUSED = {"config.train.top_k", "config.train.top_p"}  # they exist to be refused, with the reason


def test_every_field_is_read_by_some_code():
    """As GROUP.FIELD, or from what holds that group; a knob that nothing reads promises what does not happen."""
    reads = set()
    for path in (ROOT / "finemem_jax").rglob("*.py"):
        if path.name != "config.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    holder = getattr(node.value, "attr", getattr(node.value, "id", "")).strip("_")
                    reads.add((holder, node.attr))
    reads |= {("guards", name) for name in WATCHES}  # by getattr
    holders = {"cfg", "guard", "settings"}
    dead = []
    for name, setting in legal.walk(Config):
        group, field = name.split(".")[-2:]
        if not isinstance(setting.legal, OwnSettings) and not any(
            (holder, field) in reads for holder in (group, *holders)
        ):
            dead.append(name)
    assert set(dead) == REFUSED


def test_the_page_of_the_config_is_current():
    page = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    assert page == reference.markdown(), "write it anew: finemem config --reference > docs/config.md"


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3
    with pytest.raises(TypeError):
        config.from_ml_collections(config.default()).rewards.weights["format"] = 0.0


ONE_DEVICE, NO_PATH = ["--config.mesh.data=1"], ["--config.model.path="]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config=nowhere.py"], "no config file nowhere.py"),
        (["train", "--config.trian.steps=1"], "did you mean --config.train.steps?"),
        (["train", "--config.train.steps=many"], "--config.train.steps=many"),
        (["train", "--config.train.steps"], "--config.train.steps needs a value"),
        (["train", "--speed=high"], "unknown argument '--speed=high'"),
        (["train", "--config.memory.overflow=burn"], "allowed are refuse, evict_oldest"),
        (["export", "--workdir=nowhere", "--out=x"], "no run in nowhere"),
        (["train", *ONE_DEVICE, "--config.model.path=no/such/folder"], "no/such/folder"),
        (["train", *ONE_DEVICE, *NO_PATH, "--config.model.tokenizer=tiny", "--config.model.preset=5b"], "qwen3"),
        (["train", *ONE_DEVICE, *NO_PATH, "--config.model.tokenizer="], "config.model.tokenizer is needed"),
        (["evaluate", "--config.data.name=memalpha", "--config.data.path=no.parquet"], "no.parquet"),
        (["data", "build", "--source=squid", "--input=x", "--output=y"], "did you mean squad?"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert main.main(arguments) == 2
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == []
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith(f"finemem {arguments[0]}: ")


@pytest.mark.parametrize("command", ["", "train", "sft", "evaluate", "export", "data", "data build"])
def test_help_works_from_any_folder(command, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "finemem_jax.main", *command.split(), "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "usage: finemem" in done.stdout


def test_a_config_that_sets_an_unknown_field_is_a_clear_error(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from finemem_jax import config\n\ndef get_config():\n  c = config.default()\n  c.loss.kl_cef = 1\n  return c\n"
    )
    with pytest.raises(UserError, match="kl_cef"):
        main.load_config(str(path), [])


def test_no_field_hides_behind_a_method_of_config_dict():
    """An override of such a field would reach the method, e.g. `ConfigDict.update`."""
    import ml_collections

    for name in config.dotted_names(config.to_dict(Config())):
        assert not hasattr(ml_collections.ConfigDict, name.rpartition(".")[2]), name
