"""Write vectors in the forms of other programs, as one portable file, or as a folder for the Hub.

python -m extraction.export --experiment my_exp --trait refusal --format gguf
"""

import logging

from extraction.cli import run_command
from extraction.exchange.settings import ExportSettings


def export_vectors(settings: ExportSettings) -> None:
    """Write the vectors of an experiment for use elsewhere."""
    from extraction.exchange.exporting import run

    logging.getLogger("gguf").setLevel(logging.WARNING)  # it announces its temporary file
    run(settings)


if __name__ == "__main__":
    run_command(export_vectors)
