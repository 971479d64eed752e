"""`tunesmith prompts FILE` with `--edit`, `--history`, `--final` or `--lint`: versions of a prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tunesmith.cli.editor import editor_named, open_editor
from tunesmith.core.errors import ConfigError, MissingError, TunesmithError

if TYPE_CHECKING:
    from rich.text import Text

    from tunesmith.evaluate.prompts.versions import Prompt, Version, Versions

Params = dict[str, Any]
BELONG = {"gain": "lint", "note": "edit", "from_": "edit or --lint"}  # options that go with another
UNFIT = {  # options of the table that a version knows itself
    "edit": ("template", "instruction", "schema", "answer", "against", "validate_only"),
    "final": ("template", "instruction", "schema", "answer", "against", "validate_only", "shots", "examples"),
    "history": ("html",),
    "lint": ("against", "validate_only", "html"),
}


def mode_of(asked: set[str]) -> str:
    """What is to be done with versions: `edit`, `history`, `final` or `lint`; empty for a table.

    Args:
        asked: the options that were given.

    Raises:
        ConfigError: options do not go together.
    """
    named = ["edit" if name == "edit_with" else name for name in ("edit", "edit_with", "history", "final", "lint")
             if name in asked]  # fmt: skip
    modes = list(dict.fromkeys(named))
    if len(modes) > 1:
        raise ConfigError(f"--{modes[0]} and --{modes[1]}: one at a time.")
    mode = modes[0] if modes else ""
    for name, owner in BELONG.items():
        if name in asked and mode not in owner.replace("--", "").split(" or "):
            raise ConfigError(f"--{name.rstrip('_')} goes with --{owner}.")
    if unfit := [name for name in UNFIT.get(mode, ()) if name in asked]:
        name = unfit[0].replace("_", "-")
        raise ConfigError(f"--{name} does not go with --{mode}, which asks as the version says. Leave it out.")
    return mode


def options_from(params: Params, asked: set[str], version: Version) -> dict[str, Any]:
    """Options of a job that asks with a version: its own, where the command line gives no other."""
    from tunesmith.cli.prompt_tables import options_of

    given = {{"column": "columns"}.get(name, name) for name in asked}
    own = {key: value for key, value in version.options.items() if key not in given}
    models = {} if "models" in asked else {"models": [version.model]}
    return {**options_of(params), **own, **models}


def edit(params: Params, asked: set[str]) -> None:
    """Change a version, score what was made of it, and keep that."""
    versions, parent = _version(params, params["from_"])
    wanted = _wanted(params, asked)
    if params["edit_with"] is not None:
        file, text = params["edit_with"], _read(params["edit_with"])
        prompt = _prompt(text, parent, str(file), wanted)
        if prompt is not None:
            _score(prompt, parent, versions, params, asked)
        return
    file = _typing_file(versions.folder)
    prompt = _edited(file, parent, wanted)
    if prompt is not None:
        try:
            _score(prompt, parent, versions, params, asked)
        except TunesmithError as error:
            raise type(error)(_with_advice(error, file)) from None
        except KeyboardInterrupt:
            typer.echo(f"What was typed is kept in {file}.", err=True)
            raise
    file.unlink()


def _version(params: Params, name: str) -> tuple[Versions, Version]:
    from tunesmith.evaluate.prompts.versions import Versions, folder_of

    versions = Versions(folder_of(params["file"], params["into"]))
    versions.refuse_others(params["file"])
    return versions, versions.find(name)


def _wanted(params: Params, asked: set[str]) -> dict[str, Any]:
    """Which other examples are wanted."""
    from tunesmith.cli.prompt_tables import listed, numbers

    shots, examples = numbers(params["shots"]), listed(params["examples"])
    if "shots" in asked and len(shots) != 1:
        raise ConfigError(f"--shots {params['shots']}: a version has one number of examples. Give one.")
    if len(examples) > 1:
        raise ConfigError(f"--examples {params['examples']}: a version chooses them in one way. Give one.")
    return {
        "shots": shots[0] if "shots" in asked else None,
        "examples": examples[0] if examples else None,
        "seed": params["seed"] if "seed" in asked else None,
    }


def _edited(file: Path, parent: Version, wanted: dict[str, Any]) -> Prompt | None:
    """What comes of the editor; None where no version is to be made. What is typed stays in `file`."""
    from tunesmith.core.files import write_text
    from tunesmith.evaluate.prompts.edited import opened

    write_text(file, opened(parent))
    while True:
        _open(file)
        try:
            return _prompt(_read(file), parent, "the prompt", wanted)
        except ConfigError as error:
            if not sys.stdin.isatty():
                raise ConfigError(_with_advice(error, file)) from None
            typer.secho(f"error: {error}", fg="red", err=True)
            if not typer.confirm("Open it again?", default=True):
                raise ConfigError(_with_advice(error, file)) from None


def _prompt(text: str, parent: Version, where: str, wanted: dict[str, Any]) -> Prompt | None:
    """The prompt that a text says; None, which is told, where it is empty or what it was."""
    from tunesmith.evaluate.prompts.edited import prompt_from, text_of, typed

    said, before = typed(text), parent.prompt
    others = any(one is not None and one != getattr(before, key) for key, one in wanted.items())
    if said == text_of(before) and not others:
        typer.echo(f"Nothing was changed in {parent.id}: no version is made.")
        return None
    if not said.strip() and not others:
        typer.echo("The text is empty: no version is made.")
        return None
    return prompt_from(said, parent, where, **wanted)


def _open(file: Path) -> None:
    """Let the user change a file.

    Raises:
        ConfigError: there is no editor, or it ends with an error.
    """
    try:
        code = open_editor(file)
    except MissingError as error:
        file.unlink()
        raise ConfigError(
            f"--edit: {error}; or write the text into a file and give it with --edit-with FILE."
        ) from None
    except ConfigError as error:
        file.unlink()
        raise ConfigError(f"--edit: {error}") from None
    if code:
        raise ConfigError(f"--edit: {editor_named()!r} ended with {code}. What was typed is kept in {file}.")


def _typing_file(folder: Path) -> Path:
    """A new file to type in, beside what was typed before and is no version."""
    from tunesmith.evaluate.prompts.versions import UNFINISHED

    names = [folder / UNFINISHED, *(folder / f"unfinished-{number}.txt" for number in range(2, 1000))]
    return next(path for path in names if not path.exists())


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingError(f"--edit-with {file}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as text ({error}).") from None


def _with_advice(error: Exception, file: Path) -> str:
    return f"{error} What was typed is kept in {file}: go on with --edit-with {file}."


def _score(prompt: Prompt, parent: Version, versions: Versions, params: Params, asked: set[str]) -> None:
    from tunesmith.cli.prompt_tables import show
    from tunesmith.cli.screen import live_screen
    from tunesmith.jobs.start import try_prompts

    options = {
        **options_from(params, asked - {"shots", "examples", "seed"}, parent), "into": str(versions.folder),
        "parent": parent.id, "prompt": prompt.to_plain(), "schema": parent.schema, "note": params["note"],
    }  # fmt: skip
    with live_screen() as screen:
        found = try_prompts(options, screen, "score-prompt")
    show(found, params)


def final(params: Params, asked: set[str]) -> None:
    """Measure a version on the test rows."""
    from tunesmith.cli.prompt_tables import show
    from tunesmith.cli.screen import live_screen
    from tunesmith.jobs.start import try_prompts

    versions, version = _version(params, params["final"])
    options = {**options_from(params, asked, version), "into": str(versions.folder), "version": version.id}
    with live_screen() as screen:
        found = try_prompts(options, screen, "measure-prompt")
    show(found, params)


def history(params: Params, asked: set[str]) -> None:
    """Show all versions, which came from which, what they scored, and how often test rows were looked at."""
    from rich.tree import Tree

    from tunesmith.cli.screen import console
    from tunesmith.core.files import expanded, write_json
    from tunesmith.evaluate.prompts.versions import Versions, families, folder_of

    versions = Versions(folder_of(params["file"], params["into"]))
    best = versions.find("best")
    tests = versions.tests()
    if params["json"] is not None:
        plain = [one.to_plain() for one in versions.all]
        write_json(expanded(params["json"]), {"versions": plain, "best": best.id, "tests": tests})
    children = families(versions.all)
    tree = Tree(f"{versions.folder}: prompts for {versions.all[-1].rows['file']}", guide_style="dim")

    def grow(branch: Tree, parent: str | None) -> None:
        for one in children.get(parent, ()):
            looks = sum(test.get("id") == one.id for test in tests)
            grow(branch.add(_described(one, best, looks)), one.id)

    grow(tree, None)
    console.print(tree)
    for sentence in _said(versions, best, tests):
        console.print(sentence, style="dim", markup=False, soft_wrap=True)


def _described(one: Version, best: Version, looks: int) -> Text:
    """A version in the tree."""
    from rich.text import Text

    from tunesmith.evaluate.prompts.page import with_interval
    from tunesmith.evaluate.prompts.versions import comparable

    line = Text(one.id, "bold green" if one.id == best.id else "bold")
    line.append(f"  {one.told}", "")
    if one.metric in one.scores:
        line.append(f"  {one.metric} {with_interval(one.scores[one.metric])}", "green" if one.id == best.id else "")
    line.append("  best" if one.id == best.id else "", "bold green")
    line.append("" if comparable(one, best) else "  of other rows or by another metric", "yellow")
    line.append(f"  {looks} look{'' if looks == 1 else 's'} at test rows" if looks else "", "yellow")
    line.append(f"\n{one.model}, {one.made}{f': {one.note}' if one.note else ''}", "dim")
    return line


def _said(versions: Versions, best: Version, tests: list[dict[str, Any]]) -> list[str]:
    """What is to be known of all versions."""
    from tunesmith.core.names import counted
    from tunesmith.evaluate.prompts.page import with_interval
    from tunesmith.evaluate.prompts.used import uses

    said = [f"Scores are of validation rows, by which {best.id} is the best: as such it looks better than it is."]
    for test in tests:
        score = test.get("scores", {}).get(best.metric)
        worth = f": {best.metric} {with_interval(score)}" if score else ""
        said.append(f"{test.get('id')} was measured on test rows on {test.get('made')}{worth}.")
    count = uses(best.rows["test"])
    prompts = counted(count, "prompt")
    if count:
        said.append(f"These test rows were looked at with {prompts} in all, those of tables among them.")
    elif not tests:
        said.append("The test rows were not looked at yet. When you have chosen: --final best.")
    return said


def lint(params: Params, asked: set[str]) -> None:
    """Say what a prompt lacks, and what each advice gains where that is wanted."""
    from tunesmith.cli.prompt_tables import listed, numbers, options_of
    from tunesmith.cli.screen import console, live_screen
    from tunesmith.core.files import expanded, write_json
    from tunesmith.evaluate.prompts.versions import Versions, folder_of
    from tunesmith.jobs.start import try_prompts

    versions = Versions(folder_of(params["file"], params["into"]))
    if "from_" in asked or (versions.all and not GIVEN & asked):
        if unfit := sorted(GIVEN & asked):
            raise ConfigError(f"--from and --{unfit[0]}: a version says that itself. Give one of the two.")
        version = _version(params, params["from_"])[1]
        options = {**options_from(params, asked, version), "version": version.id}
    else:
        shots = numbers(params["shots"])[-1:] if "shots" in asked else [0]
        examples = listed(params["examples"])[:1] or ["random"]
        options = {**options_of(params), "shots": shots, "examples": examples, "version": None, "against": "first"}
    if len(options["models"]) != 1:
        raise ConfigError(f"--lint looks at a prompt for one model, and --models names {params['models']}. Name one.")
    with live_screen() as screen:
        found = try_prompts({**options, "gain": params["gain"]}, screen, "lint-prompt")
    for line in lint_lines(found):
        console.print(line, soft_wrap=True)
    if params["json"] is not None:
        write_json(expanded(params["json"]), found)


def lint_lines(found: dict[str, Any]) -> list[Text]:
    """What the rules found, for a terminal."""
    from rich.text import Text

    from tunesmith.core.names import counted
    from tunesmith.evaluate.prompts.page import signed, with_interval

    findings, base = found["findings"], found["base"]
    head = "nothing to say against it" if not findings else counted(len(findings), "finding")
    lines = [Text(f"{found['called']} for {found['data']}, asked of {found['model']}: {head}", "bold")]
    if base and base["score"]:
        rows = counted(base["score"]["rows"], "row of the validation part")
        lines.append(Text(f"{found['metric']} {with_interval(base['score'])} on {rows}", "dim"))
    for one in findings:
        line = Text("\n").append(one["name"], "bold yellow").append(f": {one['found']} {one['advice']}")
        gain = one["gain"]
        if gain and gain["difference"]:
            worth = f"{found['metric']} {with_interval(gain['score'])}, {signed(gain['difference'])} {gain['verdict']}"
            line.append(f"\n  done here: {worth}", "green" if gain["verdict"] == "better" else "dim")
        elif gain:
            line.append(f"\n  could not be measured: {gain['left_out']}", "dim")
        elif base:
            line.append("\n  not measured: only you can do it", "dim")
        lines.append(line)
    if base and any(one["gain"] for one in findings):
        lines.append(Text("\nEach change by itself; differences are paired by row, with 95% intervals.", "dim"))
    return lines


GIVEN = frozenset(("instruction", "template", "shots", "examples", "schema", "answer"))  # what says a prompt
MODES: dict[str, Callable[[Params, set[str]], None]] = {
    "edit": edit, "history": history, "final": final, "lint": lint,
}  # fmt: skip
