"""Other people's clients against our server: LangChain, LlamaIndex and the command line `llm`, a conversation each.

    python scripts/other_clients.py            # in an environment of its own, .clients, which it makes

What each is answered must be what OpenAI's own client is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from page_screens import ROOT, serving

PACKAGES = ["langchain-openai", "llama-index-llms-openai-like", "llm"]
QUESTIONS = ["Can I bring my dog?", "And when is breakfast?"]
MODEL = "ember"


def environment(folder: Path) -> Path:
    """A virtual environment with the clients; returns its programs."""
    if not (folder / ".whole").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
        (folder / ".whole").touch()
    return folder / "bin"


def by_openai(url: str, key: str) -> list[str]:
    """What OpenAI's client is answered."""
    client, talk, answers = OpenAI(base_url=url, api_key=key), list[ChatCompletionMessageParam](), list[str]()
    for question in QUESTIONS:
        talk.append({"role": "user", "content": question})
        done = client.chat.completions.create(model=MODEL, messages=talk, temperature=0, max_tokens=40)
        answers.append(done.choices[0].message.content or "")
        talk.append({"role": "assistant", "content": answers[-1]})
    return answers


def main() -> None:
    """Ask by all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=ROOT / ".clients")
    programs = environment(parser.parse_args().environment)
    examples = ROOT / "examples" / "clients"
    commands = {
        "LangChain": [str(programs / "python"), str(examples / "langchain_chat.py")],
        "LlamaIndex": [str(programs / "python"), str(examples / "llama_index_chat.py")],
        "llm": [str(examples / "llm_chat.sh")],
    }
    failed = 0
    with tempfile.TemporaryDirectory() as home, serving(Path(home)) as (address, key):
        url = f"{address}/v1"
        expected = by_openai(url, key)
        there = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key, "PATH": f"{programs}:{os.environ['PATH']}"}
        for name, command in commands.items():
            done = subprocess.run(
                [*command, MODEL, *QUESTIONS], env={**os.environ, **there}, capture_output=True, text=True, check=False
            )
            same = done.stdout.split("\n")[:-1] == expected
            failed += not same
            print(f"{name}: {'the same answers' if same else f'other answers: {done.stdout}{done.stderr[-2000:]}'}")
    print(f"{len(commands) - failed} of {len(commands)} clients were answered as OpenAI's is: {expected}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
