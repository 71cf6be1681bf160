"""
Python commands in processes of their own, forked from one that has loaded the large libraries already: to load them
takes longer than most commands do. What reads its settings from the environment when it is imported (huggingface_hub,
transformers, datasets) is left to each command.
"""

import json
import os
import runpy
import signal
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


def run(command, cwd, env=None, timeout=300):
    """
    As `subprocess.run(command, …, capture_output=True, text=True, stdin=DEVNULL)`, of a script or of a module (`-m`)
    in this interpreter; another one, or other options of it, get a new process.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds.
    """
    command, env = [str(part) for part in command], dict(os.environ if env is None else env)
    if command[0] != sys.executable or command[1].startswith("-") and command[1] != "-m":
        return subprocess.run(
            command, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder, name) for name in ("stdout", "stderr")]
        request = {"command": command[1:], "cwd": str(cwd), "env": env, "printed": [*map(str, printed)]}
        server = _server()
        server.stdin.write(json.dumps(request | {"timeout": timeout}) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        if code == -signal.SIGALRM:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, code, *(file.read_text() for file in printed))


@cache
def _server():
    """It ends with the tests, when nobody can ask it any more."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _serve():
    """Fork for each line on stdin, and write the exit code; returns, once in each fork, what it is to do."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def _become(command, cwd, env, printed, timeout):
    """Turn this process into what a shell would have started; a signal ends it when the time is over."""
    signal.alarm(timeout)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for descriptor, file in enumerate([os.devnull, *printed]):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), descriptor)
    if command[0] == "-m":
        sys.path[0], sys.argv = cwd, command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(command[0]).parent), command
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    for name in LOADED:
        import_module(name)
    _become(**_serve())
