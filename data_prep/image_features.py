"""States of the frozen vision encoder, computed once per image and read back from disk."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Image
from PIL import Image as Picture
from tqdm import tqdm

from ..command_line import read_json, remove_orphans, whole_file, write_json
from ..configuration_vqafusion import computed_by
from ..packing import folded
from ..processing_vqafusion import load_image
from . import NAMED, DataError, file_stamp

SHARD_IMAGES = 128  # what a kill loses at the most; 20 MiB of EfficientNet-Lite2's whole grid
OPEN_SHARDS = 200  # of each split; each holds a file descriptor, and 1,024 are the usual limit of a process
_LAYOUT_VERSION = 4
IMAGES = "images.json"  # of a part, written before its shards: what is in its images, in their order


class ImageStates:
    """
    Stored states by image, memory-mapped: `states[image_id]` is a float16 array `(patches, vision width)`.

    Args:
        files: the shards of [`cache_image_states`], as it lists them.
        position (`dict`): of each image, by its id, where it is in them, counted through all.
    """

    def __init__(self, files, position):
        self.files = files
        self.position = position
        self.shards = {}

    def __len__(self):
        return len(self.position)

    def __getstate__(self):
        """For a worker that is started anew: it maps the shards itself, where pickle would send what they hold."""
        return {**vars(self), "shards": {}}

    def __getitem__(self, image_id):
        shard, row = divmod(self.position[image_id], SHARD_IMAGES)
        if shard not in self.shards:
            if len(self.shards) >= OPEN_SHARDS:
                self.shards.pop(next(iter(self.shards)))
            self.shards[shard] = np.load(self.files[shard], mmap_mode="r")
        return self.shards[shard][row]


class UnreadableImages(DataError):
    """`damaged`: of images that cannot be read, what is wrong with each, and whether it is in a file of its own."""

    @classmethod
    def of(cls, damaged):
        """Not in `__init__`, to which torch gives the message when it raises a worker's error once more."""
        told = "; ".join(list(damaged)[:NAMED]) + ("; …" if len(damaged) > NAMED else "")
        number = f"{len(damaged)} images cannot be read: " if len(damaged) > 1 else ""
        way_on = "; remove such files, and --skip_missing_images True goes on without them"
        error = cls(f"{number}{told}{way_on if any(damaged.values()) else ''}")
        error.damaged = damaged
        return error


def pixel_values(sources, image_processor, names=None, **options):
    """
    Args:
        sources: list of what [`load_image`] takes.
        image_processor: of the vision encoder.
        names (`list[str]`, *optional*): by which an error is to call those that have no path.
        options: what it is to do otherwise than its settings say.

    Returns:
        `(images, 3, height, width)` tensor.

    Raises:
        UnreadableImages: some of them, named.
    """
    images, damaged = [], {}
    for index, source in enumerate(sources):
        try:
            images.append(load_image(source))
        except (ValueError, FileNotFoundError) as error:
            in_a_file = isinstance(source, dict) and not source.get("bytes")
            name = f"image {names[index]}: " if names and not in_a_file else ""
            damaged[f"{name}{error}"] = in_a_file
    if damaged:
        raise UnreadableImages.of(damaged)
    return image_processor(images=images, return_tensors="pt", **options)["pixel_values"]


def normalization(image_processor):
    """`image_mean` and `image_std` as black and white come out: not every processor does what its settings say."""
    black, white = _black_and_white(image_processor)
    std = 1 / (white - black)
    return {"image_mean": (-black * std).tolist(), "image_std": std.tolist()}


