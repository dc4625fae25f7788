"""Stage 1: generate positive, negative and neutral responses for traits, and judge them."""

from extraction.cli import run_command
from extraction.generate.settings import Settings


def generate_responses(settings: Settings) -> None:
    """Generate and judge the responses of the chosen traits."""
    from extraction.generate.stage import run

    run(settings)


if __name__ == "__main__":
    run_command(generate_responses, splits=True)
