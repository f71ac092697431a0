"""Draws one recorded rollout with its credit, the picture of the README.

finemem train --config=configs/quickstart.py --config.mesh.data=1 --config.train.steps=2 --workdir=runs/picture
python docs/images/episode.py runs/picture/rollouts.jsonl --sample=2 > docs/images/episode.svg
"""

from __future__ import annotations

import argparse
import json
from html import escape
from pathlib import Path

COLUMN, GAP, MARGIN = 282, 12, 20
INK, PALE, FRAME, PAPER = "#1f2328", "#8b949e", "#d0d7de", "#ffffff"
GREEN, RED, AMBER, BLUE = "#1a7f37", "#cf222e", "#9a6700", "#0969da"
LINE = 16  # height of a line of text, pixels
TERMS = (("chunk_qa", "questions about this day"), ("evidence", "evidence for the end"), ("format", "valid operations"))
VERBS = {"memory_insert": ("+", GREEN), "memory_update": ("↻", AMBER), "memory_delete": ("−", RED)}  # else "·"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rollouts", help="rollouts.jsonl of a run")
    parser.add_argument("--line", type=int, default=0, help="which group, from 0")
    parser.add_argument("--sample", type=int, default=0, help="which of its samples, from 0")
    given = parser.parse_args()
    group = json.loads(Path(given.rollouts).read_text(encoding="utf-8").splitlines()[given.line])
    print(picture(group, group["samples"][given.sample]))


def picture(group: dict, sample: dict) -> str:
    """The SVG of one sample of a recorded group."""
    steps = len(group["chunks"])
    final = [answer for answer in sample["answers"] if answer["step"] is None]
    read_lines = max(len(chunk.splitlines()) for chunk in group["chunks"])
    write_lines = max(len(step["operations"]) for step in sample["steps"])
    width = 2 * MARGIN + steps * COLUMN + (steps - 1) * GAP
    reads, writes = 84, 84 + 34 + read_lines * LINE
    earns = writes + 34 + write_lines * (LINE + 3)
    bottom = earns + 34 + len(TERMS) * (LINE + 4) + 36
    questions = bottom + 74
    title = f"One episode: {steps} days are read, a memory is written, {len(final)} questions are asked"
    legend = (
        f"One of the {len(group['samples'])} rollouts of this episode. A right answer credits the day that wrote its "
        "evidence; the advantage compares a day with the same day of the other rollouts."
    )
    parts = [text(MARGIN, 32, title, 17, INK, 600), text(MARGIN, 54, legend, 13, PALE)]
    for t, chunk in enumerate(group["chunks"]):
        left = MARGIN + t * (COLUMN + GAP)
        parts.append(box(left, 70, COLUMN, bottom - 70))
        parts.append(column(left, t, chunk, sample, reads, writes, earns, bottom))
    parts += asked(final, width, bottom, questions)
    note = "Asked at the end and answered from memory alone. A line leads to the day that wrote what was retrieved."
    parts.append(text(MARGIN, questions + 82, note, 13, PALE))
    height = questions + 98
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n'
        f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>\n' + "\n".join(parts) + "\n</svg>"
    )


def column(left: int, t: int, chunk: str, sample: dict, reads: int, writes: int, earns: int, bottom: int) -> str:
    """What one step read, wrote and earned."""
    step, x = sample["steps"][t], left + 12
    kept = {operation["arguments"].get("content") for operation in step["operations"] if operation["ok"]}
    parts = [text(x, reads + 8, f"day {t + 1}: it reads", 12, PALE)]
    for i, line in enumerate(chunk.splitlines()):
        parts.append(text(x, reads + 28 + i * LINE, line, 11.5, INK if line in kept else PALE, mono=True))
    parts.append(text(x, writes + 8, "it writes   (+ INSERT   ↻ UPDATE)", 12, PALE))
    for i, operation in enumerate(step["operations"]):
        verb, colour = VERBS.get(operation["name"], ("·", PALE))
        y = writes + 28 + i * (LINE + 3)
        words = operation["arguments"].get("content", "").strip()
        number = operation["item"] or operation["arguments"].get("id", "")
        parts.append(text(x, y, verb, 13, colour, 700))
        shown = f"{number} {words}" if operation["ok"] else f"{words} (refused)"
        parts.append(text(x + 14, y, shown, 11, INK, mono=True))
    parts.append(text(x, earns + 8, "it earns", 12, PALE))
    for i, (name, words) in enumerate(TERMS):
        y, value = earns + 28 + i * (LINE + 4), sample["rewards"][name][t]
        parts.append(text(x, y, words, 11.5, INK))
        parts.append(bar(x + 150, y - 9, 56, min(value, 1.0), BLUE))
        parts.append(text(x + 212, y, f"{value:.2f}", 11.5, INK))
    advantage = sample["advantage"][t]
    colour = GREEN if advantage > 0 else RED
    parts.append(text(x, bottom - 16, "advantage", 13, INK, 600))
    parts.append(text(x + 150, bottom - 16, f"{advantage:+.2f}".replace("-", "−"), 16, colour, 700))
    return "\n".join(parts)


def asked(final: list[dict], width: int, bottom: int, top: int) -> list[str]:
    """The final questions, each with a line to the steps that wrote what was retrieved for it."""
    room, parts = (width - 2 * MARGIN - (len(final) - 1) * 10) / len(final), []
    for i, answer in enumerate(final):
        left, right = MARGIN + i * (room + 10), answer["score"] == 1
        for rank, item in enumerate(answer["retrieved"]):
            start = MARGIN + item["step"] * (COLUMN + GAP) + COLUMN / 2 + (i - len(final) / 2) * 9
            end, middle = left + room / 2, (bottom + top - 22) / 2
            colour, weight = (GREEN if right else RED), 2 if rank == 0 else 1
            dashes = "" if rank == 0 else ' stroke-dasharray="3 4"'
            parts.append(
                f'<path d="M{start:.0f} {bottom} C{start:.0f} {middle:.0f} {end:.0f} {middle:.0f} {end:.0f} {top}" '
                f'fill="none" stroke="{colour}" stroke-width="{weight}"{dashes} opacity="0.75"/>'
            )
        said = answer["answer"] or "no idea"
        parts.append(box(left, top, room, 60))
        parts.append(text(left + 10, top + 24, answer["question"].removeprefix("what is "), 12, INK))
        parts.append(text(left + 10, top + 45, f"{'✓' if right else '✗'} {said}", 13, GREEN if right else RED, 600))
    return parts


def text(x: float, y: float, words: str, size: float, colour: str, weight: int = 400, *, mono: bool = False) -> str:
    family = ' font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"' if mono else ""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{colour}" font-weight="{weight}"{family}>'
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="8" fill="{PAPER}" '
        f'stroke="{FRAME}"/>'
    )


def bar(x: float, y: float, width: float, share: float, colour: str) -> str:
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="9" rx="2" fill="#eaeef2"/>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{max(share, 0) * width:.1f}" height="9" rx="2" fill="{colour}"/>'
    )


if __name__ == "__main__":
    main()
