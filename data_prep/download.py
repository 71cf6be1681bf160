"""Fetch VQA v2 from its official addresses into the layout that `--dataset vqa_v2` reads.

vqafusion-data DIR --splits train2014 val2014 --dry_run     what it would fetch, and how large that is
vqafusion-data DIR --splits train2014 val2014               fetch, check, unpack; go on where it was; nothing twice
"""

import argparse
import os
import shutil
import zipfile
import zlib
from pathlib import Path

import httpx2
from huggingface_hub import constants
from huggingface_hub.file_download import http_get
from tqdm import tqdm

from ..command_line import locked, one_line_errors, writable_folder
from ..sharing.retries import retried, status
from . import DataError
from .vqa_v2 import ANNOTATIONS, QUESTIONS, missing_images

# https://visualqa.org/download.html and https://cocodataset.org/#download
VQA_URL = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
COCO_URL = "http://images.cocodataset.org/zips"
SPLITS = {
    "train2014": ("v2_Questions_Train_mscoco.zip", "v2_Annotations_Train_mscoco.zip", "train2014.zip"),
    "val2014": ("v2_Questions_Val_mscoco.zip", "v2_Annotations_Val_mscoco.zip", "val2014.zip"),
    "test2015": ("v2_Questions_Test_mscoco.zip", "test2015.zip"),
}
CHUNK = 1 << 16  # bytes after which what has come is written, and kept when the connection is cut


def arguments():
    parser = argparse.ArgumentParser(description="Fetch VQA v2 from its official addresses.")
    parser.add_argument("data_dir", help="folder to fetch it into; give it as --data_dir afterwards")
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=["train2014", "val2014"],
        help="train2014 and val2014 if not given",
    )
    parser.add_argument("--dry_run", action="store_true", help="only list what would be fetched")
    parser.add_argument("--no_images", action="store_true", help="questions and annotations only, as baselines need")
    parser.add_argument("--keep_zips", action="store_true", help="keep the images' zips when they are unpacked")
    parser.add_argument("--vqa_url", default=VQA_URL, help="where the questions and annotations are")
    parser.add_argument("--coco_url", default=COCO_URL, help="where the images are")
    return parser


@one_line_errors
def main(argv=None):
    args = arguments().parse_args(argv)
    folder = Path(args.data_dir) if args.dry_run else writable_folder(args.data_dir)
    wanted = [name for split in args.splits for name in SPLITS[split]]
    wanted = [name for name in wanted if not (args.no_images and _is_images(name))]
    missing = [name for name in wanted if not _is_there(folder, name)]
    if missing:
        bases = {name: args.coco_url if _is_images(name) else args.vqa_url for name in missing}
        files = {name: f"{bases[name].rstrip('/')}/{name}" for name in missing}
        here = {name for name in missing if _is_whole(folder / name)}
        sizes = {name: (folder / name).stat().st_size if name in here else _size(files[name]) for name in missing}
        for name, address in files.items():
            print(f"{_gigabytes(sizes[name]):>12}  {f'{folder / name}, to be unpacked' if name in here else address}")
        print(f"{_gigabytes(sum(sizes[name] for name in missing if name not in here)):>12}  to fetch, into {folder}")
        if args.dry_run:
            return
        with locked(folder, "choose another"):
            _check_space(folder, sizes, args.keep_zips)
            for name, address in files.items():
                if _is_there(folder, name):  # by another call, since it was asked above
                    continue
                fetch(address, folder / name, sizes[name])
                if _is_images(name):
                    unpack(folder / name)
                    if not args.keep_zips:
                        (folder / name).unlink()
    for split in [] if args.no_images else args.splits:
        if lacks := missing_images(folder, split):
            raise DataError(
                f"{folder / split} lacks {len(lacks)} of the images that are asked about, such as {lacks[0]}: remove "
                "that folder, and run this again, which fetches it anew"
            )
    print(f"all there: {folder}")


