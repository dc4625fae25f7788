"""What a checkpoint brings besides its weights: a chat template in a file of its own, and settings of generating."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from utils.config import get_credential
from utils.errors import DamagedFileError
from utils.formats.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_TEMPLATE_FILE = "chat_template.json"  # older image-text repositories have it there, where no tokenizer looks
_TEMPLATE_REMEDY = "It must hold a JSON object with the template as text under 'chat_template'. Mend or remove it"
# What ends a text, and what only says how the pass is made. All else would act on which tokens are drawn.
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "use_cache")
_IGNORED = ("transformers_version", "_from_model_config", "_commit_hash", "max_length", "max_new_tokens")


def set_template_beside(tokenizer: PreTrainedTokenizerBase, path: str, revision: str | None) -> None:
    """Give a tokenizer without a chat template the one in its repository's ``chat_template.json``, where there is one.

    Raises:
        DamagedFileError: the file is there and holds none.
    """
    from transformers.utils import cached_file

    if getattr(tokenizer, "chat_template", None):
        return
    found = cached_file(
        path, _TEMPLATE_FILE, revision=revision, token=get_credential("HF_TOKEN"),
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )  # fmt: skip
    if found is None:
        return
    value = read_json(Path(found), _TEMPLATE_REMEDY)
    template = value.get("chat_template") if isinstance(value, dict) else None
    if not isinstance(template, str) or not template:
        raise DamagedFileError(Path(found), "holds no chat template", _TEMPLATE_REMEDY)
    tokenizer.chat_template = template
    logger.info("chat template of %s", _TEMPLATE_FILE)


def put_aside_generation_defaults(model: PreTrainedModel, name: str) -> None:
    """Empty a model's generation settings but for the tokens that end a text, and say which others there were.

    A checkpoint may forbid tokens, force some, or penalise repetition: then what is sampled would not be the model's
    own distribution, and would differ from model to model.
    """
    from transformers import GenerationConfig

    given = getattr(model, "generation_config", None)
    if given is None:
        return
    plain = GenerationConfig()
    kept = {key: getattr(given, key) for key in _KEPT if getattr(given, key, None) is not None}
    aside = {
        key: value
        for key, value in given.to_dict().items()
        if key not in (*_KEPT, *_IGNORED) and value not in (None, False) and value != getattr(plain, key, None)
    }
    model.generation_config = GenerationConfig(**kept)
    if aside:
        shown = ", ".join(f"{key} {value!r:.40}" for key, value in sorted(aside.items()))
        logger.info("%s: generation settings of the checkpoint that are not applied: %s", name, shown)
