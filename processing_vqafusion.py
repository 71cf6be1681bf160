"""Images and questions to tensors: an image processor and a tokenizer, and the one place where images are opened."""

import base64
import binascii
import contextlib
import io
import os
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
FETCH_SECONDS = 30
CROPPED_BELOW = 384  # of a longer edge ConvNeXt's processor makes a square of the whole image
# Kinds of text encoders (RoBERTa's) whose positions begin behind the padding's, which is one of them.
COUNT_FROM_PADDING = ("roberta", "camembert", "mpnet", "data2vec-text", "longformer", "ibert")
MAX_RATIO = 200  # of the sides; a processor that scales the shorter one to its size would fill the memory
MAX_PIXELS = 100_000_000  # a photo of 100 megapixels is real, 30,000 x 30,000 is a decompression bomb


class VqaFusionProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {"text_kwargs": {"padding": True, "truncation": True}}


class VqaFusionProcessor(ProcessorMixin):
    """
    An image processor and a tokenizer as one.

    Args:
        image_processor: any that `AutoImageProcessor` loads.
        tokenizer: any that `AutoTokenizer` loads.
    """

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        if tokenizer is not None:
            tokenizer.padding_side = "right"  # the head reads the first token
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(self, images=None, text=None, return_tensors="pt", **kwargs):
        """
        Args:
            images: one or a list of what [`load_image`] takes.
            text (`str` or `list[str]`): the questions.
            kwargs: for the tokenizer, such as `max_length`, and for the image processor, such as `do_rescale`; or
                `text_kwargs` and `images_kwargs` of them, as transformers' processors have.

        Returns:
            `BatchFeature` with `pixel_values` `(images, 3, height, width)` and `input_ids`, `attention_mask`
            `(batch, question)`, padded to the longest question and truncated to the tokenizer's `model_max_length`,
            which train.py sets to what the text encoder takes.

        Raises:
            ValueError: neither images nor text, or an image that cannot be read.
            FileNotFoundError: no such image.
        """
        if images is None and text is None:
            raise ValueError("give images, text, or both")
        kwargs = self._merge_kwargs(VqaFusionProcessorKwargs, return_tensors=return_tensors, **kwargs)
        features = {}
        if text is not None:
            features.update(self.tokenizer(text, **kwargs["text_kwargs"]))
            features.pop("token_type_ids", None)
        if images is not None:
            images = images if isinstance(images, (list, tuple)) else [images]
            loaded = [load_image(image) for image in images]
            features.update(self.image_processor(images=loaded, **kwargs["images_kwargs"]))
        return BatchFeature(features)

    def visible_box(self, width, height):
        """
        The part of an image that the model sees: a centre crop, as CLIP's, cuts off the longer side's ends.

        Args:
            width, height (`int`): size of the image, in pixels.

        Returns:
            `(left, top, right, bottom)` in pixels (`float`), which the attention map covers.
        """
        processor = self.image_processor
        size, crop = processor.size or {}, getattr(processor, "crop_size", None)
        edge, part = size.get("shortest_edge", CROPPED_BELOW), getattr(processor, "crop_pct", None)
        if part and edge < CROPPED_BELOW:  # ConvNeXt's, and ResNet's: enlarged by as much as is then cut off
            size, crop = {"shortest_edge": edge / part}, {"height": edge, "width": edge}
        elif not getattr(processor, "do_center_crop", False):
            return 0.0, 0.0, float(width), float(height)
        if "shortest_edge" in size:
            scale_x = scale_y = size["shortest_edge"] / min(width, height)
        elif getattr(processor, "do_resize", False) and "height" in size:
            scale_x, scale_y = size["width"] / width, size["height"] / height
        else:
            scale_x = scale_y = 1.0
        half_width = min(width, crop["width"] / scale_x) / 2
        half_height = min(height, crop["height"] / scale_y) / 2
        return width / 2 - half_width, height / 2 - half_height, width / 2 + half_width, height / 2 + half_height


