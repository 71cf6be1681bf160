"""The page under load: start, first answer, many visitors at once, and requests that make no sense.

python benchmarks/page_load.py runs/demo/model

Every visitor uploads a picture of its own and asks its questions one after the other, in a session of its own, as the
browser does. Memory is the server's resident memory.
"""

import argparse
import io
import itertools
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from vqafusion.command_line import write_json

APP = Path(__file__).parents[1] / "app.py"
QUESTIONS = ("what is this?", "what color is it?", "is there a dog?", "how many are there?", "where is it?")
PARTS = (None, True, -1, 1e308, "", "?" * 5000, "\u0000", [], {}, {"path": "/etc/passwd"}, {"path": None}, [[[[]]]])


class Visitor:
    """One session of the page, spoken to over its HTTP interface."""

    def __init__(self, address, seed):
        self.http, self.session = httpx.Client(base_url=address, timeout=300), f"visitor{seed}"
        functions = self.http.get("/config").json()["dependencies"]
        self.function = next(each["id"] for each in functions if each["api_name"] == "ask")
        pixels = np.random.default_rng(seed).integers(0, 255, (480, 640, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        sent = self.http.post("/gradio_api/upload", files={"files": (f"{seed}.jpg", file.getvalue())})
        self.picture = {"path": sent.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}

    def ask(self, question, heat_map):
        """Seconds and `None`, or seconds and the words with which it was refused."""
        start = time.perf_counter()
        data = [self.picture, question, heat_map, 0.5, [], None]  # an empty conversation; the session keeps the rest
        body = {"data": data, "fn_index": self.function, "session_hash": self.session}
        answer = self.http.post("/gradio_api/queue/join", json=body)
        if answer.status_code != 200:
            return time.perf_counter() - start, f"{answer.status_code} {answer.text[:200]}"
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as events:
            for line in events.iter_lines():
                event = json.loads(line[5:]) if line.startswith("data:") else {}
                if event.get("msg") == "process_completed":
                    refused = None if event["success"] else str(event["output"].get("error"))
                    return time.perf_counter() - start, refused
        return time.perf_counter() - start, "no answer"


def malformed(rng):
    """Path and body of a request that makes no sense."""
    path = rng.choice(["/gradio_api/call/answer", "/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/x"])
    body = {"data": [rng.choice(PARTS) for _ in range(rng.randrange(8))], "fn_index": rng.choice(PARTS)}
    body["session_hash"] = rng.choice(PARTS)
    text = json.dumps(rng.choice([body, body["data"], {**body, "data": rng.choice(PARTS)}, rng.choice(PARTS)])).encode()
    return path, rng.choice([text, text[: rng.randrange(len(text))], rng.randbytes(rng.randrange(2000))])


def memory(process):
    return process.memory_info().rss / 2**20


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--malformed", type=int, default=2000)
    parser.add_argument("--imports", type=int, default=3, help="times that the imports are timed")
    parser.add_argument("--output", default="runs/page_load.json")
    args = parser.parse_args(argv)

    def seconds_of(command):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    result = {}
    for name, imports in (
        ("import_s", "import gradio, transformers"),  # transformers alone, which imports torch only when it is used
        ("import_with_torch_s", "import gradio; from transformers import AutoModel"),
    ):
        result[name] = statistics.median(seconds_of([sys.executable, "-c", imports]) for _ in range(args.imports))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, start = f"http://127.0.0.1:{port}", time.perf_counter()
    server = subprocess.Popen([sys.executable, APP, args.model, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                httpx.get(address).raise_for_status()
                break
            except httpx.TransportError:
                if server.poll() is not None:
                    sys.exit("the page did not start; it says why above")
                time.sleep(0.05)
        result["start_s"] = time.perf_counter() - start
        process = psutil.Process(server.pid)
        config = httpx.get(f"{address}/config").json()
        heat_map = next(c["props"]["value"] for c in config["components"] if c["props"].get("label") == "It shows")
        start = time.perf_counter()
        refused = Visitor(address, 0).ask(QUESTIONS[0], heat_map)[1]
        assert refused is None, refused
        result["first_answer_s"] = time.perf_counter() - start

        held, count = {}, itertools.count(1)

        def visit(seed):
            visitor = Visitor(address, seed)
            asked = []
            for number in range(args.questions):
                asked.append(visitor.ask(QUESTIONS[number % len(QUESTIONS)], heat_map))
                if (done := next(count)) % 100 == 0:
                    held[done] = round(memory(process))
            return asked

        with ThreadPoolExecutor(args.visitors) as visitors:
            start = time.perf_counter()
            asked = [one for visitor in visitors.map(visit, range(1, args.visitors + 1)) for one in visitor]
        answered = sorted(seconds for seconds, refused in asked if refused is None)
        result["load"] = {
            "requests": len(asked), "answered": len(answered),
            "refused": sorted({refused for _, refused in asked if refused}),
            "per_second": len(asked) / (time.perf_counter() - start),
            "median_s": statistics.median(answered), "p95_s": answered[int(0.95 * len(answered))],
            "memory_mib_after_requests": held,
        }  # fmt: skip
        print(json.dumps(result, indent=1), flush=True)
        rng, codes = random.Random(0), {}
        for _ in range(args.malformed):
            path, body = malformed(rng)
            try:
                code = httpx.post(
                    address + path, content=body, headers={"Content-Type": "application/json"}
                ).status_code
            except httpx.TransportError:
                code = "closed"
            codes[code] = codes.get(code, 0) + 1
        result["malformed"] = codes
        refused = Visitor(address, 1).ask(QUESTIONS[0], heat_map)[1]
        result["answers_after_that"] = refused is None
        result["memory_mib_at_the_end"] = round(memory(process))
    finally:
        server.terminate()
        server.wait(30)
    print(json.dumps(result, indent=1))
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, result)


if __name__ == "__main__":
    main()
