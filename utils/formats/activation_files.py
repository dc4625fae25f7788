"""The files of a trait's activations: one tensor per side, sampled neutral tokens, and how they were captured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.experiment import Experiment, TraitFolder, responses_fingerprint
from utils.formats.files import read_json, sha256_of_file, write_json
from utils.records import POLARITIES, ActivationsInfo, Polarity, Response, TraitDefinition

if TYPE_CHECKING:
    from torch import Tensor

TENSOR = "activations"
_STAGE = 2
_METADATA = "metadata.json"
_FINGERPRINTS = "files_sha256"
# Squares of such numbers, summed over a state, are beyond float32. States of models are millions of times smaller.
_TOO_LARGE = 1e15


def activations_path(folder: TraitFolder, part: str) -> Path:
    """File of one part: a polarity, or "neutral_tokens"."""
    return folder.activations_dir / f"{part}.safetensors"


def write_activations_info(directory: Path, info: ActivationsInfo) -> None:
    """Write the side-car of finished activations into their folder, with the fingerprints of its tensor files."""
    files = {path.name: sha256_of_file(path) for path in sorted(directory.glob("*.safetensors"))}
    write_json(directory / _METADATA, {**asdict(info), _FINGERPRINTS: files})


def read_activations_info(folder: TraitFolder) -> ActivationsInfo:
    """How a trait's activations were captured; their files were found to be whole.

    Raises:
        MissingInputError, DamagedFileError: names the command that makes them.
    """
    path, remedy = folder.activations_dir / _METADATA, folder.command(_STAGE)
    value = read_json(path, remedy)
    names = {f.name for f in fields(ActivationsInfo)}
    missing = sorted(names - set(value)) if isinstance(value, dict) else sorted(names)
    if missing:
        raise DamagedFileError(path, f"lacks {', '.join(missing)}", remedy)
    wrong = _of_wrong_form(value)
    if wrong:
        raise DamagedFileError(path, f"{', '.join(wrong)}: not as this command writes it", remedy)
    _check_files(folder, value.get(_FINGERPRINTS), remedy)
    return ActivationsInfo(**{name: value[name] for name in names})


def _check_files(folder: TraitFolder, fingerprints: object, remedy: str) -> None:
    """Raise where a tensor file is not what was captured; side-cars without fingerprints vouch for nothing."""
    for name, fingerprint in fingerprints.items() if isinstance(fingerprints, dict) else ():
        path = folder.activations_dir / name
        if not path.is_file():
            raise MissingInputError(path, remedy)
        if sha256_of_file(path) != fingerprint:
            raise DamagedFileError(path, f"is not the file that {_METADATA} beside it describes", remedy)


def _of_wrong_form(value: dict[str, Any]) -> list[str]:
    """Keys of the side-car whose values cannot be used."""
    lists = {f"{key}.{part}": rows for key in ("rows", "n_response_tokens") for part, rows in _items(value[key])}
    wrong = [k for k in ("model", "responses_from", "layer_convention", "context") if not isinstance(value[k], str)]
    wrong += [key for key in ("n_layers", "hidden_size", "n_neutral_tokens") if not _is_count(value[key])]
    dicts = ("rows", "n_response_tokens", "texts_sha256", "hook_points")
    wrong += [key for key in dicts if not isinstance(value[key], dict)]
    wrong += [
        key for key, rows in {"layers": value["layers"], **lists}.items()
        if not isinstance(rows, list) or not all(map(_is_count, rows))
    ]  # fmt: skip
    return wrong


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _items(value: object) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, dict) else ()


def responses_folder(folder: TraitFolder, experiment: str) -> TraitFolder:
    """The same trait in the experiment whose responses were read."""
    return Experiment(folder.root.parent.parent, experiment).trait(folder.trait)


def definition_behind(folder: TraitFolder, experiment: str | None) -> TraitDefinition:
    """The trait's definition, or where it has none that of the experiment whose responses were read.

    Raises:
        MissingInputError, DefinitionError: there is none, or it is not one.
    """
    if experiment and not folder.definition_path.is_file():
        folder = responses_folder(folder, experiment)
    return folder.read_definition()


@dataclass(frozen=True)
class ActivationsFile:
    """A trait's captured activations, read layer by layer.

    Attributes:
        info: how they were captured.
        responses: the response behind each row, per polarity.
    """

    folder: TraitFolder
    info: ActivationsInfo
    responses: dict[Polarity, list[Response]]

    def layer(self, polarity: Polarity, layer: int) -> Tensor:
        """Mean activations of one side at one layer: float32 [n, hidden].

        Raises:
            UserError: the layer was not captured.
            DamagedFileError: the file is not what the side-car describes.
        """
        return self._slice(polarity, layer, len(self.responses[polarity]))

    def neutral_tokens(self, layer: int) -> Tensor:
        """States at sampled tokens of neutral responses at one layer: float32 [m, hidden]; m can be 0."""
        return self._slice("neutral_tokens", layer, self.info.n_neutral_tokens)

    def _slice(self, part: str, layer: int, rows: int) -> Tensor:
        import torch
        from safetensors import SafetensorError, safe_open

        if layer not in self.info.layers:
            have = ", ".join(map(str, self.info.layers))
            raise UserError(f"layer {layer} of {self.folder.trait} was not captured (captured: {have}). {self._remedy}")
        path = activations_path(self.folder, part)
        if rows == 0:
            return torch.zeros(0, self.info.hidden_size)
        try:
            with safe_open(path, framework="pt") as file:
                stored = file.get_slice(TENSOR)
                shape = [rows, len(self.info.layers), self.info.hidden_size]
                if list(stored.get_shape()) != shape:
                    problem = f"has shape {list(stored.get_shape())} where the side-car says {shape}"
                    raise DamagedFileError(path, problem, self._remedy)
                values: Tensor = stored[:, self.info.layers.index(layer)].float()
        except (SafetensorError, FileNotFoundError, OSError) as error:
            raise DamagedFileError(path, f"cannot be read ({error})", self._remedy) from error
        if not bool((values.abs() < _TOO_LARGE).all()):
            raise DamagedFileError(path, f"holds NaN, infinity or numbers over 1e15 at layer {layer}", self._remedy)
        return values

    @property
    def _remedy(self) -> str:
        return self.folder.command(_STAGE)


def read_activations(folder: TraitFolder) -> ActivationsFile:
    """A trait's activations with the responses behind them.

    Raises:
        MissingInputError, DamagedFileError: something is missing or damaged; names the command that makes it.
        UserError: the responses' texts have changed since.
    """
    info = read_activations_info(folder)
    source = responses_folder(folder, info.responses_from)
    responses: dict[Polarity, list[Response]] = {}
    for polarity in POLARITIES:
        rows = info.rows.get(polarity, [])
        all_responses = source.read_responses(polarity) if rows else []
        responses[polarity] = [all_responses[i] for i in rows if i < len(all_responses)]
        if responses_fingerprint(responses[polarity]) != info.texts_sha256.get(polarity):
            raise UserError(
                f"{source.responses_path(polarity)} has changed since its activations were captured. "
                f"{folder.command(_STAGE)}{'' if source == folder else f' --responses_from {source.experiment}'}"
            )
    return ActivationsFile(folder, info, responses)


def spread_evenly(total: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices, evenly spread over ``range(total)``.

    >>> spread_evenly(10, 4), spread_evenly(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    if total <= wanted:
        return list(range(total))
    return [i * total // wanted for i in range(wanted)]