def load_image(source):
    """
    Open one image as RGB, turned as its EXIF orientation says, transparency over white. Of greyscale of 9 to 16 bits,
    the brightest value's highest bit counts as the highest that is used.

    Args:
        source: a PIL image, a path, an http(s) address, a `data:` address or base64 text, bytes, a numpy array or
            tensor `(height, width[, channels])`, or a `datasets` dictionary with `bytes` or `path`.

    Returns:
        `PIL.Image.Image` in mode RGB.

    Raises:
        ValueError: not an image, damaged, more than `MAX_PIXELS` pixels, or one side more than `MAX_RATIO` times the
            other; the message names the source.
        FileNotFoundError: no such file.
    """
    given = source
    if isinstance(source, dict):
        given = source["bytes"] if source.get("bytes") is not None else source.get("path")
        # A data set's path is a file, never an address: whoever made the data does not say what is fetched.
        source = Path(given) if isinstance(given, str) else given
    name = str(given) if isinstance(given, (str, os.PathLike)) else f"the {type(given).__name__} given as image"
    name = name if len(name) <= 200 else name[:60] + "…"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = source if isinstance(source, Image.Image) else _open(source)
            if not image.width * image.height:
                raise _BadImage(f"{name}: an image of {image.width} x {image.height} pixels shows nothing")
            if image.width * image.height > MAX_PIXELS:
                raise _BadImage(
                    f"{name}: {image.width} x {image.height} pixels are more than {MAX_PIXELS:,}; make it smaller"
                )
            if max(image.size) > MAX_RATIO * min(image.size):
                raise _BadImage(f"{name}: {image.width} x {image.height} pixels are too long and thin to be looked at")
            image = _to_rgb(_upright(image))
            image.info = {}  # the orientation in it has been followed; whoever loads the result shall not do so again
            return image
    except _BadImage:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(f"no such image: {name}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name}: more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except IsADirectoryError:
        raise ValueError(f"{name} is a folder, not an image") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{name} is not an image in a format that Pillow reads") from None
    except Exception as error:  # a broken file makes Pillow's decoders raise all kinds
        raise ValueError(f"{name} cannot be read as an image ({error})") from None


class _BadImage(ValueError):
    """What is said of an image here, not by Pillow."""


def _open(source):
    if isinstance(source, (bytes, bytearray)):
        return _open_file(io.BytesIO(source))
    if isinstance(source, os.PathLike):
        return _open_file(source)
    if isinstance(source, str):
        if source.startswith(("http://", "https://")):
            return _open_file(io.BytesIO(_fetch(source)))
        if source.startswith("data:"):
            return _open_file(io.BytesIO(base64.b64decode(source.split(",", 1)[-1])))
        if len(source) > 64 and not os.path.exists(source):  # an image in base64 is never shorter
            with contextlib.suppress(binascii.Error):  # else it is the path of a file that is not there
                return _open_file(io.BytesIO(base64.b64decode("".join(source.split()), validate=True)))
        return _open_file(source)
    array = np.asarray(source)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        found = f"{array.dtype} {array.shape}"
        raise _BadImage(f"an array given as image must be uint8 (height, width[, channels]), not {found}")
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)


def _open_file(file):
    """As Pillow, but not what it gives to another program, as PostScript to Ghostscript."""
    Image.init()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def _fetch(address):
    # The standard library, so that answering needs no package beyond those the model needs.
    from http.client import HTTPException
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    try:
        end, content = time.monotonic() + FETCH_SECONDS, bytearray()
        with urlopen(Request(address, headers={"User-Agent": "vqafusion"}), timeout=FETCH_SECONDS) as response:
            while len(content) < MAX_PIXELS and (part := response.read1(1 << 16)):
                content += part
                if time.monotonic() > end:  # `timeout` is for each part
                    raise ValueError(f"it took more than {FETCH_SECONDS} seconds")
        return bytes(content)
    except (URLError, HTTPException, ValueError) as error:
        raise OSError(f"could not be fetched: {error}") from None


def _upright(image):
    """As the camera was held. (`ImageOps.exif_transpose` writes all tags anew, and fails where one is odd.)"""
    image.load()  # of a TIFF Pillow follows the orientation itself, here, and then it has none
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image):
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    if image.mode == "F" or image.mode.startswith("I"):  # Pillow clips greyscale of more than 8 bits, unscaled
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise OSError("greyscale of 32 bits or floating point says not what is white: save it with 8 bits")
        # A file of 16 bits does not say how many of them are used: by a scanner, often 12.
        used = max(8, int(values.max()).bit_length())
        image = Image.fromarray((values >> (used - 8)).astype(np.uint8))
    return image.convert("RGB")


def max_question_length(config, tokenizer):
    """Tokens of the longest question that the text encoder of a [`VqaFusionConfig`] takes."""
    text = config.text_config
    positions = getattr(text, "max_position_embeddings", 512)
    if any(kind in text.model_type for kind in COUNT_FROM_PADDING):
        positions -= (text.pad_token_id or 0) + 1
    return min(positions, tokenizer.model_max_length)


VqaFusionProcessor.register_for_auto_class()
