"""The house rules of finemem_jax, read from the imports of its files."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "finemem_jax"
HOST = {
    "env",
    "memory",
    "methods",
    "codecs",
    "prompts",
    "credit",
    "rewards",
    "answerers",
    "benchmarks",
    "corpora",
    "reporting",
    "schema",
    "baselines",
    "measures",
    "evaluation",
    "judges",
    "manager",
}
# rooms that hold both kinds: these files of theirs are plain Python
HOST_FILES = {
    "__init__.py",
    "config.py",
    "console.py",
    "exits.py",
    "files.py",
    "interrupts.py",
    "sweep.py",
    "types.py",
    "bench/_command.py",
    "bench/answers.py",
    "bench/retrieval.py",
    "bench/store.py",
    "chat/asked_once.py",
    "chat/connection.py",
    "chat/http.py",
    "chat/judge.py",
    "chat/policy.py",
    "chat/replies.py",
    "chat/reply_store.py",
    "decoding/buckets.py",
    "decoding/request.py",
    "hosts/peers.py",
    "hosts/place.py",
    "hosts/relay.py",
    "hosts/secret.py",
    "plan/answers.py",
    "plan/collectives.py",
    "rollouts/by_chat.py",
    "rollouts/metrics.py",
    "rollouts/resample.py",
    "run/clock.py",
    "run/guards.py",
    "run/watchdog.py",
    "run/workdir.py",
    "weights/safetensor_files.py",
}
DEVICE = {"nn", "models", "rl", "decoding", "weights"}
# The config and what it rests on, or fills from files, are one room with two doors.
ONE_ROOM = {"config.py": "schema"}
# inside a device folder, but they speak the host's types
CROSSING_FILES = {"decoding/engine.py", "decoding/schedule.py"}
# plug-ins, reached by config.resolve only
LEAF_FOLDERS = (
    "methods",
    "memory",
    "codecs",
    "prompts",
    "rewards",
    "credit",
    "answerers",
    "benchmarks",
    "baselines",
    "measures",
    "judges",
)
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}

FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {
    ".".join(["finemem_jax", *Path(name).with_suffix("").parts]).removesuffix(".__init__"): name for name in FILES
}


@functools.cache
def imports(name: str) -> set[str]:
    """Modules a file imports, anywhere in it: inside functions and for type checkers, too."""
    return imports_of(FILES[name].read_text(encoding="utf-8"))


def imports_of(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name in MODULES}


def folder(name: str) -> str:
    return Path(name).parts[0] if len(Path(name).parts) > 1 else ""


def room(name: str) -> str:
    """The folder of a file; a file beside the folders is a room of its own."""
    return ONE_ROOM.get(name) or folder(name) or name


def reachable(name: str) -> set[str]:
    """Files a file needs when it is imported, itself included."""
    seen, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += [MODULES[module] for module in ours(imports(current))]
    return seen


def test_the_scan_sees_imports():
    assert "finemem_jax.config" in imports("train.py")
    assert any(name.startswith("jax") for name in imports("train.py"))
    assert "rl/train_step.py" in reachable("train.py")


def jax_in(name: str) -> set[str]:
    return {module.split(".")[0] for module in imports(name)} & JAX


@pytest.mark.parametrize("name", [n for n in FILES if folder(n) in HOST or n in HOST_FILES])
def test_host_modules_never_import_jax(name):
    for needed in reachable(name):
        assert not jax_in(needed), f"{name} reaches jax through {needed}"


def test_every_file_that_is_free_of_jax_is_listed_as_such():
    """So that it stays so."""
    free = {name for name in FILES if not any(map(jax_in, reachable(name)))}
    unlisted = {n for n in free if folder(n) not in HOST and n not in HOST_FILES and Path(n).name != "__init__.py"}
    assert unlisted == set() and free >= HOST_FILES


@pytest.mark.parametrize("name", [n for n in FILES if folder(n) in DEVICE])
def test_device_modules_never_import_the_host_domain(name):
    forbidden = HOST if name not in CROSSING_FILES else HOST - {"env"}
    reached = {i.split(".")[1] for i in imports(name) if i.startswith("finemem_jax.") and i.count(".")}
    assert not reached & forbidden


def unclean(source: str) -> list[int]:
    """Lines that print something else than words of their own, without `console.tell`; and those that use rich."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            found += [node.lineno] * any(not isinstance(argument, ast.Constant) for argument in node.args)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich":
            found.append(node.lineno)
    return sorted(found)


