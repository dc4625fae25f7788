"""Monitoring results as one HTML file: the viewer with the data inside, to send to someone or to keep.

    python -m extraction.report results.json more_results/ -o report.html

The viewer's Content-Security-Policy names its style and script blocks by hash; ``--seal`` renews them after an edit.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from extraction.cli import run_command
from extraction.monitoring.report import seal_viewer, write_report

logger = logging.getLogger("traitlens")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command: paths anywhere on the line, then the flags of ``report``."""
    paths: list[str] = []
    flags: list[str] = []
    before = ""
    for argument in sys.argv[1:] if argv is None else argv:
        is_flag = argument.startswith("-") or before in ("-o", "--output")
        (flags if is_flag else paths).append(argument)
        before = argument

    def report(output: str = "report.html", seal: bool = False) -> None:
        """Write the viewer with results inside.

        Usage: python -m extraction.report RESULTS.json [MORE.json|FOLDER ...] -o report.html

        Args:
            output: the page to write.
            seal: renew the hashes in visualization.html after editing it, and write no report.
        """
        if seal:
            logger.info("%s", seal_viewer())
        else:
            logger.info("Open in a browser: %s", write_report(paths, Path(output)).resolve())

    run_command(report, flags)


if __name__ == "__main__":
    main()
