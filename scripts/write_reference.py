"""Write docs/reference-config.md, and the reference in docs/cli.md, from the code.

python scripts/write_reference.py           # writes them
python scripts/write_reference.py --check   # exit code 1 if they are not up to date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from tunesmith.cli.main import app
from tunesmith.core.config import Section, union_members
from tunesmith.train.recipe import Recipe

DOCS = Path(__file__).resolve().parents[1] / "docs"
CLI_MARKS = re.compile(r"(<!-- reference: .*? -->\n)(.*)(<!-- /reference -->\n)", re.DOTALL)
HEAD = "<!-- Written by scripts/write_reference.py (`make docs`); edit the code instead. -->\n\n"


def type_name(annotation: Any) -> str:
    """A type as people read it: `int or null`, `fp32, bf16`, `list of str`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is Annotated:
        return type_name(inner[0])
    if origin is dict:
        return f"mapping of {type_name(inner[0])} to {type_name(inner[1])}"
    if origin in (list, tuple):
        return f"{origin.__name__} of {type_name(inner[0])}"
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, inner))
    if issubclass(annotation, Section):
        fields = (f"{name}: {type_name(field.annotation)}" for name, field in annotation.model_fields.items())
        return f"`{{{', '.join(fields)}}}`"
    return annotation.__name__


def limits(metadata: list[Any]) -> str:
    names = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return ", ".join(
        f"{sign} {getattr(item, name)}" for item in metadata for name, sign in names.items() if hasattr(item, name)
    )


def shown(default: Any) -> str:
    """A default as YAML has it."""
    if default is None:
        return "`null`"
    return f"`{str(default).lower()}`" if isinstance(default, bool) else f"`{default}`"


def _takes_values(annotation: Any) -> bool:
    """Whether a field may hold something beside sections; if not, its sections have tables of their own."""
    return any(not (isinstance(one, type) and issubclass(one, Section)) for one in get_args(annotation))


def section_table(section: type[Section]) -> list[str]:
    lines = ["| field | default | values | what it does |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        if union_members(field) and field.annotation is not None and not _takes_values(field.annotation):
            continue
        default = "required" if field.is_required() else shown(field.default)
        extra = field.json_schema_extra
        hint = f" {extra['hint']}" if isinstance(extra, dict) and "hint" in extra else ""
        values = type_name(field.annotation)
        if bounds := limits(field.metadata):
            values += f", {bounds}"
        description = field.description or "Names this alternative."
        lines.append(f"| `{name}` | {default} | {values} | {description}{hint} |")
    return lines


def config_page() -> str:
    lines = [HEAD + "# Recipe reference", "", "Every field of a recipe. `recipes/chat.yaml` shows them in place.", ""]
    lines += ["## Top level", "", *section_table(Recipe), ""]
    for name, field in Recipe.model_fields.items():
        for section in union_members(field):
            tag = f" (`type: {section.model_fields['type'].default}`)" if "type" in section.model_fields else ""
            lines += [f"## {name}{tag}", "", (section.__doc__ or "").split("\n")[0], "", *section_table(section), ""]
    return "\n".join(lines)


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
