"""How the scripts read their arguments and how they say what went wrong."""

import argparse
import atexit
import ctypes
import difflib
import functools
import json
import os
import re
import socket
import sys
import time
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import get_args, get_type_hints

import yaml


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def parse(argv, description, *dataclass_types):
    """
    Dataclasses from a command line that may begin with a recipe: a YAML or JSON file of the same names. Arguments
    after it override it. A recipe's `base` names another one beside it, whose values it takes over or overrides.

    Args:
        argv (`list[str]` or None): None for the process's own.
        description (`str`): what --help begins with.
        dataclass_types: as for `HfArgumentParser`.

    Returns:
        one instance of each dataclass.

    Raises:
        ValueError: a recipe that cannot be read, or has a name that no dataclass knows.
    """
    from transformers.hf_argparser import HfArgumentParser, string_to_bool  # here: importing them takes seconds

    argv = list(sys.argv[1:] if argv is None else argv)
    usage = "%(prog)s [RECIPE.yaml] [--name value …]; --help lists the names"  # there are up to 200
    parser = HfArgumentParser(
        dataclass_types, usage=usage, description=description, formatter_class=_HelpFormatter, allow_abbrev=False
    )
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        file = argv.pop(0)
        recipe = _read_recipe(file)
        actions = {action.dest: action for action in parser._actions}
        hints = {name: hint for each in dataclass_types for name, hint in get_type_hints(each).items()}
        optional = [name for name, hint in hints.items() if type(None) in get_args(hint)]
        unknown = sorted(str(name) for name in recipe if name not in actions)
        if unknown:
            raise ValueError(f"{file} has arguments that do not exist: {', '.join(unknown)}")
        for name, value in recipe.items():
            if value is None and name not in optional:
                raise ValueError(f"{file}: {name} has no value")
            if value is False and name.endswith("_strategy"):
                recipe[name] = "no"  # as was written: YAML takes it for false
            elif value is not None and actions[name].nargs == "+" and not isinstance(value, list):
                recipe[name] = [value]  # else a text would be taken for the list of its letters
            elif value is not None and {type(value), actions[name].type} & {int, float, bool, date, string_to_bool}:
                recipe[name] = str(value)  # which argparse checks and converts as it does what follows
        parser.set_defaults(**recipe)
        for action in parser._actions:
            action.required = action.required and action.dest not in recipe
    known = [name for action in parser._actions for name in action.option_strings]
    for name in (part.partition("=")[0] for part in argv if part.startswith("--")):
        if name not in known:
            alike = "".join(f"; did you mean {other}?" for other in difflib.get_close_matches(name, known, 1))
            raise ValueError(f"there is no argument {name}{alike}")
    try:
        return parser.parse_args_into_dataclasses(argv)
    except (TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        # transformers checks few of the values, such as the JSON of --deepspeed, before it uses them.
        raise ValueError(f"the arguments do not make sense together: {error}") from None


class _EachNameOnce(yaml.SafeLoader):
    """Of a name that stands twice in a recipe PyYAML silently takes the last one."""

    def construct_mapping(self, node, deep=False):
        names = [name.value for name, _ in node.value]
        if twice := {name for name in names if names.count(name) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"{min(twice)} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_recipe(file, is_base=False):
    try:
        recipe = yaml.load(Path(file).read_text(encoding="utf-8-sig"), _EachNameOnce)  # JSON is YAML
    except FileNotFoundError:
        raise ValueError(f"there is no recipe {file}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"{file} must hold names and values")
    base = recipe.pop("base", None)
    if base is None:
        return recipe
    if not isinstance(base, str):
        raise ValueError(f"{file}: base must be the name of another recipe, not {base!r}")
    if is_base:
        raise ValueError(f"{file} is a base of another recipe, so it can have no base itself")
    return {**_read_recipe(Path(file).parent / base, is_base=True), **recipe}


def one_line_errors(main):
    """Make a script's `main` end with one line and exit code 2, not a traceback, where the input is at fault."""

    @functools.wraps(main)
    def guarded(argv=None):
        own = argv is None  # the process is this script's own
        if own:
            for stream in (sys.stdout, sys.stderr):  # which cannot write all signs, as a pipe on Windows
                with suppress(AttributeError):  # not a file's, as in a notebook
                    stream.reconfigure(errors="backslashreplace")
        try:
            result = main(argv)
            if own:
                _leave_group()
            return None if own else result  # an installed command takes what `main` returns for its exit code
        except (ValueError, OSError) as error:
            text = str(error).strip()
            if text.startswith("Caught "):  # in a DataLoader's worker: its message is a traceback
                text = text.splitlines()[-1].partition(": ")[2]
            print("error:", " ".join(text.split()), file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    return guarded


def _leave_group():
    """
    Where several processes ran, end this one at once. What they talk through has threads of its own, and in one of 30
    runs or so (gloo, on a CPU) these crash a process that takes its leave, with `destroy_process_group` or without.
    """
    distributed = getattr(sys.modules.get("torch"), "distributed", None)  # nothing here is worth importing torch for
    if distributed and distributed.is_available() and distributed.is_initialized():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def writable_folder(folder):
    """Make the folder before hours of work that would end in it; `OSError` names it if that cannot be done."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process of the same run may have been faster
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}") from None
    return folder


@contextmanager
def locked(folder, instead):
    """
    Keep other processes out of a folder.

    Args:
        folder (`Path`): there already; gets a file `.lock`, and loses it again.
        instead (`str`): what those who find it locked can do but wait.

    Raises:
        ValueError: another process, or another run of this one, is at work in it.
    """
    from filelock import FileLock, Timeout  # here, since most commands need none, and it takes longer than their --help

    file = folder / ".lock"
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(f"another run is writing to {folder}: wait for it, or {instead}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            file.unlink()
        lock.release()


@contextmanager
def whole_file(path):
    """A temporary path beside `path`, which takes its name if the block ends well: a file is whole or not there."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.writing.{socket.gethostname()}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_orphans(folder):
    """
    Delete the temporary files of [`whole_file`] whose process was killed; those a day old where that cannot be asked:
    of other machines, and on Windows, where asking would send Ctrl-C.
    """
    for file in Path(folder).glob(".*"):
        name = re.fullmatch(r"\..+\.writing\.(.+)\.(\d+)(\.[a-z]+)?", file.name)  # host, process
        if not name or not file.is_file():
            continue
        if name[1] == socket.gethostname() and os.name != "nt":
            orphan = not _is_running(int(name[2]))
        else:
            orphan = time.time() - file.stat().st_mtime > 24 * 3600
        if orphan:
            file.unlink(missing_ok=True)


def _is_running(process):
    try:
        with suppress(PermissionError):  # somebody else's, but there
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def write_json(file, data):
    """Write `data` as a JSON file that is whole or not there."""
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")


def read_json(file):
    """What a JSON file holds; `OSError` or `ValueError`, which names the file, if it cannot be read."""
    try:
        return json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from None


def keep_freed_memory():
    """
    Ask glibc to keep large freed blocks instead of giving them back to the kernel, which would have to clear them
    again for the next batch: a sixth of the time of a convolutional encoder on a CPU. Does nothing elsewhere.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory():
    """The most memory that this process has held so far, in GiB; None where the system does not tell."""
    if sys.platform == "linux":  # where getrusage's figure begins with that of the process that started this one
        status = Path("/proc/self/status").read_text()
        return round(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20, 2)
    if sys.platform == "darwin":
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30, 2)
    return None
