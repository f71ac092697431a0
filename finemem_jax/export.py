"""What a run leaves behind for others: the table of its results, its report, its policy as a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finemem_jax import config
from finemem_jax.config import Config, UserError
from finemem_jax.console import tell
from finemem_jax.env.settings import settings_file
from finemem_jax.evaluate import print_comparison
from finemem_jax.evaluation.records import Evaluation
from finemem_jax.files import export_folders, holds_numbers, is_evaluation, read_lines, write_atomically
from finemem_jax.hosts import agreement
from finemem_jax.loading import Policy, load_policy
from finemem_jax.nn.lora import of_role
from finemem_jax.reporting.plots import plot_run
from finemem_jax.reporting.report import write_report
from finemem_jax.run.journal import EVALUATIONS, scores, stored_checkpoints
from finemem_jax.run.workdir import stored_config
from finemem_jax.types import ROLES
from finemem_jax.weights import hf
from finemem_jax.weights.export_folder import claim_place

Table = Mapping[str, Mapping[str, float | None]]
"""Metrics of held-out episodes by the name of who was evaluated."""


def report(
    cfg: Config,
    workdir: Path,
    policy: Policy,
    params: Any,
    found: Mapping[str, Evaluation],
    baselines: Mapping[str, Evaluation],
    marks: Mapping[str, int],
) -> None:
    """The end of a training: final table, results.json, curves, the policy's folder and the report.

    found: the trained policy's evaluations, by name. marks: the steps where its budgets were spent, if it was evaluated
    there (config.train.budget_until)."""
    after = {f"after {name}": evaluation.metrics for name, evaluation in found.items()}
    of_baselines = {name: evaluation.metrics for name, evaluation in baselines.items()}
    table = {**of_baselines, **after}
    if agreement.is_lead():
        evaluations = read_lines(workdir / EVALUATIONS, is_evaluation)
        before = {f"before {line['policy']}": line for line in evaluations if line["step"] == 0}
        spent = {
            f"at budget_{what} {line['policy']}": line for what, step in marks.items() for line in evaluations
            if line["step"] == step
        }  # fmt: skip
        table = {**of_baselines, **before, **spent, **after}
        _write_table(cfg, workdir, table)
        accuracies = {name: metrics["accuracy"] for name, metrics in of_baselines.items()}
        lines = read_lines(workdir / "metrics.jsonl", holds_numbers)
        plot_run(workdir / "curves.png", lines, evaluations, accuracies, cfg.name)
    save_policy(cfg, workdir / "hf", policy, params, table)
    if agreement.is_lead():
        tell(f"report: {write_report(workdir)}\ncurves: {workdir / 'curves.png'}")
        tell(f"policy: {workdir / 'hf'} (Hugging Face format)")


def report_warm_start(cfg: Config, workdir: Path, policy: Policy, params: Any, found: Mapping[str, Evaluation]) -> None:
    """The end of a supervised run: final table, results.json and the policy's folder, in `config.sft.save_dtype`."""
    table = {f"after {name}": evaluation.metrics for name, evaluation in found.items()}
    if agreement.is_lead() and table:
        _write_table(cfg, workdir, table)
    metrics, files = _card_metrics(table), settings_file(cfg)
    dtype = cfg.sft.save_dtype
    hf.save_pretrained(
        workdir / "hf", policy.model, params, policy.tokenizer, dtype=dtype, metrics=metrics, files=files
    )
    if agreement.is_lead():
        tell(f"policy: {workdir / 'hf'} (Hugging Face format)")


def save_policy(
    cfg: Config, out: Path, policy: Policy, params: Any, table: Table | None = None, *, peft: bool = False
) -> None:
    """A Hugging Face folder of the whole model, adapters merged in; with `peft`, a PEFT folder of the adapters. Where
    roles have adapters of their own, a folder in `out` for each role."""
    roles = policy.model.cfg.lora.roles
    if roles:
        shared = dataclasses.replace(policy.model.cfg, lora=dataclasses.replace(policy.model.cfg.lora, roles=()))
        own = dataclasses.replace(policy, model=type(policy.model)(shared))
        for number, place in enumerate(export_folders(out, roles)):
            save_policy(cfg, place, own, of_role(policy.model, params, number), table, peft=peft)
        return
    files = settings_file(cfg)
    if peft:
        base, tokenizer = cfg.model.path, policy.tokenizer
        hf.save_adapters(out, policy.model, params, base_model=base, tokenizer=tokenizer, files=files)
        return
    run, metrics = config.to_dict(cfg), None if table is None else _card_metrics(table)
    hf.save_pretrained(out, policy.model, params, policy.tokenizer, run_config=run, metrics=metrics, files=files)


def export(workdir: Path, out: Path, *, peft: bool = False, checkpoint: str = "latest") -> None:
    """Writes the parameters of a checkpoint of a run: a Hugging Face folder, or its adapters for PEFT.

    checkpoint: "latest", "best" (by held-out accuracy) or a step."""
    if not any((out / role).is_dir() for role in ROLES):  # such as an export of several roles leaves
        claim_place(out)  # before the run is read
    cfg = stored_config(workdir)
    for place in export_folders(out, cfg.model.lora.roles):
        claim_place(place)
    stored_checkpoints(workdir)  # before the weights are read
    policy = load_policy(cfg)
    step, params = restore_params(workdir, policy.params, checkpoint)
    save_policy(cfg, out, policy, params, peft=peft)
    tell(f"step {step} of {workdir} -> {out}")


def restore_params(workdir: Path, params: Any, checkpoint: str = "latest") -> tuple[int, Any]:
    """(step, parameters) of the checkpoint "latest", "best" or a step of a run; its optimizer is not read."""
    checkpoints = stored_checkpoints(workdir)
    if checkpoint == "latest":
        return checkpoints.restore_params_at(params)
    step = checkpoints.best() if checkpoint == "best" else int(checkpoint) if checkpoint.isdecimal() else None
    if step is None:
        known = f"latest, best (steps with an evaluation: {sorted(scores(workdir))}), or one of {checkpoints.steps()}"
        raise UserError(f"no checkpoint {checkpoint!r} in {workdir}; there are: {known}")
    return checkpoints.restore_params_at(params, step)


def _write_table(cfg: Config, workdir: Path, table: Table) -> None:
    write_atomically(workdir / "results.json", json.dumps(table, indent=1))
    print_comparison(f"{cfg.name}: held-out episodes ({cfg.eval.episodes or 'all'})", table, cfg)


def _card_metrics(table: Table) -> dict[str, float | None]:
    """What the model card says of the policy."""
    return {f"held-out accuracy, {name}": metrics["accuracy"] for name, metrics in table.items()}
