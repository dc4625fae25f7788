"""Bundles of vectors on the Hugging Face Hub: addresses, and downloads pinned to a revision."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from utils.chat.http_client import library_of
from utils.config import get_credential, load_credentials, without_keys
from utils.errors import UserError

logger = logging.getLogger(__name__)

_SCHEME = "hf://"
_ADDRESS = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[^/@\s]+))?(/(?P<trait>[^/@]+?)(\.safetensors)?)?/?"
)


@dataclass(frozen=True)
class HubAddress:
    """A trait's bundle in a Hub repository, at a branch, tag or commit; None means the default branch."""

    repo: str
    trait: str
    revision: str | None

    def at(self, commit: str) -> str:
        """The same address pinned to a commit."""
        return f"{_SCHEME}{self.repo}@{commit}/{self.trait}"


def is_hub_address(source: str | Path) -> bool:
    """Whether ``source`` is written as a Hub address."""
    return isinstance(source, str) and source.startswith(_SCHEME)


def parse_hub_address(text: str, trait: str | None = None) -> HubAddress:
    """The parts of ``hf://org/repo[@revision][/trait]``; ``trait`` may be given apart.

    As elsewhere on the Hub, a "/" in a branch's name is written %2F.

    Raises:
        UserError: it has another form, or no trait.

    >>> parse_hub_address("hf://org/repo@v1/evil")
    HubAddress(repo='org/repo', trait='evil', revision='v1')
    """
    match = _ADDRESS.fullmatch(text)
    named = match["trait"] if match else None
    if match is None or (named or trait) is None or (named and trait and named != trait):
        problem = f"names the trait {named!r} where {trait!r} is asked for" if match and named else "is not complete"
        raise UserError(f"the address {text!r} {problem}: write hf://org/repo/trait or hf://org/repo@revision/trait")
    revision = match["revision"]
    return HubAddress(match["repo"], str(named or trait), revision.replace("%2F", "/") if revision else None)


def hub_errors() -> tuple[type[Exception], ...]:
    """What a download can end in.

    Besides what the Hub's client raises by itself, what it lets through: a connection that is cut, and a proxy or an
    address in the environment that cannot be used.
    """
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    library = library_of(HfHubHTTPError)
    return (OSError, ValueError, ImportError, EntryNotFoundError, library.HTTPError, library.InvalidURL)


def download_bundle(address: HubAddress) -> tuple[Path, str]:
    """The bundle's file in the local Hub cache, fetched where it is not there, and the commit that it is of.

    Raises:
        UserError: it cannot be had; says what to look at.
    """
    from huggingface_hub import hf_hub_download

    if get_credential("HF_TOKEN") is None:
        load_credentials()
    name = f"{address.trait}.safetensors"
    try:
        path = Path(hf_hub_download(address.repo, name, revision=address.revision, token=get_credential("HF_TOKEN")))
    except hub_errors() as error:
        reason = without_keys((str(error).strip() or type(error).__name__).split("\n")[0].rstrip("."))
        at = f" at {address.revision}" if address.revision else ""
        raise UserError(
            f"cannot get {name} of {address.repo}{at}: {reason}. Check the address and the network; a private or gated "
            "repository needs HF_TOKEN in .env"
        ) from error
    commit = path.parent.name  # the cache keeps files as snapshots/COMMIT/FILE
    if address.revision is None:
        logger.info("%s may change: pin what was loaded with %s", address.repo, address.at(commit))
    return path, commit
