"""Write docs/reference-config.md, and the reference in docs/cli.md, from the code.

python scripts/write_reference.py           # writes them
python scripts/write_reference.py --check   # exit code 1 if they are not up to date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import typer

from tunesmith.cli.main import app
from tunesmith.train.explain import KINDS, Explanation, everything

DOCS = Path(__file__).resolve().parents[1] / "docs"
CLI_MARKS = re.compile(r"(<!-- reference: .*? -->\n)(.*)(<!-- /reference -->\n)", re.DOTALL)
HEAD = "<!-- Written by scripts/write_reference.py (`make docs`); edit the code instead. -->\n\n"


def config_page() -> str:
    lines = [
        HEAD + "# Recipe reference", "",
        "Every field: what it does when it is raised or lowered, what is usual, where that is from, and what it",
        "interacts with. `tunesmith explain NAME` says the same of one; `recipes/chat.yaml` shows them in place.", "",
    ]  # fmt: skip
    top = [one for one in everything().values() if "." not in one.name]
    lines += ["## Kinds", "", "| | what they are | which |", "|---|---|---|"]
    lines += [f"| {kind.title} | {kind.sentence} | {', '.join(f'`{one}`' for one in kind.of)} |" for kind in KINDS]
    lines += ["", "A name with more parts belongs to its longest beginning in that table.", "", "## Top level", ""]
    lines += [*table_of([one for one in top if one.role == "field"]), ""]
    lines += points_of([one for one in top if one.role == "field"])
    for one in everything().values():
        if one.inside or one.role == "alternative":
            lines += part_of(one)
    return "\n".join(lines)


def part_of(one: Explanation) -> list[str]:
    """A heading, and below it what the fields of a section or an alternative are."""
    if one.role == "field" and everything()[one.inside[0]].role == "alternative":
        return []  # they come next
    owner, _, tag = one.name.rpartition(".")
    lines = [f"## {owner} (`type: {tag}`)" if one.role == "alternative" else f"## {one.name}", ""]
    if one.role == "alternative":
        lines += [one.what, "", said_of(one), ""]
    elif one.role == "section":
        lines += [one.what, ""]
    fields = [everything()[name] for name in one.inside]
    if fields:
        lines += [*table_of(fields), "", *points_of(fields)]
    return lines


def table_of(fields: list[Explanation]) -> list[str]:
    lines = ["| field | default | values | what it is |", "|---|---|---|---|"]
    for one in fields:
        lines.append(f"| `{one.name.rpartition('.')[2]}` | {one.default} | {one.values} | {one.what} |")
    return lines


def points_of(fields: list[Explanation]) -> list[str]:
    return [*(f"- **`{one.name.rpartition('.')[2]}`** {said_of(one)}" for one in fields), ""]


def said_of(one: Explanation) -> str:
    """The text of `explained/`, in a paragraph."""
    beside = "; ".join(f"`{name}`: {how}" for name, how in one.with_.items())
    source = one.source if one.source.endswith(".") else f"{one.source}."
    together = f" *With* {beside}." if beside else ""
    return f"{one.effect} *Usual:* {one.usual} *Source:* {source}{together}"


def cli_page() -> str:
    """The page as it is, with the reference between its marks."""
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert CLI_MARKS.search(page), "docs/cli.md has lost the marks of its reference"
    return CLI_MARKS.sub(lambda found: f"{found[1]}\n{cli_reference()}\n{found[3]}", page)


def cli_reference() -> str:
    lines: list[str] = []
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        lines += [f"## tunesmith {name}", "", (command.help or "").strip(), "", "| argument | default | what it does |"]
        lines.append("|---|---|---|")
        for parameter in command.params:
            if parameter.name == "help":
                continue
            option = max(parameter.opts, key=len) if parameter.opts[0].startswith("-") else parameter.name.upper()
            default = (
                "required" if parameter.required else "" if parameter.default is None else f"`{parameter.default}`"
            )
            lines.append(f"| `{option}` | {default} | {getattr(parameter, 'help', '') or ''} |")
        if lines[-1] == "|---|---|---|":
            del lines[-2:]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    stale = False
    for name, text in (("reference-config.md", config_page()), ("cli.md", cli_page())):
        path = DOCS / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                print(f"{path.name} is not what the code says. Run: make docs")
                stale = True
        else:
            path.write_text(text, encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
