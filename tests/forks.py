"""
Python commands in processes of their own, forked from one that has loaded the large libraries already: to load them
takes longer than most commands do. What reads its settings from the environment when it is imported is loaded for
commands in the environment that most have; others do it themselves.
"""

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path

LOADED = (
    "torch", "torch.distributed.tensor", "torch._dynamo", "torch.utils.tensorboard", "scipy.optimize", "scipy.stats",
    "sklearn.metrics", "pandas", "pyarrow.dataset", "matplotlib.figure", "aiohttp", "cv2", "PIL.Image",
)  # fmt: skip
READ_SETTINGS = (
    "datasets", "evaluate", "captum.attr", "transformers.trainer", "transformers.pipelines",
    "transformers.models.auto.modeling_auto", "transformers.models.clip.modeling_clip",
    "transformers.models.clip.image_processing_pil_clip", "transformers.models.distilbert.modeling_distilbert",
)  # fmt: skip


def usual_environment():
    """That of the tests, without the Hub: what a command gets unless it is given another one."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return kept | {"HF_HUB_OFFLINE": "1"}


def run(command, cwd, env=None, timeout=300, processes=1):
    """
    As `subprocess.run(command, …, capture_output=True, text=True, stdin=DEVNULL)`, of a script or of a module (`-m`)
    in this interpreter; another one, or other options of it, get a new process. With several `processes` these are the
    ranks that `torchrun` would start, each of which would load the libraries anew.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds.
    """
    command, env = [str(part) for part in command], dict(usual_environment() if env is None else env)
    if command[0] != sys.executable or command[1].startswith("-") and command[1] != "-m":
        return subprocess.run(
            command, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder, name) for name in ("stdout", "stderr")]
        request = {"command": command[1:], "cwd": str(cwd), "env": env, "printed": [*map(str, printed)]}
        server = _server(env == usual_environment())
        server.stdin.write(json.dumps(request | {"timeout": timeout, "processes": processes}) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        if code == -signal.SIGALRM:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, code, *(file.read_text() for file in printed))


@cache
def _server(usual):
    """It ends with the tests, when nobody can ask it any more."""
    command = [sys.executable, __file__, *(["usual"] if usual else [])]
    return subprocess.Popen(command, env=usual_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _serve():
    """Fork for each line on stdin, and write the exit code; returns, once in each fork, what it is to do."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def _become(command, cwd, env, printed, timeout, processes):
    """Turn this process into what a shell would have started; a signal ends it when the time is over."""
    signal.alarm(timeout)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for descriptor, file in enumerate([os.devnull, *printed]):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), descriptor)
    if processes > 1:
        _become_ranks(processes, timeout)
    if command[0] == "-m":
        sys.path[0], sys.argv = cwd, command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(command[0]).parent), command
        runpy.run_path(command[0], run_name="__main__")


def _become_ranks(processes, timeout):
    """Fork the ranks of a group of processes, in which this returns. The first to fail ends the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    group |= dict.fromkeys(["WORLD_SIZE", "LOCAL_WORLD_SIZE"], str(processes))
    ranks = set()
    for rank in map(str, range(processes)):
        child = os.fork()
        if not child:
            signal.alarm(timeout)
            os.environ.update(group | {"RANK": rank, "LOCAL_RANK": rank})
            return
        ranks.add(child)
    code = 0
    while ranks:
        child, status = os.wait()
        ranks.remove(child)
        if status and not code:
            code = abs(os.waitstatus_to_exitcode(status))
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    os._exit(code)


if __name__ == "__main__":
    for name in [*LOADED, *(READ_SETTINGS if sys.argv[1:] else [])]:
        import_module(name)
    gc.freeze()  # a collection in a fork would write to, and so copy, all that is there already
    _become(**_serve())
