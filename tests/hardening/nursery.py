"""A process that has imported everything and runs commands in forks of itself: real processes to kill, started at once.

``Nursery`` is the test's side; run as a program, this file is the other. ``run_command`` stands in for ``subprocess.run``.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    1: "extraction/1_generate_responses.py", 2: "extraction/2_extract_activations.py",
    3: "extraction/3_extract_vectors.py", "dynamics": "experiments/examples/run_dynamics.py",
    "export": "extraction/extraction/export.py",
}  # fmt: skip
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# What the stages import when they come to it.
_IMPORTED_LATE = (
    "accelerate", "extraction.generate.stage", "extraction.capture.stage", "extraction.fit.stage", "filelock", "fire", "matplotlib.pyplot", "openai", "pandas",
    "matplotlib.backends.backend_svg", "safetensors.torch", "sklearn.linear_model", "sklearn.decomposition", "transformers.convert_slow_tokenizer",
    "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama", "utils.judges.local",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit status (negative for a signal), what it wrote to each stream, and after how many seconds."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def said(self):
        return self.out + self.err

    @property
    def last_line(self):
        return self.said.rstrip().rsplit("\n", 1)[-1]


class Nursery:
    """Runs commands in children that have everything imported.

    Args:
        folder: where commands run that name no other.
        environment: variables to set, or with None to remove.
    """

    def __init__(self, folder, environment=None):
        keys = {"OPENAI_API_KEY": None, "ANTHROPIC_API_KEY": None, "WORLD_SIZE": None, "HF_HUB_OFFLINE": "1"}
        changes = {**ONE_THREAD, "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", **keys}
        merged = {**os.environ, **changes, **(environment or {})}
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={name: value for name, value in merged.items() if value is not None},
        )  # fmt: skip
        self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        assert line, "the nursery has died"
        return json.loads(line)

    def _ask(self, **request):
        self._process.stdin.write((json.dumps(request) + "\n").encode())
        self._process.stdin.flush()
        return self._answer()

    def start(self, stage, *arguments, **options):
        """Begin a stage or another of ``SCRIPTS``; returns its process id."""
        return self.start_python(ROOT / SCRIPTS[stage], *arguments, **options)

    def start_python(self, *arguments, file_limit=None, folder=None, environment=None):
        """Begin what ``python *arguments`` would, a script or ``-m`` and a module; returns its process id.

        Args:
            file_limit: bytes, for every file that it writes.
            folder: where it runs.
            environment: variables to set, or with None to remove, that it reads after its imports.
        """
        return self._ask(
            argv=[*map(str, arguments)],
            file_limit=file_limit,
            folder=folder and str(folder),
            environment=environment or {},
        )

    def end(self, pid, send=None, after=0.0):
        """Wait for a command's end, sending it a signal ``after`` seconds from its start."""
        return Ended(**self._ask(wait=pid, send=send, after=after))

    def run(self, stage, *arguments, send=None, after=0.0, **options):
        return self.end(self.start(stage, *arguments, **options), send, after)

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@functools.cache
def shared_nursery():
    """The one that all tests of a process share which do not ask for an environment of their own."""
    folder = tempfile.TemporaryDirectory(prefix="nursery-")
    nursery = Nursery(folder.name)
    atexit.register(lambda: (nursery.close(), folder.cleanup()))
    return nursery


def run_command(*arguments, folder, **environment):
    """What ``subprocess.run`` gives of ``python *arguments``, without the seconds that a start and its imports take.

    What a command does before and while it imports is not tested by this: of every command some test starts a process.
    """
    nursery = shared_nursery()
    ended = nursery.end(nursery.start_python(*arguments, folder=folder, environment=environment))
    return subprocess.CompletedProcess(arguments, ended.status, ended.out, ended.err)


def _serve():
    import torch

    for name in _IMPORTED_LATE:
        importlib.import_module(name)
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, all that was imported: most of a second for each
    children = {}
    _say("ready")
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if "argv" in request:
            streams = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115 - live until the child has ended
            began = time.monotonic()
            pid = os.fork()
            if pid == 0:
                _be_the_command(streams, **request)
            children[pid] = (streams, began)
            _say(pid)
        else:
            _say(_ended(request["wait"], *children.pop(request["wait"]), request["send"], request["after"]))


def _ended(pid, streams, began, send, after):
    if send is not None:
        time.sleep(max(0.0, began + after - time.monotonic()))
        os.kill(pid, send)  # a child that has ended waits to be reaped: its number is not another's yet
    _, status = os.waitpid(pid, 0)
    seconds = time.monotonic() - began
    out, err = map(_read, streams)
    return {"status": os.waitstatus_to_exitcode(status), "out": out, "err": err, "seconds": seconds}


def _read(stream):
    with stream:
        stream.seek(0)
        return stream.read().decode("utf-8", "replace")


def _be_the_command(streams, argv, file_limit, folder, environment):
    status = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream.fileno(), number)
        if folder is not None:
            os.chdir(folder)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        arguments = [os.fsdecode(argument.encode()) for argument in argv]  # as the system hands them over
        is_module = arguments[0] == "-m"
        sys.argv = arguments[1:] if is_module else arguments
        sys.path[0] = str(Path.cwd() if is_module else Path(arguments[0]).parent)
        (runpy.run_module if is_module else runpy.run_path)(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        status = 130  # before the command had begun
    except BaseException:  # noqa: BLE001 - what escapes a command is what tests look for
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
