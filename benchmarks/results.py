"""RESULTS.md: each benchmark puts its table between marks of its own."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def put(name: str, text: str, file: Path | None = None) -> None:
    """Replace what stands between the marks `name` of a file, RESULTS.md if absent, or add both at the end."""
    file = file or RESULTS
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    old = file.read_text(encoding="utf-8") if file.exists() else "# Benchmarks\n"
    head, _, rest = old.partition(begin)
    _, _, tail = rest.partition(end)
    file.write_text(f"{head.rstrip()}\n\n{begin}{text.rstrip()}\n{end}{tail}", encoding="utf-8")