def _black_and_white(image_processor):
    pixels = pixel_values([Picture.new("RGB", (64, 64), color) for color in ("black", "white")], image_processor)
    return pixels[:, :, pixels.shape[2] // 2, pixels.shape[3] // 2]  # whatever is put around them


def _normalized_later(image_processor):
    """
    Options with which a processor leaves the pixels as bytes, a quarter of the memory, and the function that makes of
    these what it would have: torch takes half the time for it. No options, and a function that does nothing, for a
    processor that is found to do anything else.
    """
    black, white = _black_and_white(image_processor).view(2, 3, 1, 1)
    options = {"do_rescale": False, "do_normalize": False}

    def normalize(pixels):
        return torch.lerp(black.to(pixels.device), white.to(pixels.device), pixels.float() / 255)

    expected, later = (pixel_values([_of_all_colors()], image_processor, **more) for more in ({}, options))
    if expected.shape == later.shape and torch.allclose(normalize(later), expected, rtol=0, atol=1e-5):
        return options, normalize
    return {}, torch.nn.Identity()


def _of_all_colors():
    gradients = Picture.linear_gradient("L"), Picture.radial_gradient("L"), Picture.linear_gradient("L").rotate(90)
    return Picture.merge("RGB", gradients)


def this_process():
    """accelerate's `PartialState`: which of how many processes this is, and its device."""
    return PartialState(cpu=not torch.accelerator.is_available())  # else it takes no notice of torchrun on a CPU


def cache_image_states(rows, model, image_processor, cache_dir, batch_size=8, num_threads=None):
    """
    Encode every image of a data set once. What is there already is kept, so an interrupted call goes on where it was,
    and one with more images encodes these only; with several processes (`accelerate launch`; `torchrun` on a CPU) each
    encodes its share of the shards.

    Args:
        rows (`datasets.Dataset`): columns of `FEATURES`.
        model: a [`VqaFusionModel`]; its vision encoder must be frozen.
        image_processor: what turns its images into pixels.
        cache_dir: the states go into a folder below it, named by a digest of the encoder's weights, the
            preprocessing and what `encode_image` makes of the states (`color_levels`, `image_pool_size`): a change of
            any makes another folder. In it an image is known by its content.
        batch_size (`int`): images per forward pass; small ones are faster for convolutions on CPU.
        num_threads (`int`, *optional*): that decode images; as many as torch has threads by default.

    Returns:
        [`ImageStates`]

    Raises:
        ValueError: the vision encoder is not frozen.
        UnreadableImages: some of them, when the states of all others are stored, but for those of the same shards.
    """
    if not model.config.freeze_vision:
        raise ValueError("states of a vision encoder that is being trained cannot be stored: set freeze_vision")
    process = this_process()
    rows = rows.select_columns(["image_id", "image"]).cast_column("image", Image(decode=False))
    first_row = {}  # of each image; the images themselves stay on disk
    for index, image_id in enumerate(rows["image_id"][:]):
        first_row.setdefault(image_id, index)
    plan = _plan(model, image_processor, rows, first_row, cache_dir) if process.is_main_process else None
    # One process looks for all of them, as another job may be writing there meanwhile.
    folder, contents, missing = broadcast_object_list([plan])[0]
    row_of = dict(zip(reversed(contents), reversed(first_row.values())))  # the first one of each content
    mine = dict(islice(missing.items(), process.process_index, None, process.num_processes))
    there = len(row_of) - sum(map(len, mine.values()))
    progress = {"total": len(row_of), "initial": there, "disable": not process.is_local_main_process}
    with tqdm(desc="Encoding images", unit="image", **progress) as bar:
        if mine:
            training = model.training
            shards = {file: [row_of[content] for content in shard] for file, shard in mine.items()}
            _encode(shards, rows, model.eval(), image_processor, process.device, bar, batch_size, num_threads)
            model.train(training)
    process.wait_for_everyone()
    files, position = _stored(folder)
    return ImageStates(files, {image_id: position[content] for image_id, content in zip(first_row, contents)})


def _plan(model, image_processor, rows, first_row, cache_dir):
    """
    The folder for an encoder's states, what is in each image, and by its file what is to go into each shard that is to
    be made.
    """
    folder, contents = _identify(model, image_processor, rows, first_row, cache_dir)
    # An interrupted call has begun a part, and the same call goes on with it, to the same files. One about other images
    # takes what was done there as it is.
    for unfinished in (False, True):
        position = _stored(folder, unfinished)[1]
        new = [content for content in dict.fromkeys(contents) if content not in position]
        part = folder / _sha256("\n".join(new).encode())[:16]
        if not new or part.exists():
            break
    shards = {part / _shard_name(number): each for number, each in enumerate(_in_batches(new, SHARD_IMAGES))}
    missing = {file: shard for file, shard in shards.items() if not _is_whole(file, shard)}
    if new:
        part.mkdir(exist_ok=True)
        remove_orphans(part)
        if _read_names(part / IMAGES) != new:
            write_json(part / IMAGES, new)
    return folder, contents, missing


def _encode(missing, rows, model, image_processor, device, bar, batch_size, num_threads):
    """Write the shards of `missing`: file to the rows whose images it holds. Images that cannot be read end it last."""
    # Convolutions on a CPU run up to twice as fast with the channels innermost, and in small batches.
    model = model.to(device, memory_format=torch.channels_last)
    options, normalize = _normalized_later(image_processor)
    damaged = {}

    def decode(batch):
        found = [rows[index] for index in batch]
        names = [row["image_id"] for row in found]
        try:
            return pixel_values([row["image"] for row in found], image_processor, names, **options)
        except UnreadableImages as error:
            damaged.update(error.damaged)

    def encode(pixels):
        with torch.inference_mode():
            pixels = normalize(pixels.to(device, memory_format=torch.channels_last))
            states = model.encode_image(pixels)
        bar.update(len(pixels))
        return states.to(torch.float16).cpu().numpy()

    some = normalize(pixel_values([_of_all_colors()] * 2, image_processor, **options).to(device))
    faster = folded(model.vision_model, some.to(model.dtype))
    # On a CPU all cores decode a shard, then all encode it: side by side they wait for one another in every layer. A
    # GPU encodes one while the cores decode the next.
    ahead = int(device.type != "cpu")
    with ThreadPoolExecutor(num_threads or torch.get_num_threads(), "decode") as threads, faster:
        started = (threads.map(decode, _in_batches(images, batch_size)) for images in missing.values())
        decoding = list(islice(started, ahead))  # shards that wait for their turn
        for file in missing:
            decoding += islice(started, 1)
            batches = list(decoding.pop(0))
            if any(pixels is None for pixels in batches):
                continue
            states = np.concatenate([encode(pixels) for pixels in batches])
            if not np.isfinite(states).all():
                raise ValueError(
                    "states of this vision encoder are not finite, or beyond the 65,504 of the 16 bits in which they "
                    "are stored: leave out --image_states_dir"
                )
            try:
                with whole_file(file) as temporary:
                    np.save(temporary, states)
            except OSError as error:  # NumPy's own says how many bytes were written, and not where
                raise OSError(f"cannot write to {file.parent}, or there is no room left in it: {error}") from None
    if damaged:
        raise UnreadableImages.of(damaged)


def _stored(folder, unfinished=True):
    """The whole shards of the folder's parts, `unfinished` ones too or not; of each content where it is in them."""
    files, position = [], {}
    for names in sorted(folder.glob(f"*/{IMAGES}")):
        contents = _read_names(names)
        shards = [(names.parent / _shard_name(i), each) for i, each in enumerate(_in_batches(contents, SHARD_IMAGES))]
        whole = [shard for shard in shards if _is_whole(*shard)]
        for file, each in whole if unfinished or whole == shards else []:
            first = len(files) * SHARD_IMAGES
            position |= {content: first + i for i, content in enumerate(each)}
            files.append(file)
    return files, position


def _read_names(file):
    """Names in a file; none if it is not there, or was cut as by a copy that was interrupted."""
    try:
        return read_json(file)
    except (OSError, ValueError):
        return []


def _in_batches(images, size):
    return [images[at : at + size] for at in range(0, len(images), size)]


def _is_whole(file, images):
    """Whether the states of these images are there, and not cut, as by a copy that was interrupted."""
    try:
        return len(np.load(file, mmap_mode="r")) == len(images)
    except (OSError, ValueError, EOFError):
        return False


def _shard_name(shard):
    return f"shard-{shard:05d}.npy"


def _identify(model, image_processor, rows, first_row, cache_dir):
    """
    The folder for an encoder's states, and of each image what is in it, wherever it lies. To read all of COCO takes
    minutes, so a file in the folder, named by paths, sizes and times, keeps what these files were found to hold.
    """
    settings = [computed_by(part) for part in (image_processor, model.config.vision_config)]
    for name in ("color_levels", "image_pool_size"):  # left out where they are not used, as before there were any
        if value := getattr(model.config, name):
            settings.append({name: value})
    text = json.dumps([_LAYOUT_VERSION, SHARD_IMAGES, *settings], sort_keys=True, default=str)
    encoder = hashlib.sha256(text.encode())
    for name, tensor in sorted(model.vision_model.state_dict().items()):
        encoder.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        encoder.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    folder = Path(cache_dir) / encoder.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    remove_orphans(folder)

    def each(of_file, **progress):
        for index in tqdm(first_row.values(), unit="image", **progress):
            source = rows[index]["image"]
            try:
                if source.get("bytes"):
                    yield _sha256(source["bytes"])
                elif os.path.isfile(source["path"]):  # of a device nothing is read
                    yield of_file(Path(source["path"]))
                else:
                    raise DataError(f"no such image: {source['path']}")
            except OSError as error:
                raise DataError(f"cannot read the image {source['path']}: {error.strerror}") from None

    seen = hashlib.sha256()
    for stamp in each(lambda path: f"{path} {file_stamp(path)}", disable=True):
        seen.update(f"{stamp}\n".encode())
    known = folder / f"seen-{seen.hexdigest()[:16]}.json"
    contents = _read_names(known)
    if not contents:
        contents = list(each(lambda path: _sha256(path.read_bytes()), desc="Reading images"))
        write_json(known, contents)
    return folder, contents


def _sha256(content):
    return hashlib.sha256(content).hexdigest()[:32]
