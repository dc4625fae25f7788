"""A long search for crashes of the readers, guided by which lines an input reaches.

    pip install -e ".[fuzz]"
    python -m tests.hardening.fuzz --minutes 60

Every reader gets its share of the time twice: on bytes, beginning with the corpus of hostile inputs, and on whole inputs
spoiled as ``inputs`` does. Inputs that crash are written to the folder --found, and the status is 1.
"""

import argparse
import logging
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

logger = logging.getLogger("fuzz")
MODES = ("bytes", "whole")
LONGEST = 4096  # bytes of an input
READERS = sorted(path.stem for path in (Path(__file__).parent / "hostile").glob("*.jsonl"))


def search(reader: str, mode: str, seconds: int, found: Path) -> None:
    """Feed one reader; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["utils", "extraction", "traitlens"]):  # must be their first import
        from .readers import outcome
    from hypothesis import HealthCheck, given, settings

    from .inputs import inputs

    count, crashes = 0, set()

    def tried(data):
        nonlocal count
        count += 1
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outcome(reader, Path(folder), data)
            except Exception as error:  # noqa: BLE001 - whatever it is: it is what the search is for
                _keep(error, data, crashes, found / f"{reader}.{mode}")
        if count % 100 == 0:
            found.joinpath(f"{reader}.{mode}.count").write_text(str(count))

    spoiled = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))(
        given(inputs(reader))(tried)
    )
    with tempfile.TemporaryDirectory() as corpus:
        for i, data in enumerate(_beginnings(reader, mode)):
            Path(corpus, str(i)).write_bytes(data)
        limits = [
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST}",
            "-timeout=60",
            "-report_slow_units=60",
            "-rss_limit_mb=4000",
        ]
        atheris.Setup(
            ["fuzz", corpus, *limits, f"-artifact_prefix={found}/{reader}.{mode}."],
            tried if mode == "bytes" else spoiled.hypothesis.fuzz_one_input,
        )
        atheris.Fuzz()


def _keep(error: Exception, data: bytes, crashes: set, path: Path) -> None:
    """Write an input that crashed at a place where none did before."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    place = (type(error).__name__, trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    if place not in crashes:
        crashes.add(place)
        path.with_name(f"{path.name}.crash-{len(crashes)}").write_bytes(data)
        logger.error("%s: %s at %s:%d", path.name, *place)


def _beginnings(reader: str, mode: str) -> list[bytes]:
    from .hostile.generate import read
    from .test_hostile import CORPUS

    if mode == "bytes":
        return [data for entry in CORPUS[reader] if len(data := read(entry)) <= LONGEST]
    generator = random.Random(reader)
    return [generator.randbytes(generator.choice([64, 256, 1024])) for _ in range(150)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--readers", nargs="*", choices=READERS, default=READERS)
    parser.add_argument("--found", type=Path, default=Path("fuzz_found"))
    parser.add_argument("--one", nargs=2, metavar=("MODE", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = arguments.found.resolve()
    if arguments.one:
        search(arguments.readers[0], arguments.one[0], int(arguments.one[1]), found)
    found.mkdir(parents=True, exist_ok=True)
    share = max(1, round(60 * arguments.minutes / len(arguments.readers) / len(MODES)))
    for reader in arguments.readers:
        for mode in MODES:
            one = ["--one", mode, str(share), "--found", str(found), "--readers", reader]
            ended = subprocess.run(
                [sys.executable, "-m", "tests.hardening.fuzz", *one],
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            counts = found / f"{reader}.{mode}.count"
            said = [line for line in ended.stderr.splitlines() if line.startswith(reader)]
            logger.info("%s, %s: %s inputs", reader, mode, counts.read_text() if counts.is_file() else "under 100")
            for line in said if ended.returncode == 0 else [*said, *ended.stderr.splitlines()[-5:]]:
                logger.info("  %s", line)
    crashed = sorted(p.name for p in found.iterdir() if p.suffix != ".count")
    sys.exit(f"{len(crashed)} inputs crashed, in {found}: {', '.join(crashed)}" if crashed else 0)


if __name__ == "__main__":
    main()
