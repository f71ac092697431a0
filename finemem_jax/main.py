"""The command line: `finemem train | sft | evaluate | collect-traces | config | plan | export | report | watch |
sweep | data | bench | chat | mcp`.

Nothing else lives here. A config is an ml_collections file and overrides, `--config=configs/quickstart.py
--config.train.steps=10`. Files that come with the package go by their name, wherever one is: `--config=quickstart`.
A user's mistake ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

if __name__ == "__main__":  # `python -m finemem_jax.main`: what follows takes a while to import
    from finemem_jax import interrupts

    interrupts.end_at_once()

import argparse
import contextlib
import errno
import importlib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from finemem_jax import exits
from finemem_jax.config import Config, UserError
from finemem_jax.console import printable, tell
from finemem_jax.exits import RunEnded
from finemem_jax.files import local_path
from finemem_jax.hosts import place
from finemem_jax.interrupts import end_as_usual, end_at_once
from finemem_jax.manager import command as manager_options
from finemem_jax.schema.config_files import load_config
from finemem_jax.schema.plugins import add_folder
from finemem_jax.types import AnswererDown

_CONFIG_HELP = """\
config overrides: any field of the config, as --config.GROUP.FIELD=VALUE, e.g.
  --config.train.steps=10  --config.rewards.weights.chunk_qa=0  --config.loss.kl_coef=0.001
`finemem config` prints all fields with their legal values and what they mean."""

_WITHOUT_CONFIG = ("bench", "chat", "data", "export", "mcp", "report", "watch")
_SERVERS = ("policy", "url", "answerer_url", "model")  # options that may name one

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EEXIST, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code (`exits.py`: 0 done, 2 a mistake in what was given, …)."""
    end_at_once()
    try:
        given = sys.argv[1:] if argv is None else argv
        arguments, overrides = _parser().parse_known_args(given)
        if arguments.command == "evaluate":
            arguments.given = tuple(given)  # as it was typed, for what it leaves behind
        return _run(arguments, overrides)
    finally:
        end_as_usual()


def _run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    try:
        _refuse_addresses(arguments)
        for folder in arguments.plugins:
            add_folder(Path(folder))
        return arguments.run(arguments, overrides) or exits.DONE
    except UserError as error:
        tell(f"finemem {arguments.command}: {printable(str(error), one_line=True)}", file=sys.stderr)
        return exits.USER_ERROR
    except RunEnded as end:
        tell(f"finemem {arguments.command}: {printable(str(end), one_line=True)}", file=sys.stderr)
        return end.code
    except (
        KeyboardInterrupt
    ):  # a training under way takes Ctrl-C itself (run/preemption.py); here nothing is lost by it
        tell(f"finemem {arguments.command}: interrupted; the same command goes on from what is saved", file=sys.stderr)
        return exits.INTERRUPTED
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "finemem_jax"):
            raise
        tell(f"finemem {arguments.command}: {exits.missing(package)}", file=sys.stderr)
        return exits.USER_ERROR
    except OSError as error:
        if error.errno not in (*_FULL, *_DENIED):
            raise
        place = printable(str(error.filename or "a file that this command writes"), one_line=True)
        tell(f"finemem {arguments.command}: {place}: {os.strerror(error.errno)}", file=sys.stderr)
        return exits.STOPPED if error.errno in _FULL else exits.USER_ERROR


