"""`python -m tunesmith.web.look FILE BASE`: what `check` finds in a file, as a line of JSON. A child of the server."""

from __future__ import annotations

import json
import sys
from typing import Any

from tunesmith.core.errors import TunesmithError


def look(file: str, base: str) -> dict[str, Any]:
    """What the page shows of a file: the values of `check --html`, or `error` with a sentence."""
    from tunesmith.data.config import DataConfig
    from tunesmith.data.load import Reading
    from tunesmith.data.quality.near_duplicates import NearDuplicates
    from tunesmith.data.quality.page import report_values
    from tunesmith.data.quality.report import data_report
    from tunesmith.data.source import find_files
    from tunesmith.prompt.base import context_length, resolve
    from tunesmith.prompt.load import load_contract

    try:
        folder = resolve(base).folder
        contract = load_contract(folder, chat=False)
        reading = Reading(find_files([file]), DataConfig(train=[file]))
        return report_values(data_report(reading, contract, context_length(folder) or 2048, NearDuplicates()), contract)
    except TunesmithError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look(*sys.argv[1:3])) + "\n")
