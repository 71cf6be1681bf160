"""vqafusion-data against a real server on loopback that cuts connections, lies, and fails."""

import io
import json
import random
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from commands import ROOT
from toy_data import draw, encoded, write_vqa_v2

from vqafusion.command_line import locked
from vqafusion.data_prep import DataError, download, load_split

QUESTIONS, ANNOTATIONS, IMAGES = download.SPLITS["val2014"]
MET_BY_HEAD = ("absent", "busy", "no size", "moved")  # faults that also meet who only asks how large a file is


class Server:
    """The three files of val2014; `faults[name]` is a list of what to do at the next requests of a name."""

    def __init__(self, files):
        self.files, self.faults, self.sent, self.ranges = files, {}, 0, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(head=True)

            def do_GET(self):
                self.answer(head=False)

            def answer(self, head):
                name = self.path.rsplit("/", 1)[-1]
                faults = outer.faults.get(name, [])
                fault = faults.pop(0) if faults and (not head or faults[0] in MET_BY_HEAD) else None
                data = outer.files.get(name)
                if data is None or fault in ("absent", "busy", 500, 404):
                    self.send_response(fault if isinstance(fault, int) else 503 if fault == "busy" else 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault == "moved":
                    self.send_response(302)
                    self.send_header("Location", f"/elsewhere/{name}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault == "flipped":
                    data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
                if fault == "of train2014":
                    data = data.replace(b"val2014_questions.json", b"trn2014_questions.json")
                if fault == "page":
                    data = b"<html>Sign in to this network</html>"
                if fault == "wrong":
                    data = b"x" * len(data)
                start = 0
                if not head and (wanted := self.headers.get("Range")):
                    outer.ranges.append(wanted)
                    start = int(wanted.removeprefix("bytes=").rstrip("-"))
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                if fault != "no size":
                    self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                if not head:
                    body = data[start:] if fault != "cut" else data[start : start + (len(data) - start) // 2]
                    outer.sent += len(body)
                    self.wfile.write(body)
                    self.wfile.flush()
                    self.close_connection = fault == "cut"

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/files"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 8)  # and undone afterwards
    monkeypatch.setattr(download, "CHUNK", 8)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(download, "_gigabytes", "{} bytes".format)  # of which a gigabyte has too many for a test
    made = write_vqa_v2(tmp_path / "made", split="val2014")
    files = {
        QUESTIONS: zipped({"v2_OpenEnded_mscoco_val2014_questions.json": None}, made),
        ANNOTATIONS: zipped({"v2_mscoco_val2014_annotations.json": None}, made),
        IMAGES: zipped({f"val2014/{file.name}": None for file in (made / "val2014").iterdir()}, made),
    }
    running = Server(files)
    yield running
    running.server.shutdown()


def zipped(members, folder):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, (folder / name).read_bytes() if data is None else data)
    return buffer.getvalue()


def fetch(server, folder, *more):
    arguments = [str(folder), "--splits", "val2014", "--vqa_url", server.address, "--coco_url", server.address]
    download.main([*arguments, *more])


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_lists_fetches_unpacks_and_then_does_nothing(server, tmp_path, capsys):
    folder = tmp_path / "data"
    fetch(server, folder, "--dry_run")
    listed = capsys.readouterr().out
    total = sum(map(len, server.files.values()))
    assert all(name in listed for name in server.files) and f" {total} bytes  to fetch" in listed
    assert server.sent == 0 and not folder.exists()
    fetch(server, folder)
    assert server.sent == total and names(folder) == sorted([QUESTIONS, ANNOTATIONS, "val2014"])
    rows = load_split("vqa_v2", "val2014", folder)
    assert len(rows) == 6 and rows[0]["image"].size == (48, 41)
    fetch(server, folder)
    assert server.sent == total and "all there" in capsys.readouterr().out


def test_sizes_are_told_in_gigabytes():
    assert download._gigabytes(13_510_573_713) == "13.511 GB"  # train2014.zip


def test_images_may_be_left_out_and_their_zips_kept(server, tmp_path):
    fetch(server, tmp_path / "data", "--no_images")
    assert names(tmp_path / "data") == sorted([QUESTIONS, ANNOTATIONS])
    fetch(server, tmp_path / "data", "--keep_zips")
    assert names(tmp_path / "data") == sorted([QUESTIONS, ANNOTATIONS, IMAGES, "val2014"])


def test_cut_connections_are_resumed(server, tmp_path):
    server.faults = {IMAGES: ["cut", "cut"], QUESTIONS: ["cut"]}
    fetch(server, tmp_path / "data")
    assert len(server.ranges) == 3
    assert server.sent - sum(map(len, server.files.values())) < 3 * 8  # what a cut chunk had already brought
    assert len(load_split("vqa_v2", "val2014", tmp_path / "data")) == 6


def test_an_interrupted_call_goes_on_where_it_was(server, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / f"{IMAGES}.part").write_bytes(server.files[IMAGES][:1500])
    (folder / f"{QUESTIONS}.part").write_bytes(bytes(10_000))  # of an older, larger version
    (folder / ".val2014.part" / "val2014").mkdir(parents=True)
    (folder / ".val2014.part" / "val2014" / f"COCO_val2014_{1:012d}.jpg").write_bytes(b"half")
    fetch(server, folder)
    assert server.ranges == ["bytes=1500-"]
    assert names(folder) == sorted([QUESTIONS, ANNOTATIONS, "val2014"])
    assert load_split("vqa_v2", "val2014", folder)[0]["image"].size == (48, 41)


def test_a_large_file_comes_through_short_connections(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10 << 20)  # the library's own; undone
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "noise").write_bytes(random.Random(0).randbytes(2 << 20))
    served = Server({IMAGES: zipped({"noise": None}, tmp_path)})
    served.faults = {IMAGES: ["cut"] * 3}
    download.fetch(f"{served.address}/{IMAGES}", tmp_path / IMAGES, len(served.files[IMAGES]))
    served.server.shutdown()
    assert len(served.ranges) == 3 and (tmp_path / IMAGES).read_bytes() == served.files[IMAGES]


def test_what_is_there_is_looked_into(server, tmp_path, capsys):
    folder = tmp_path / "data"
    (folder / "val2014").mkdir(parents=True)
    (folder / QUESTIONS).write_bytes(server.files[QUESTIONS][:-100])
    (folder / "val2014" / "a.txt").touch()
    with pytest.raises(SystemExit):
        fetch(server, folder)
    assert "holds other things" in capsys.readouterr().err
    (folder / "val2014" / "a.txt").unlink()
    fetch(server, folder)
    assert len(load_split("vqa_v2", "val2014", folder)) == 6
    for name in (QUESTIONS, ANNOTATIONS):  # as one who unpacks them and throws the zips away
        with zipfile.ZipFile(folder / name) as archive:
            archive.extractall(folder)
        (folder / name).unlink()
    sent = server.sent
    fetch(server, folder)
    assert server.sent == sent and len(load_split("vqa_v2", "val2014", folder)) == 6


def test_a_zip_that_is_there_is_unpacked_not_fetched(server, tmp_path, capsys):
    (tmp_path / IMAGES).write_bytes(server.files[IMAGES])
    server.faults = {IMAGES: ["absent"] * 9}
    fetch(server, tmp_path, "--dry_run")
    told = capsys.readouterr().out
    others = len(server.files[QUESTIONS]) + len(server.files[ANNOTATIONS])
    assert f"{IMAGES}, to be unpacked" in told and f" {others} bytes  to fetch" in told
    fetch(server, tmp_path)
    assert server.sent == others and len(load_split("vqa_v2", "val2014", tmp_path)) == 6


def test_what_is_fetched_whole_is_not_fetched_again(server, tmp_path, monkeypatch):
    whole = server.files[IMAGES]
    (tmp_path / f"{IMAGES}.part").write_bytes(whole)  # of a call that ended before it could be renamed
    fetch(server, tmp_path)
    assert server.sent == len(server.files[QUESTIONS]) + len(server.files[ANNOTATIONS])
    (tmp_path / IMAGES).write_bytes(whole)  # there it needs no room but that of its pictures
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": len(whole)}))
    download._check_space(tmp_path, {IMAGES: len(whole)}, keep_zips=False)


def test_a_mirror_may_send_on_to_another_address(server, tmp_path):
    server.faults = {QUESTIONS: ["moved", "moved"]}  # who asks for the size, and who fetches
    fetch(server, tmp_path / "data", "--no_images")
    assert server.faults == {QUESTIONS: []} and names(tmp_path / "data") == sorted([QUESTIONS, ANNOTATIONS])


def test_a_server_that_names_no_size_is_refused(server, tmp_path, capsys):
    server.faults = {QUESTIONS: ["no size"]}
    with pytest.raises(SystemExit) as stop:
        fetch(server, tmp_path)
    assert stop.value.code == 2 and f"{QUESTIONS} does not say how large it is" in capsys.readouterr().err


def test_a_folder_that_lacks_images_is_not_all_there(server, tmp_path, capsys):
    fetch(server, tmp_path)
    lost = min((tmp_path / "val2014").iterdir())
    lost.unlink()
    with pytest.raises(SystemExit) as stop:
        fetch(server, tmp_path)
    assert stop.value.code == 2 and f"lacks 1 of the images that are asked about, such as {lost.name}" in (
        capsys.readouterr().err
    )
    fetch(server, tmp_path, "--no_images")
    assert "all there" in capsys.readouterr().out


def test_one_call_at_a_time_writes_to_a_folder(server, tmp_path, capsys):
    with locked(tmp_path, "leave it"), pytest.raises(SystemExit) as stop:
        fetch(server, tmp_path)
    assert stop.value.code == 2 and "another run is writing to" in capsys.readouterr().err
    assert not (tmp_path / QUESTIONS).exists()


def test_a_failing_server_is_tried_again(server, tmp_path):
    server.faults = {QUESTIONS: [500, 429], IMAGES: ["busy", "busy"]}
    fetch(server, tmp_path / "data")
    assert (tmp_path / "data" / QUESTIONS).exists() and not server.faults[IMAGES]


@pytest.mark.parametrize(
    "faults,words,left",
    [
        ({QUESTIONS: [500] * 9}, "answered 500", [f"{QUESTIONS}.part"]),
        ({QUESTIONS: ["absent"]}, "answered 404", []),
        ({QUESTIONS: [404] * 9}, "answered 404", [f"{QUESTIONS}.part"]),
        ({QUESTIONS: ["wrong"]}, "not that file", []),
        ({QUESTIONS: ["page"]}, "not that file", []),
        ({QUESTIONS: ["of train2014"]}, "does not hold v2_OpenEnded_mscoco_val2014_questions.json", []),
        ({IMAGES: ["wrong"]}, "not that file", [ANNOTATIONS, QUESTIONS]),
        ({QUESTIONS: ["flipped"]}, "not that file", []),
    ],
)
def test_faults_are_told_in_a_line_and_nothing_looks_whole(server, tmp_path, capsys, faults, words, left):
    server.faults = faults
    with pytest.raises(SystemExit) as stop:
        fetch(server, tmp_path / "data")
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and last.startswith("error: ") and words in last
    assert names(tmp_path / "data") == left
    server.faults = {}
    fetch(server, tmp_path / "data")  # the same command mends it
    assert len(load_split("vqa_v2", "val2014", tmp_path / "data")) == 6


def test_damaged_and_foreign_archives_leave_no_folder(tmp_path):
    picture = encoded(draw(size=(200, 200)), "BMP")
    data = bytearray(zipped({"val2014/a.jpg": picture}, tmp_path))
    data[2000] ^= 1
    for content, words in ((bytes(data), "damaged"), (zipped({"other/a.jpg": picture}, tmp_path), "holds no folder")):
        (tmp_path / IMAGES).write_bytes(content)
        with pytest.raises(DataError, match=words):
            download.unpack(tmp_path / IMAGES)
        assert not (tmp_path / "val2014").exists() and not (tmp_path / IMAGES).exists()


def test_unreachable_servers_full_disks_and_bad_folders(server, tmp_path, capsys, monkeypatch):
    for more, words in (
        (["--vqa_url", "http://127.0.0.1:9"], "cannot be reached"),
        (["--coco_url", "http://127.0.0.1:9"], "cannot be reached"),
        (["--splits", "train2013"], "train2013"),
    ):
        with pytest.raises(SystemExit) as stop:
            fetch(server, tmp_path / "data", *more)
        assert stop.value.code == 2 and words in capsys.readouterr().err
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(SystemExit):
        fetch(server, tmp_path / "data")
    assert "has room for" in capsys.readouterr().err


def test_room_is_asked_for_what_is_still_to_come(tmp_path, monkeypatch):
    sizes = {QUESTIONS: 10, IMAGES: 400, "train2014.zip": 300}

    def check(free, keep_zips=False):
        monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free}))
        download._check_space(tmp_path, sizes, keep_zips)

    check(710 + 400)  # the second zip comes when the first is gone
    with pytest.raises(DataError, match="has room for"):
        check(710 + 399)
    check(710 + 700, keep_zips=True)
    with pytest.raises(DataError, match="has room for"):
        check(710 + 699, keep_zips=True)
    (tmp_path / f"{IMAGES}.part").write_bytes(bytes(150))
    (tmp_path / ".train2014.part" / "train2014").mkdir(parents=True)
    (tmp_path / ".train2014.part" / "train2014" / "a.jpg").write_bytes(bytes(60))
    check(710 + 400 - 210)
    with pytest.raises(DataError, match="has room for"):
        check(710 + 399 - 210)


@pytest.mark.parametrize("module", ["download", "vqa_v2"])
def test_the_module_is_a_command(server, tmp_path, module):
    command = [sys.executable, "-m", f"vqafusion.data_prep.{module}", tmp_path, "--splits", "val2014", "--dry_run"]
    command += ["--vqa_url", server.address, "--coco_url", server.address]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "to fetch" in result.stdout, json.dumps(result.stderr)
