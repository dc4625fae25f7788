"""What stage 2 is asked for."""

from dataclasses import dataclass

from extraction.cli import check_range
from extraction.settings import LoadingSettings, TraitsSettings
from utils.records import Context, StoredDtype


@dataclass(frozen=True)
class Settings(TraitsSettings, LoadingSettings):
    """Capture each response's mean activation at every layer.

    Needs the responses of stage 1. Writes experiments/EXPERIMENT/TRAIT/activations/, and
    experiments/EXPERIMENT/everyday/ for text that all traits share: the experiment's own, or the starter corpus's. An
    interrupted run continues where it stopped. Several processes split the work: torchrun --nproc_per_node N
    extraction/2_extract_activations.py ...

    Args:
        experiment: name of the experiment.
        trait: one trait.
        traits: several traits, separated by commas; by default every trait that has responses.
        model: Hub id or local folder of the model that reads; by default the one that generated.
        responses_from: read the responses of this experiment instead, for the same traits.
        context: what the model reads before a response: the question alone, or "full" for the trait instruction too.
        layers: layer numbers, separated by commas; by default all. 0 is the embedding, L leaves block L-1.
        threshold: leave out responses whose score does not confirm their side; by default all are read.
        batch_size: at most this many responses at once.
        batch_tokens: at most this many tokens at once, padding included.
        neutral_tokens: keep this many single token states of neutral responses, for the
            thresholds by which tokens are tinted.
        store_dtype: precision of the files; by default float16, or bfloat16 for a model whose activations need its
            range.
        device: cpu, cuda, cuda:1, mps, or auto to spread the model over all GPUs.
        dtype: float32, float16 or bfloat16; by default the checkpoint's own.
        revision: Hub branch, tag or commit of the model.
        trust_remote_code: run code that comes with the model.
        overwrite: capture anew even where the same capture is there.
        experiments_dir: folder of the experiments.
    """

    model: str | None = None
    responses_from: str | None = None
    context: Context = "question"
    layers: list[int] | None = None
    threshold: float | None = None
    batch_size: int = 64
    batch_tokens: int = 4096
    neutral_tokens: int = 400
    store_dtype: StoredDtype | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_range("batch_size", self.batch_size, 1)
        check_range("batch_tokens", self.batch_tokens, 1)
        check_range("neutral_tokens", self.neutral_tokens, 0)
        check_range("threshold", self.threshold, 0, 100)
