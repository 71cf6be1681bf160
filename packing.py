"""Linear layers for answering on a CPU: their weights lie as oneDNN's matrix product reads them, packed once."""

import torch
from torch import nn

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
            if type(child) is nn.Linear and child.weight.device.type == "cpu":
                setattr(parent, name, PackedLinear(child))
    model.save_pretrained = _refuse
    return model


def _refuse(*args, **kwargs):
    raise ValueError("a packed model cannot be saved: its weights lie as this processor reads them")
