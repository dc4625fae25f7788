"""Stage 2: capture the activations of a trait's responses at all layers."""

from extraction.capture.settings import Settings
from extraction.cli import run_command


def extract_activations(settings: Settings) -> None:
    """Capture the activations of the chosen traits' responses."""
    from extraction.capture.stage import run

    run(settings)


if __name__ == "__main__":
    run_command(extract_activations, splits=True)
