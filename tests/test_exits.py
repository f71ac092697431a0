"""Every exit code has one meaning, and one place."""

from __future__ import annotations

import ast
from pathlib import Path

from finemem_jax import exits
from finemem_jax.exits import UserError

CODES = {name: value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}


def test_no_code_means_two_things():
    assert len(set(CODES.values())) == len(CODES) > 8
    assert set(exits.RESTARTABLE) <= set(CODES.values())


def test_no_other_file_names_or_numbers_an_exit():
    """Not by an assignment, and not as the number that ends a process."""
    package = Path(exits.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.name != "exits.py" else ():
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assert node.id not in CODES, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "os._exit", "SystemExit"):
                assert not any(isinstance(code, ast.Constant) for code in node.args), f"{path}:{node.lineno}"


def test_a_mistake_that_is_a_book_is_told_in_a_line_with_what_is_allowed_at_its_end():
    said = str(UserError(f"model_type {'9' * 100_000} is not supported; supported: llama, qwen3"))
    assert said.startswith("model_type 999") and said.endswith("supported: llama, qwen3")
    assert len(said) < 1_600 and "characters" in said
    assert str(UserError("short")) == "short"
