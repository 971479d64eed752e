"""Upload a bundle to the Hugging Face hub: in one commit, or not at all.

The address is HF_ENDPOINT's, the token HF_TOKEN's or that of `hf auth login`, as huggingface_hub reads them. The
token goes into requests and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError

from tunesmith import __version__
from tunesmith.core.errors import ConfigError, TunesmithError
from tunesmith.deploy.bundle import CARD, Bundle, is_published

FAILURES = (HTTPError, OSError, RuntimeError, ValueError, LookupError)  # what the library raises on the way to the hub


@dataclass(frozen=True)
class Pushed:
    """What stands on the hub now.

    Attributes:
        url: the repository's page.
        commit: its head.
        changed: whether there was anything new to send.
        removed: files of an earlier push that this model does not have.
        private: who can see it.
    """

    url: str
    commit: str
    changed: bool
    removed: list[str]
    private: bool


@dataclass(frozen=True)
class Repository:
    """A repository as it was found or made.

    Attributes:
        api: the way to it, with the token.
        id: owner/name.
        branch: what is committed to; None for the main one.
        head: its last commit.
        files: what it holds.
        private: who can see it.
    """

    api: HfApi = field(repr=False)
    id: str
    branch: str | None
    head: str | None
    files: list[str]
    private: bool

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self.api.endpoint}/{self.id}" + (f"/tree/{self.branch}" if self.branch else "")


def send(bundle: Bundle, public: bool = False, message: str | None = None, branch: str | None = None) -> Pushed:
    """Upload the bundle's files as one commit; the repository and the branch are made if they are not there.

    Args:
        bundle: what to send, and where to.
        public: whether everybody may see a repository that is made here; needed for one that is public already.
        message: of the commit.
        branch: the main one if absent.

    Raises:
        TunesmithError: the hub refused, or cannot be reached; the sentence says what was pushed.
        KeyboardInterrupt: with such a sentence.
    """
    api = connect()
    message = f"ExportedModel by tunesmith {__version__}" if message is None else message
    if not message.strip():
        raise ConfigError("--message is empty. Say in a few words what this is, or leave the option out.")

    def nothing(error: BaseException) -> str:
        return "Nothing was pushed."

    repository = attempt(api, bundle.repo, lambda: open_repository(api, bundle.repo, public, branch), nothing)
    removed = sorted(name for name in repository.files if is_published(name) and name not in bundle.files)

    def upload() -> list[CommitOperationAdd]:  # of large files the content, which nobody sees before the commit
        added = [CommitOperationAdd(name, content) for name, content in bundle.files.items()]
        api.preupload_lfs_files(bundle.repo, added, revision=branch)
        return added

    def commit() -> Any:
        operations = [*added, *map(CommitOperationDelete, removed)]
        return api.create_commit(bundle.repo, operations, commit_message=message, revision=branch)

    added = attempt(api, bundle.repo, upload, nothing)
    done = attempt(api, bundle.repo, commit, lambda error: what_was_published(repository, error))
    return Pushed(repository.url, done.oid, done.oid != repository.head, removed, repository.private)


def connect() -> HfApi:
    """The hub with the user's token.

    Raises:
        TunesmithError: there is no token, or HF_HUB_OFFLINE forbids connections.
    """
    if constants.HF_HUB_OFFLINE:
        raise TunesmithError("HF_HUB_OFFLINE is set, so nothing can be pushed. Unset it, or look with --dry-run.")
    token = get_token()
    if token is None:
        raise TunesmithError(
            "no token for the hub. Set HF_TOKEN to one that may write, or store it with `hf auth login`."
        )
    if not re.fullmatch(r"[!-~]+", token):  # the library would quote it in its complaint
        raise TunesmithError("the token for the hub holds characters that no token has. Copy it into HF_TOKEN anew.")
    return HfApi(token=token, library_name="tunesmith", library_version=__version__)


def open_repository(api: HfApi, repo: str, public: bool, branch: str | None) -> Repository:
    """The repository, made if it is not there, and its branch.

    Raises:
        TunesmithError: everybody can see it and that was not asked for, or it holds another model.
    """
    api.create_repo(repo, private=not public, exist_ok=True)
    info = api.model_info(repo)
    if not info.private and not public:
        raise TunesmithError(f"{repo} is public. Add --public to publish there, or choose another name.")
    if branch is not None:
        api.create_branch(repo, branch=branch, exist_ok=True)
        info = api.model_info(repo, revision=branch)
    names = [file.rfilename for file in info.siblings or ()]
    foreign = [name for name in names if name.endswith((".safetensors", ".bin", ".gguf"))]
    if foreign and CARD not in names:
        raise TunesmithError(f"{repo} holds a model that tunesmith did not push ({foreign[0]}). Choose another name.")
    return Repository(api, repo, branch, info.sha, names, bool(info.private))


def attempt(api: HfApi, repo: str, work: Callable[[], Any], outcome: Callable[[BaseException], str]) -> Any:
    """Do a piece of the way; if it fails, say why in one sentence and what was pushed in another."""
    try:
        return work()
    except TunesmithError as error:
        raise TunesmithError(f"{error} {outcome(error)}") from None
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted. {outcome(error)}") from None
    except FAILURES as error:
        first = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error  # from its threads
        raise TunesmithError(f"{why(api, repo, first)} {outcome(first)}") from None


def status_of(error: BaseException) -> int | None:
    """The hub's answer that led to an error; None if there was none."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def why(api: HfApi, repo: str, error: BaseException) -> str:
    """What went wrong, and what to do."""
    status, tokens = status_of(error), f"{api.endpoint}/settings/tokens"
    if status == 403:
        return f"{repo}: {why_forbidden(api, repo)}"
    if isinstance(error, RepositoryNotFoundError) or status == 409:
        return f"{repo} is there, but it is not yours: this token may not open it. Choose another name."
    if status == 401:
        return f"{api.endpoint} does not know this token. Make one that may write ({tokens}) and set HF_TOKEN to it."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: cannot be read ({error.strerror})."
    said = " ".join(str(getattr(error, "server_message", None) or error).split())[:200]
    if status is not None:
        return f"{repo}: the hub refused with {status} ({said})."
    if isinstance(error, HTTPError):
        return f"{api.endpoint} cannot be reached ({said}). Check the connection and HF_ENDPOINT, then push again."
    return f"{repo}: the upload failed ({said}). Push again."


def why_forbidden(api: HfApi, repo: str) -> str:
    """Why the hub said no, by asking it whose the token is."""
    owner, tokens = repo.partition("/")[0], f"{api.endpoint}/settings/tokens"
    try:
        who = api.whoami()
    except FAILURES:
        who = {}
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        return f"this token may read and not write. Make one that may write: {tokens}."
    names = [f"{one.get('name')}".lower() for one in (who, *who.get("orgs", []))]
    if who and owner.lower() not in names:
        return f"the repository is not yours: {owner} is neither {who.get('name')} nor a group of theirs."
    return f"this token may not write there. Give it write access: {tokens}."


def what_was_published(repository: Repository, error: BaseException) -> str:
    """Whether a commit was made although its answer did not come; the hub's head tells."""
    status = status_of(error)
    if status is not None and status < 500:
        return "Nothing was pushed."
    try:
        head = repository.api.model_info(repository.id, revision=repository.branch).sha
    except FAILURES:
        return f"Whether the commit was made is not known: look at {repository.url}."
    if head == repository.head:
        return "Nothing was pushed."
    return f"The commit was made all the same: {head}."