def _refuse_addresses(arguments: argparse.Namespace) -> None:
    """Every option is a path or a word, but for those that name a server."""
    for name, value in vars(arguments).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not (name in _SERVERS and text.startswith(("http://", "https://"))):
                local_path(text, f"--{name.replace('_', '-')}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finemem", description="Train LLM memory managers with GRPO in JAX (Fine-Mem).", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, text: str, **settings) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=None if name in _WITHOUT_CONFIG else _CONFIG_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **settings,
        )
        sub.set_defaults(run=run)
        sub.add_argument(
            "--plugins",
            action="append",
            default=[],
            metavar="DIR",
            help="folder of your own plug-ins, in subfolders: DIR/rewards/mine.py (may be given several times)",
        )
        return sub

    train = command("train", _train, "Train a memory manager with GRPO; resumes when the workdir holds a run.")
    _config_options(train, default="quickstart")
    sft = command("sft", _sft, "Supervised warm start, e.g. from the scripted, imperfect expert; resumes likewise.")
    _config_options(sft, default="warm_start")
    for resuming in (train, sft):
        resuming.add_argument(
            "--accept-config-change", action="store_true", help="go on with a run although the config is another"
        )
    evaluate = command("evaluate", _evaluate, "Score a policy and the baselines on held-out episodes.")
    _config_options(evaluate, default="quickstart")
    evaluate.add_argument(
        "--policy",
        default="",
        help="a run's folder, a Hugging Face folder or name, or a server's URL, http://…/v1 (default: config.model)",
    )
    evaluate.add_argument("--baselines-only", action="store_true", help="no policy, only config.eval.baselines")
    evaluate.add_argument(
        "--table", default="", metavar="FILES", help="write one table there: .md, .csv or .tex, separated by commas"
    )
    evaluate.add_argument(
        "--runs", default="", metavar="DIRS", help="the table of these evaluations, by commas; nothing is evaluated"
    )
    evaluate.add_argument("--against", default="", metavar="ROW", help="the row that others are compared with (first)")
    collect = command("collect-traces", _collect_traces, "Keep the policy's own best rollouts, for sft to imitate.")
    _config_options(collect, default="quickstart")
    collect.add_argument("--policy", default="", help="as for evaluate (default: config.model)")
    collect.add_argument("--episodes", type=int, default=256, help="training episodes; 0 = all (default: %(default)s)")
    collect.add_argument("--samples", type=int, default=8, help="rollouts of each episode (default: %(default)s)")
    collect.add_argument(
        "--keep", type=int, default=1, help="at most so many of them, above their group's mean (default: %(default)s)"
    )
    collect.add_argument(
        "--valid",
        choices=("turn", "rollout"),
        default="turn",
        help="keep the turns whose operations all applied, or only rollouts of nothing else (default: %(default)s)",
    )
    shown = command("config", _config, "Print every field of a config: its value, legal values and meaning.")
    shown.add_argument("--config", default="quickstart", help="config file (default: %(default)s)")
    shown.add_argument("--changed", action="store_true", help="only what differs from the defaults")
    shown.add_argument("--reference", action="store_true", help="the defaults as a page, docs/config.md")
    planned = command(
        "plan", _plan, "Compile the real steps for a named TPU topology and say what fits, without a TPU."
    )
    _config_options(planned, default="finemem_qwen3_4b")
    planned.add_argument("--topology", default="", help="v4, v5e, v5p, v6e or tpu7x and its shape, e.g. v5e:4x4")
    planned.add_argument("--gpu-memory", type=float, help="GiB of one GPU: plan by formula instead")
    planned.add_argument("--gpus", type=int, default=8, help="how many of them (default: %(default)s)")
    export = command("export", _export, "Write the latest checkpoint of a run as a Hugging Face folder.")
    export.add_argument("--workdir", required=True, help="folder of the run")
    export.add_argument("--out", required=True, help="folder to write; an earlier export there is replaced")
    export.add_argument(
        "--checkpoint", default="latest", help="latest, best (by held-out accuracy) or a step (default: %(default)s)"
    )
    export.add_argument("--peft", action="store_true", help="a PEFT folder of the LoRA adapters alone")
    sweep = command("sweep", _sweep, "Train every config with every seed and compare them: ablations in one table.")
    sweep.add_argument(
        "--configs", required=True, help="config files, separated by commas; FILE:ARGUMENT for one argument"
    )
    sweep.add_argument("--seeds", default="0,1,2", help="seeds, separated by commas (default: %(default)s)")
    sweep.add_argument("--workdir", default="runs/sweep", help="folder of the sweep (default: %(default)s)")
    sweep.add_argument("--jobs", type=int, default=1, help="runs at once; GPUs are divided among them (default: 1)")
    report = command("report", _report, "Write a run's report: one HTML file, made from its records; or of several.")
    report.add_argument(
        "--workdir",
        required=True,
        action="append",
        help="folder of the run, or of a sweep; given several times, their curves lie over each other",
    )
    report.add_argument(
        "--out",
        default="",
        help="file to write (default: WORKDIR/report.html; of several, comparison.html beside them)",
    )
    report.add_argument("--figures", default="", help="folder for the curves as PNG, SVG and CSV (default: none)")
    watched = command("watch", _watch, "Serve a run's report on this machine while the run goes on; it only reads.")
    watched.add_argument("--workdir", required=True, help="folder of the run")
    watched.add_argument("--port", type=int, default=6420, help="0 = any that is free (default: %(default)s)")
    data = command("data", _data, "Corpora in the Memalpha format: build them, write questions about their chunks.")
    verbs = data.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, module, text in (
        ("build", "_build", "a Memalpha-format parquet file from raw datasets"),
        ("chunk-questions", "_chunk_questions", "questions about each chunk, by a model or from evidence"),
        ("questions", "_final_questions", "questions about whole histories, by a model, each verified"),
    ):
        sub = verbs.add_parser(verb, help=text, description=text, allow_abbrev=False)
        importlib.import_module(f"finemem_jax.corpora.{module}").add_arguments(sub)
    for name, text in (
        ("chat", "Talk, and see what a trained manager writes and recalls."),
        ("mcp", "Serve a trained manager's memory as tools over MCP, on standard input and output."),
    ):
        manager_options.add_arguments(command(name, _manager, text))
    # Each benchmark has options of its own, `--help` too: the folder bench/ reads them, when it is asked.
    measured = command("bench", _bench, "Measure this machine: decoding, updates, loading, …", add_help=False)
    measured.add_argument("benchmark", nargs="?", default="--help")
    return parser


