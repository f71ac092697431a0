"""A manager in use, cut off in the middle: three sessions are read, the process is killed, another goes on.

    python examples/remembering_agent.py                                    the tiny embedded policy, in our engine
    python examples/remembering_agent.py --model=MY-MANAGER --sessions=locomo10.json      an exported folder, LoCoMo
    python examples/remembering_agent.py --model=http://localhost:8000/v1 --folder=MY-MANAGER

Nothing is lost and nothing is kept twice: what `read` returned is in the store, and a reading that was cut short is
repeated with the same `source`. At the end the same sessions are read once more, uninterrupted, for another user, whose
memory must be the same, item for item. docs/remembering.md shows what it prints with a real model behind a server.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from finemem_jax import Manager
from finemem_jax.console import tell

SESSIONS = (
    ("2026-05-08", "mina's office is in rome.\njonas eats noodles for dinner."),
    ("2026-05-20", "the weather was nice.\nmina's dentist is orlov."),
    ("2026-06-01", "mina's office is in oslo now."),
)
QUESTIONS = ("where is mina's office?", "who is mina's dentist?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="URL of a server, or an exported folder")
    parser.add_argument("--folder", default="", help="the folder that the server serves")
    parser.add_argument("--name", default="", help="the name under which it serves it (default: its only model)")
    parser.add_argument("--sessions", default="", help="LoCoMo's file: its first conversation's first three sessions")
    parser.add_argument("--turns", type=int, default=6, help="of each LoCoMo session (default: %(default)s)")
    parser.add_argument("--chunk-tokens", type=int, default=0, help="of what is read at once (default: the folder's)")
    parser.add_argument("--without-text", action="store_true", help="print how long texts are, not what they say")
    parser.add_argument("--store", default="", help="the store (default: a new one)")
    parser.add_argument("--kill-after", type=int, default=0, help=argparse.SUPPRESS)  # for the process that is killed
    arguments = parser.parse_args()
    if arguments.kill_after:
        read(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.store = arguments.store or str(Path(folder) / "memory.sqlite")
        arguments.model = arguments.model or tiny_policy(Path(folder))
        names = ("model", "folder", "name", "sessions", "turns", "chunk_tokens", "store")
        given = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
        given += ["--without-text"] * arguments.without_text
        ended = subprocess.run([sys.executable, __file__, *given, "--kill-after=2"])
        assert ended.returncode == -signal.SIGKILL
        tell("the first process was killed in its third reading; another one does the same again")
        read(arguments)


def read(arguments: argparse.Namespace) -> None:
    sessions, questions = locomo(arguments) if arguments.sessions else (SESSIONS, QUESTIONS)
    config = {
        "folder": arguments.folder,
        "served_name": arguments.name,
        "chunk_tokens": arguments.chunk_tokens,
        "temperature": 0.0,
        "timeout_seconds": 900.0,
    }

    def shown(text: str | None) -> str:
        return f"[{len(text)} characters]" if text and arguments.without_text else text or ""

    with Manager(arguments.model, arguments.store, config) as manager:
        for number, (time, said) in enumerate(sessions, start=1):
            if arguments.kill_after and number > arguments.kill_after:
                kill_at_the_next_write(manager)
            written = manager.read(said, time=time, source=f"session {number}", user="example")
            tell(f"session {number}: {written.parts} parts, {written.known} known already")
            for change in written.applied:
                tell(f"  {change.verb} {change.id} {shown(change.text)}")
        held = manager.items(user="example")
        tell(f"memory: {len(held)} items")
        for question in questions:
            tell(f"? {shown(question)}")
            for item in manager.recall(question, user="example"):
                tell(f"  {item.id} {shown(item.text)}  ({item.source})")
            tell(f"  = {shown(manager.answer(question, user='example').text)}")
        for number, (time, said) in enumerate(sessions, start=1):
            manager.read(said, time=time, source=f"session {number}", user="never killed")
        whole = manager.items(user="never killed")
        assert [(item.id, item.text) for item in whole] == [(item.id, item.text) for item in held]
        tell(f"read again without a kill: the same {len(whole)} items, nothing lost, nothing twice")


def kill_at_the_next_write(manager: Manager) -> None:
    write = manager.store.append

    def killed(*given):
        write(*given)  # the first turn of this session is on the disk, and then
        os.kill(os.getpid(), signal.SIGKILL)

    manager.store.append = killed


def locomo(arguments: argparse.Namespace):
    """The first turns of three sessions of a conversation, and questions about them."""
    content = Path(arguments.sessions).read_bytes()
    row = json.loads(gzip.decompress(content) if arguments.sessions.endswith(".gz") else content)[0]
    said = row["conversation"]
    sessions = []
    for number in (1, 2, 3):
        turns = said[f"session_{number}"][: arguments.turns]
        messages = [{"speaker": turn["speaker"], "text": turn["text"]} for turn in turns]
        sessions.append((said[f"session_{number}_date_time"], messages))
    known = {turn["dia_id"] for number in (1, 2, 3) for turn in said[f"session_{number}"][: arguments.turns]}
    asked = [q["question"] for q in row["qa"] if q.get("evidence") and set(q["evidence"]) <= known and "answer" in q]
    return sessions, asked[:4]


def tiny_policy(folder: Path) -> str:
    """The policy that comes with the package, exported as a run exports its own."""
    from finemem_jax import load_config, load_policy, save_pretrained
    from finemem_jax.env.settings import settings_file

    cfg = load_config("quickstart", [])
    policy = load_policy(cfg)
    out = folder / "policy"
    save_pretrained(out, policy.model, policy.params, policy.tokenizer, files=settings_file(cfg))
    return str(out)


if __name__ == "__main__":
    main()
