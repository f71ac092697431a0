"""`finemem chat` and `finemem mcp`: what they can be told, and the manager that they use."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from finemem_jax.config import AnswererConfig, UserError
from finemem_jax.manager.settings import ManagerConfig

if TYPE_CHECKING:
    from finemem_jax.manager.verbs import Manager


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="URL of the server, http://…/v1, or an exported folder")
    parser.add_argument("--store", required=True, help="file of the memory; made where there is none")
    parser.add_argument("--folder", default="", help="the exported folder that the server serves")
    parser.add_argument("--name", default="", help="the name under which it serves it (default: its only model)")
    parser.add_argument("--user", default="default", help="whose memory it is (default: %(default)s)")
    parser.add_argument("--temperature", type=float, help="of the model's sampling (default: what the folder says)")
    parser.add_argument("--answerer-url", default="", help="server that answers (default: an answerer without a model)")
    parser.add_argument("--answerer-model", default="", help="its model's name")


def open_manager(arguments: argparse.Namespace) -> Manager:
    """The manager that the options describe. Raises UserError, naming the option, before anything is loaded."""
    from finemem_jax.manager.verbs import Manager

    temperature = -1.0 if arguments.temperature is None else arguments.temperature
    if arguments.temperature is not None and not 0 <= temperature < math.inf:
        raise UserError(f"--temperature={temperature:g}: must be at least 0")
    if bool(arguments.answerer_url) != bool(arguments.answerer_model):
        raise UserError("--answerer-url and --answerer-model belong together: give both or neither")
    if not arguments.user:
        raise UserError("--user is empty: name whose memory it is")
    answerer = AnswererConfig()
    if arguments.answerer_url:
        answerer = AnswererConfig(name="endpoint", url=arguments.answerer_url, model=arguments.answerer_model)
    cfg = ManagerConfig(folder=arguments.folder, served_name=arguments.name, temperature=temperature, answerer=answerer)
    return Manager(arguments.model, arguments.store, cfg)