def _config_options(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--config", default=default, help="config file, or the name of a shipped one (%(default)s)")
    parser.add_argument("--workdir", default="", help="folder of the run (default: runs/NAME of the config)")
    several = parser.add_argument_group("a run of several processes (default: what SLURM or the TPU says)")
    several.add_argument("--coordinator", default="", metavar="HOST:PORT", help="where process 0 listens")
    several.add_argument("--processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")
    several.add_argument("--start-timeout", type=float, default=60.0, metavar="S", help="seconds for all to come (60)")
    several.add_argument(
        "--peer-timeout", type=float, default=45.0, metavar="S", help="seconds of silence that mean a host is down (45)"
    )


def _joined(arguments: argparse.Namespace, workdir: Path) -> contextlib.AbstractContextManager:
    """This process among those of its run; it ends with them."""
    for name, seconds in (("--start-timeout", arguments.start_timeout), ("--peer-timeout", arguments.peer_timeout)):
        if not 0 < seconds < math.inf:
            raise UserError(f"{name}={seconds:g}: must be seconds, more than 0")
    here = place.find_place(arguments.coordinator, arguments.processes, arguments.process)
    from finemem_jax.hosts import agreement  # jax starts here, after every mistake in the config was reported

    return agreement.joined(here, workdir, silence=arguments.peer_timeout, start_timeout=arguments.start_timeout)


def _load(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple[Config, Path]:
    cfg = load_config(arguments.config, overrides)
    return cfg, Path(arguments.workdir or f"runs/{cfg.name}")


def _refuse_overrides(overrides: Sequence[str]) -> None:
    if overrides:
        raise UserError(f"unknown argument {overrides[0]!r}")


def _train(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    cfg, workdir = _load(arguments, overrides)
    with _joined(arguments, workdir):
        from finemem_jax import train

        end_as_usual()
        train.train(cfg, workdir, accept_config_change=arguments.accept_config_change)


def _sft(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    cfg, workdir = _load(arguments, overrides)
    with _joined(arguments, workdir):
        from finemem_jax import sft

        end_as_usual()
        sft.sft(cfg, workdir, accept_config_change=arguments.accept_config_change)


def _evaluate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from finemem_jax.reporting import comparison

    files = [file for file in arguments.table.split(",") if file]
    if (arguments.runs or arguments.against) and not files:
        raise UserError("--runs and --against are for a table: give --table=FILE.md (or .csv, .tex)")
    if arguments.runs:
        _refuse_overrides(overrides)
        folders = [Path(folder) for folder in arguments.runs.split(",") if folder]
        tell(comparison.write_tables(folders, files, arguments.against))
        return
    comparison.check_files(files)
    cfg, workdir = _load(arguments, overrides)
    with _joined(arguments, workdir):
        from finemem_jax import evaluate

        end_as_usual()
        try:
            evaluate.evaluate(
                cfg, workdir, policy=not arguments.baselines_only, given=arguments.policy, command=arguments.given
            )
        except AnswererDown as down:
            message = f"{down}; what was answered is saved, the same command goes on from there"
            raise RunEnded(message, exits.STOPPED) from None
        if files:
            from finemem_jax.hosts import agreement

            if agreement.is_lead():
                tell(comparison.write_tables([workdir], files, arguments.against))


def _collect_traces(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    cfg, workdir = _load(arguments, overrides)
    with _joined(arguments, workdir):
        from finemem_jax.imitation import collection, selection

        chosen = selection.Selection(arguments.episodes, arguments.samples, arguments.keep, arguments.valid)
        collection.collect_traces(cfg, workdir, chosen, given=arguments.policy)


def _config(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from finemem_jax.schema import reference

    end_as_usual()
    cfg = load_config(arguments.config, overrides)
    page = reference.markdown() if arguments.reference else "\n".join(reference.option_lines(cfg, arguments.changed))
    try:
        tell(page.removesuffix("\n"), flush=True)
    except BrokenPipeError:  # `finemem config | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plan(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    cfg, _ = _load(arguments, overrides)
    memory, gpus = arguments.gpu_memory, arguments.gpus
    if bool(arguments.topology) == (memory is not None):
        raise UserError("finemem plan needs one of --topology=NAME:SHAPE and --gpu-memory=GIB")
    if memory is not None and not 0 < memory < math.inf:
        raise UserError(f"--gpu-memory={memory:g}: must be the GiB of one GPU, more than 0")
    if gpus < 1:
        raise UserError(f"--gpus={gpus}: must be at least 1")
    from finemem_jax.plan import command

    end_as_usual()
    return command.plan(cfg, arguments.topology, gpu_memory=memory or 0.0, gpus=gpus)


def _export(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    _refuse_overrides(overrides)
    from finemem_jax import export

    end_as_usual()
    export.export(Path(arguments.workdir), Path(arguments.out), peft=arguments.peft, checkpoint=arguments.checkpoint)


def _sweep(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    from finemem_jax import sweep

    end_as_usual()
    if any(override.startswith("--config.seed") for override in overrides):
        raise UserError("--config.seed: a sweep takes its seeds from --seeds=0,1,2")
    try:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds={arguments.seeds}: must be whole numbers, separated by commas") from None
    workdir, runs = Path(arguments.workdir), []
    for spec in arguments.configs.split(","):
        row = sweep.row_name(spec)
        for seed in seeds:
            options = (*overrides, f"--config.seed={seed}")
            cfg = load_config(spec, options)  # all of them, before the first is run
            place = workdir / row / f"seed-{seed}"
            plugged = [f"--plugins={Path(folder).resolve()}" for folder in arguments.plugins]
            command = ("train", f"--config={spec}", *options, f"--workdir={place}", *plugged)
            runs.append(sweep.Run(row, seed, cfg, place, command))
    return sweep.sweep(runs, workdir, arguments.jobs)


def _report(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    _refuse_overrides(overrides)
    from finemem_jax.reporting import report

    end_as_usual()
    workdirs, out = [Path(folder) for folder in arguments.workdir], Path(arguments.out) if arguments.out else None
    if report.is_several(workdirs):
        from finemem_jax.reporting import overlay

        if arguments.figures:
            raise UserError("--figures: of one run, not of several")
        tell(overlay.write_overlay(workdirs, out))
        return
    tell(report.write_report(workdirs[0], out))
    if arguments.figures:
        for path in report.write_run_figures(workdirs[0], Path(arguments.figures)):
            tell(path)


def _watch(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    _refuse_overrides(overrides)
    if not 0 <= arguments.port < 65536:
        raise UserError(f"--port={arguments.port}: must be between 0 and 65535")
    from finemem_jax.reporting import watch

    end_as_usual()
    watch.watch(Path(arguments.workdir), arguments.port)


def _data(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    _refuse_overrides(overrides)
    end_as_usual()
    options = {k: v for k, v in vars(arguments).items() if k not in ("run", "command", "verb", "plugins")}
    if arguments.verb == "build":
        tell(importlib.import_module("finemem_jax.corpora._build").build(**options))
    elif arguments.verb == "questions":
        importlib.import_module("finemem_jax.corpora._final_questions").questions(**options).show()
    else:
        importlib.import_module("finemem_jax.corpora._chunk_questions").chunk_questions(**options).show()


def _manager(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    _refuse_overrides(overrides)
    end_as_usual()
    with manager_options.open_manager(arguments) as manager:
        if arguments.command == "mcp":
            importlib.import_module("finemem_jax.manager.over_mcp").serve(manager, arguments.user)
        else:
            importlib.import_module("finemem_jax.manager.talk").chat(manager, arguments.user)


def _bench(arguments: argparse.Namespace, options: Sequence[str]) -> None:
    from finemem_jax.bench import _command

    end_as_usual()
    tell(json.dumps(_command.measure([arguments.benchmark, *options]), indent=2))


if __name__ == "__main__":
    sys.exit(main())