def fetch(address, file, size):
    """
    Fetch one zip, unless it is there whole; what an interrupted call left in `file.part` is kept, and the rest added
    to it.

    Args:
        address (`str`): http or https.
        file (`Path`): the zip, which appears only when it is whole.
        size (`int`): bytes that the server announced.

    Raises:
        DataError: the server does not give the file, or it is not a whole zip of that size, or holds something else.
    """
    if _is_whole(file):
        return
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    part = file.with_name(file.name + ".part")

    def add_to_it():
        with open(part, "ab") as opened:
            if opened.tell() > size:  # of another version of the file
                opened.seek(opened.truncate(0))
            http_get(address, opened, resume_size=opened.tell(), expected_size=size, displayed_filename=file.name)

    try:
        retried(add_to_it)
    except (httpx2.HTTPError, OSError) as error:
        if "Consistency check failed" not in str(error):  # huggingface_hub, of a whole answer of another size
            raise DataError(f"{address} cannot be fetched ({_reason(error)}); run it again to go on") from None
    # The images' checksums are tested as they are unpacked; reading 13 GB twice would take minutes.
    broken = _broken(part, file.name, thorough=not _is_images(file.name))
    if broken or part.stat().st_size != size:
        part.unlink()
        raise DataError(f"what {address} gave is not that file, or not all of it: {broken or 'wrong size'}")
    os.replace(part, file)


def unpack(file):
    """
    Unpack a zip of images beside it, into the folder that has its name; the folder appears only when it is whole.

    Args:
        file (`Path`): such as `train2014.zip`, which holds `train2014/*.jpg`.

    Raises:
        DataError: a picture in it is damaged, or it holds none; the folder is there and holds other things.
    """
    folder, part = file.with_suffix(""), _unpacked(file)
    try:
        if folder.is_dir():
            folder.rmdir()
    except OSError:
        raise DataError(f"{folder} holds other things than images of COCO: remove it, and run this again") from None
    try:
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if m.filename.startswith(f"{file.stem}/") and not m.is_dir()]
            for member in tqdm(members, desc=f"Unpacking {file.name}", unit="image"):
                done = part / member.filename
                if not done.exists() or done.stat().st_size != member.file_size:
                    archive.extract(member, part)  # checks the checksum
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        file.unlink()
        raise DataError(f"{file} is damaged ({error}) and was removed; run it again to fetch it anew") from None
    if not members:
        file.unlink()
        raise DataError(f"{file} holds no folder {file.stem!r}, so it is another file, and was removed")
    os.replace(part / file.stem, folder)
    shutil.rmtree(part)


def _is_images(name):
    return not name.startswith("v2_")


def _content(name):
    """The file that a zip of questions or annotations must hold."""
    split = next(split for split, names in SPLITS.items() if name in names)
    return (ANNOTATIONS if "Annotations" in name else QUESTIONS).format(split=split)


def _is_there(folder, name):
    if _is_images(name):
        images = folder / Path(name).stem
        return any(images.glob("COCO_*"))  # that none is missing, `main` finds out when the questions are there
    return (folder / _content(name)).is_file() or _is_whole(folder / name)


def _size(address):
    try:
        answer = retried(lambda: httpx2.head(address, follow_redirects=True, timeout=30).raise_for_status())
    except httpx2.HTTPError as error:
        raise DataError(f"{address} cannot be reached ({_reason(error)})") from None
    if "content-length" not in answer.headers:
        raise DataError(f"{address} does not say how large it is; is it the right address?")
    return int(answer.headers["content-length"])


def _check_space(folder, sizes, keep_zips):
    """Images stand twice until their zip is removed, which is done before the next one is fetched."""
    images = [size for name, size in sizes.items() if _is_images(name)]
    needed = sum(sizes.values()) + (sum(images) if keep_zips else max(images, default=0))
    present = [folder / f"{name}.part" for name in sizes]
    present += [folder / name for name in sizes if _is_whole(folder / name)]
    present += [file for name in sizes if _is_images(name) for file in _unpacked(folder / name).rglob("*")]
    needed -= sum(file.stat().st_size for file in present if file.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(f"{folder} has room for {_gigabytes(free)}, but {_gigabytes(needed)} are needed")


def _unpacked(file):
    """Where the images are until all are unpacked."""
    return file.with_name(f".{file.stem}.part")


def _is_whole(file):
    """Whether the zip is there, as far as can be told without reading all of it."""
    return file.is_file() and not _broken(file, file.name)


def _broken(file, name, thorough=False):
    """Why a file is not the whole zip of that name, or None; `thorough`: read all that is in it."""
    try:
        with zipfile.ZipFile(file) as archive:
            if not _is_images(name) and _content(name) not in (Path(member).name for member in archive.namelist()):
                return f"it does not hold {_content(name)}"
            damaged = archive.testzip() if thorough else None
            return damaged and f"{damaged} in it is damaged"
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return str(error)


def _reason(error):
    if status(error) is not None:
        return f"the server answered {status(error)}"
    return " ".join(str(error).split()) or type(error).__name__


def _gigabytes(size):
    return f"{size / 1e9:,.3f} GB"


if __name__ == "__main__":
    main()
