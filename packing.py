"""Layers made faster for answering only: linear layers packed once for a CPU, batch norms folded into convolutions."""

from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

OPERATORS = ("_reorder_linear_weight", "_linear_pointwise")  # those that torch.compile packs weights with
TYPICAL_ROWS = 64  # tokens that a layer sees at a time; the layout depends on it a little


class PackedLinear(nn.Module):
    """An `nn.Linear` without gradients: `(..., in) -> (..., out)`, equal to it but for rounding."""

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach()
        self.shape = f"in_features={linear.in_features}, out_features={linear.out_features}, dtype={weight.dtype}"
        self.bias = linear.bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)  # opaque: no buffer, never saved

    def forward(self, states):
        return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")

    def extra_repr(self):
        return self.shape


def pack(model):
    """
    Make a model on the CPU answer faster, for good: torch lays out a layer's weights anew at each call, which for the
    few tokens of one question takes as long as the product itself. The model can then be neither trained nor saved,
    and there are no gradients through it.

    Args:
        model: any module in eval mode.

    Returns:
        the same module; unchanged where torch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS):
        return model
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child.weight.device.type == "cpu" and child.weight.dtype == torch.float32:
                setattr(parent, name, PackedLinear(child))
    model.save_pretrained = _refuse
    return model


@contextmanager
def folded(encoder, pixel_values):
    """
    While this lasts, the batch norms of a convolutional encoder are part of the convolutions before them, which spares
    going through their outputs once more: in eval mode both are one linear map.

    Args:
        encoder: a vision encoder of transformers, in eval mode. Its states then differ by rounding only; it stays as it
            is if it has nothing to fold, or if what is folded is not the same, as where something else reads a
            convolution as well.
        pixel_values: `(images, 3, height, width)`, to see what follows what, and to compare.
    """
    replaced = {}

    def unfold():
        _replace(encoder, {new: old for old, new in replaced.items()})

    try:
        if any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
            with torch.inference_mode():
                expected = encoder(pixel_values).last_hidden_state
                for convolution, norm in _in_turn(encoder, pixel_values[:1]):
                    replaced |= {convolution: fuse_conv_bn_eval(convolution, norm), norm: nn.Identity()}
                _replace(encoder, replaced)
                found = encoder(pixel_values).last_hidden_state
            # A fifth of float16's precision for the largest; float32's own rounding adds up to a tenth of that.
            same = expected.shape == found.shape and (found - expected).abs().max() <= 1e-4 * expected.abs().max()
            if not same:  # nor if there is a NaN
                unfold()
        yield
    finally:
        unfold()


def _in_turn(encoder, pixel_values):
    """Pairs of a convolution and the batch norm that its output goes to."""
    made, pairs, hooks = [], [], []  # outputs of convolutions, kept so that no other tensor is taken for one

    def after(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            made.append((output, module))
        else:
            pairs.extend((convolution, module) for tensor, convolution in made if tensor is inputs[0])

    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            hooks.append(module.register_forward_hook(after))
    try:
        encoder(pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


def _replace(parent, replaced):
    for name, child in parent.named_children():
        if child in replaced:
            setattr(parent, name, replaced[child])
        else:
            _replace(child, replaced)


def _refuse(*args, **kwargs):
    raise ValueError("a packed model cannot be saved: its weights lie as this processor reads them")
