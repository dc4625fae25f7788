"""Verify on your own model what the pipeline relies on: python -m extraction.check_model --model NAME."""

from __future__ import annotations

import logging

from extraction.cli import run_command

logger = logging.getLogger("traitlens")


def check_model(
    model: str,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Check hooks, padding, BOS, system role and the prompt/response seam on a model; a line each.

    Ends with status 1 where one does not hold: then vectors of this model would not mean what they say.

    Args:
        model: Hub id, local folder, or the embedded model's name.
        device: cpu, cuda, cuda:1, mps, or auto to spread the model over all GPUs.
        dtype: float32, float16 or bfloat16; by default the checkpoint's own.
        revision: Hub branch, tag or commit of the model.
        trust_remote_code: run code that comes with the model.
    """
    from extraction.capture.checks import check_loaded
    from utils.errors import UserError
    from utils.models.load import load_model

    loaded = load_model(model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    findings = check_loaded(loaded)
    for finding in findings:
        logger.info("%s %-34s %s", "ok  " if finding.holds else "FAIL", finding.name, finding.seen)
    failed = [finding.name for finding in findings if not finding.holds]
    if failed:
        raise UserError(f"{model}: {len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")


if __name__ == "__main__":
    run_command(check_model)