@pytest.mark.parametrize("name", [n for n in FILES if n != "console.py"])
def test_nothing_is_printed_that_a_data_set_or_a_server_may_have_written_but_by_console(name):
    assert unclean(FILES[name].read_text(encoding="utf-8")) == [], f"{name}: use finemem_jax.console.tell"


def test_the_scan_sees_prints():
    assert unclean("print(f'{x}')\nprint('words')\nfrom rich.table import Table") == [1, 3]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One way round in a graph, its first name again at its end; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for needed in sorted(graph.get(name, ())):
                if found := visit(needed, (*path, name)):
                    return found
            done.add(name)
        return []

    return next(filter(None, (visit(name, ()) for name in sorted(graph))), [])


def test_the_scan_sees_cycles_and_imports_at_any_depth():
    assert cycle({"a": {"b"}, "b": {"c", "d"}, "d": {"b"}}) == ["b", "d", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) == []
    inside = "if TYPE_CHECKING:\n    import a.b\ndef f():\n    from c import d\n    class C:\n        import e"
    assert imports_of(inside) == {"a.b", "c", "c.d", "e"}


def test_there_are_no_import_cycles():
    assert cycle({name: {MODULES[module] for module in ours(imports(name))} - {name} for name in FILES}) == []


def test_no_room_needs_one_that_needs_it():
    """No arrow runs back up: the rooms have an order, too."""
    needs: dict[str, set[str]] = {}
    for name in FILES:
        needed = {room(MODULES[module]) for module in ours(imports(name))}
        needs.setdefault(room(name), set()).update(needed - {room(name)})
    assert cycle(needs) == []


@pytest.mark.parametrize("name", list(FILES))
def test_plug_ins_are_never_imported_by_name(name):
    for module in ours(imports(name)):
        target = MODULES[module]
        is_leaf = folder(target) in LEAF_FOLDERS and not Path(target).name.startswith("_")
        assert not is_leaf or folder(target) == folder(name), f"{name} imports the plug-in {target}"


@pytest.mark.parametrize("name", list(FILES))
def test_no_file_is_named_for_its_type(name):
    assert Path(name).stem not in {"utils", "common", "helpers", "misc", "lib", "manager"}


# What a method of the neighbourhood brought; everything else of it was there, or is settings.
NEIGHBOURS = {
    "memagent": ("memory/overwrite.py", "codecs/raw.py", "prompts/memagent.py"),
    "mem1": ("memory/overwrite.py", "codecs/think.py", "prompts/mem1.py"),
    "mem1_search": ("methods/search.py",),
    "memalpha": ("memory/layered.py", "prompts/memalpha.py"),
    "personamem": ("benchmarks/personamem.py", "prompts/persona.py"),
    "memory_r1": (
        "codecs/memory_list.py",
        "prompts/memory_r1.py",
        "corpora/_banks.py",
        "benchmarks/locomo_turns.py",
    ),
}


@pytest.mark.parametrize("method", NEIGHBOURS)
def test_adding_a_method_touched_only_its_own_files(method):
    """No module imports its files, and none but the contestants of an evaluation says their names."""
    own = NEIGHBOURS[method]
    modules = {"finemem_jax." + name.removesuffix(".py").replace("/", ".") for name in own}
    others = [name for name in FILES if name not in own]
    assert {name: found for name in others if (found := imports(name) & modules)} == {}
    names = {Path(name).stem for name in own} - {"memalpha", "search"}  # names of other things, too
    said = {name: found for name in others if (found := constants(FILES[name].read_text(encoding="utf-8")) & names)}
    assert set(said) <= {"baselines/mem1.py", "baselines/memagent.py"}


def constants(source: str) -> set[str]:
    """Texts that a file says, each as a whole."""
    nodes = ast.walk(ast.parse(source))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_the_scan_sees_what_a_file_says():
    assert constants("if name == 'overwrite':\n    import this") == {"overwrite"}
    assert "overwrite" in constants(FILES["baselines/memagent.py"].read_text(encoding="utf-8"))
