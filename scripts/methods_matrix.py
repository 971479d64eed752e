"""Every method on every family of models: trained, resumed, exported, read by plain peft, continued, merged.

    python scripts/methods_matrix.py                    # prints the matrix: about eight minutes on two cores
    python scripts/methods_matrix.py --write            # ... and puts it into docs/methods.md
    python scripts/methods_matrix.py --noted FILE       # goes on where it was

Models are small ones of each family's shape; the Llama is trained in bf16 and compiled, the others in fp32 and
as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
COMPILED = "Llama"
MARKS = re.compile(r"(<!-- matrix -->\n).*?(<!-- /matrix -->)", re.DOTALL)


def tried(family: str, cell: str) -> dict[str, str]:
    """What was seen of one method on one family."""
    from method_cells import try_cell

    torch.compiler.reset()  # or what was compiled for others would count
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            seen = try_cell(family, cell, Path(folder), compiled=family == COMPILED)
        except Exception as error:  # noqa: BLE001  whatever it is, it is told
            seen = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    return {**seen, "seconds": f"{time.monotonic() - began:.1f}"}


def sign(seen: dict[str, str]) -> str:
    """What was seen in a word."""
    if "failed" in seen:
        return "FAILED"
    if "refused" in seen:
        return "refused"
    return ", ".join(name for name in ("resumed", "continued", "merged", "compiled")
                     if seen.get(name, "no") not in ("no", "not asked"))  # fmt: skip


def table(found: dict[str, dict[str, str]], families: list[str], cells: list[str]) -> str:
    """The matrix."""
    lines = [f"| method | {' | '.join(families)} |", "|---|" + "---|" * len(families)]
    lines += [f"| {cell} | {' | '.join(sign(found[f'{one}/{cell}']) for one in families)} |" for cell in cells]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try all cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noted", type=Path, help="note what was seen there, and leave out what was")
    parser.add_argument("--family", nargs="+", default=[], help="try these alone, and note what was seen")
    parser.add_argument("--write", action="store_true", help="put the matrix into docs/methods.md")
    options = parser.parse_args()
    from method_cells import CELLS, FAMILIES

    noted: Path | None = options.noted
    found: dict[str, dict[str, str]] = json.loads(noted.read_text()) if noted is not None and noted.exists() else {}
    for family in options.family or FAMILIES:
        for cell in CELLS:
            name = f"{family}/{cell}"
            if name not in found or "failed" in found[name]:
                found[name] = tried(family, cell)
                if noted is not None:
                    noted.parent.mkdir(parents=True, exist_ok=True)
                    noted.write_text(json.dumps(found, indent=1))
            print(name, found[name], flush=True)
    if options.family:
        sys.exit(any("failed" in seen for seen in found.values()))
    text = table(found, list(FAMILIES), list(CELLS))
    print(text)
    if options.write:
        page = ROOT / "docs" / "methods.md"
        page.write_text(MARKS.sub(lambda match: match[1] + text + match[2], page.read_text()))
    if noted is not None and not any("failed" in seen for seen in found.values()):
        noted.unlink()
    sys.exit(any("failed" in seen for seen in found.values()))


if __name__ == "__main__":
    main()
