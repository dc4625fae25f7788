"""Stage 3: fit trait vectors and measure them on responses that they have not seen."""

from extraction.cli import run_command
from extraction.fit.settings import Settings


def extract_vectors(settings: Settings) -> None:
    """Fit the vectors of the chosen traits, and measure them."""
    from extraction.fit.stage import run

    run(settings)


if __name__ == "__main__":
    run_command(extract_vectors)
