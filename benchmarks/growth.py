"""Peak memory of stage 2 against the number of examples, on a tiny random model.

    python benchmarks/growth.py

Each size runs in a process of its own, whose peak resident memory the operating system reports; the size of the file
that it writes stands beside.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from extraction.cli import run_command

from utils.formats.response_files import write_responses


def benchmark(sizes: list[int] | None = None, n: int = 0) -> None:
    """Print peak memory for several numbers of examples.

    Args:
        sizes: numbers of examples; by default 200, 2000 and 20000.
        n: run one capture of this size and print its peak, in this process.
    """
    if n:
        capture(n)
        return
    for size in sizes or [200, 2000, 20000]:
        result = subprocess.run(
            [sys.executable, __file__, "--n", str(size)], capture_output=True, text=True, check=True
        )
        seen = json.loads(result.stdout.splitlines()[-1])
        print(
            f"{size:6d} examples: peak {seen['peak_mib']:7.1f} MiB, anonymous {seen['anonymous_mib']:7.1f} MiB, "
            f"file {seen['file_mib']:6.1f} MiB, {seen['seconds']:.1f} s"
        )


def capture(n: int) -> None:
    """Capture ``n`` short responses with a tiny model and print the process's peak memory as JSON."""
    import time

    from extraction.capture.activations import capture_activations
    from extraction.capture.settings import Settings
    from extraction.distributed import Process

    from tests.conftest import small_model
    from tests.tiny_tokenizer import tiny_tokenizer
    from utils.experiment import Experiment
    from utils.models import LoadedModel
    from utils.records import Response

    loaded = LoadedModel(small_model("llama"), tiny_tokenizer(), "tiny", "tiny", None)
    with tempfile.TemporaryDirectory() as directory:
        folder = Experiment(Path(directory), "growth").trait("trait")
        for side in ("pos", "neg"):
            write_responses(folder, side, [Response(f"q{i % 20}", "", "", f"answer {i}") for i in range(n // 2)])
        began = time.perf_counter()
        capture_activations(folder, folder, loaded, Settings("growth"), Process())
        seconds = time.perf_counter() - began
        size = sum(p.stat().st_size for p in folder.activations_dir.glob("*.safetensors"))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    anonymous = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = {"peak_mib": peak / 1024, "anonymous_mib": anonymous / 1024, "file_mib": size / 2**20, "seconds": seconds}
    print(json.dumps(seen))


if __name__ == "__main__":
    run_command(benchmark)
