"""Read vectors that were made elsewhere into an experiment.

python -m extraction.import_vectors --experiment my_exp --trait refusal --source refusal.gguf
"""

from extraction.cli import run_command
from extraction.exchange.settings import ImportSettings


def import_vectors(settings: ImportSettings) -> None:
    """Read vectors from a file or from the Hub into an experiment."""
    from extraction.exchange.importing import run

    run(settings)


if __name__ == "__main__":
    run_command(import_vectors)
