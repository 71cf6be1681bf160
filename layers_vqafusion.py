"""The parts of the fusion: colours and words that look for patches; cross-attention; answers that look for them."""

from math import isqrt

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer


class Projection(nn.Sequential):
    """
    States of `width` numbers to the fusion's width. Each number is first raised to `power`, its sign kept, so that few
    large ones do not drown the others (power normalization; Perronnin et al., ECCV 2010); of histograms, the root gives
    small shares their due, as Hellinger's distance does.
    """

    def __init__(self, width, config, power=1):
        super().__init__(nn.LayerNorm(width, eps=config.layer_norm_eps), nn.Linear(width, config.hidden_size))
        self.power = power

    def forward(self, states):
        if self.power != 1:
            signs = torch.where(states < 0, -1, 1)
            states = signs * (states.abs() + 1e-6) ** self.power  # of 0 itself the gradient would be infinite
        return super().forward(states)


def color_histograms(pixel_values, patches, config):
    """
    How much of each patch has which colour, of `config.color_levels` levels each of red, green and blue. A pixel
    between levels counts for its neighbours by its distance to them.

    Args:
        pixel_values: `(images, 3, height, width)`, normalised by `config.image_mean` and `config.image_std`.
        patches (`int`): of a square grid, row by row; tokens beyond the square come first, for the whole image.

    Returns:
        `(images, patches, color_levels ** 3)`, each patch's sum is 1.
    """
    mean, std = (pixel_values.new_tensor(x).view(3, 1, 1) for x in (config.image_mean, config.image_std))
    levels = config.color_levels
    colors = (pixel_values[:, :, ::4, ::4] * std + mean).clamp(0, 1) * (levels - 1)  # a 16th of the pixels will do
    level = torch.arange(levels, device=colors.device).view(levels, 1, 1)
    near = (1 - (colors.unsqueeze(2) - level).abs()).clamp(min=0)  # (images, 3, levels, height, width)
    counts = torch.einsum("nrhw,nghw,nbhw->nrgbhw", *near.unbind(dim=1)).flatten(1, 3)
    side = isqrt(patches)
    grid = F.adaptive_avg_pool2d(counts, side).flatten(2).transpose(1, 2)
    prefix = grid.mean(dim=1, keepdim=True).expand(-1, patches - side**2, -1)
    return torch.cat([prefix, grid], dim=1)


def average_grid(states, size):
    """
    Average the patches of a square grid to `size` rows and columns; prefix tokens (CLS) stay.

    Args:
        states: `(images, patches, width)`, row by row, after the prefix tokens.

    Returns:
        `(images, prefix tokens + size ** 2, width)`; the same states if they have no more rows than that.

    Raises:
        ValueError: so many prefix tokens that the averaged grid could not be told from a larger one.
    """
    side = isqrt(states.shape[1])
    if size >= side:
        return states
    prefix, grid = states.split([states.shape[1] - side**2, side**2], dim=1)
    if prefix.shape[1] > 2 * size:
        raise ValueError(
            f"image_pool_size={size} is too small for a vision encoder with {prefix.shape[1]} tokens beside its "
            f"grid: take at least {-(-prefix.shape[1] // 2)}"
        )
    grid = grid.transpose(1, 2).unflatten(-1, (side, side))  # (images, width, side, side)
    grid = F.adaptive_avg_pool2d(grid, size).flatten(2).transpose(1, 2)
    return torch.cat([prefix, grid], dim=1)


class Dropout(nn.Dropout):
    """
    Dropout by whole numbers on a CPU, where torch takes eight times as long to draw a yes or no for each number, unless
    it is Intel's. Each random number of 64 bits is four of 16, so probabilities are multiples of 2 ** -16.
    """

    def forward(self, states):
        if not self.training or self.p in (0, 1) or states.device.type != "cpu":
            return super().forward(states)
        numbers = torch.randint(-(2**63), 2**63 - 1, (-(-states.numel() // 4),), device=states.device)
        numbers = numbers.view(torch.int16)[: states.numel()].view(states.shape)
        kept = numbers >= min(round(self.p * 2**16), 2**16 - 1) - 2**15
        return states * (kept.to(states.dtype) / (1 - self.p))


class CrossAttention(nn.Module):
    """Multi-head attention from one sequence to another."""

    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.config = config
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key_value = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states, context, mask=None, output_attentions=False):
        """
        Args:
            states: `(batch, rows, hidden)`, the sequence that looks.
            context: `(batch, columns, hidden)`, the sequence looked at.
            mask: `(batch, 1, 1, columns)` boolean, False where a column is padding.
            output_attentions: compute the weights one by one, since the fused kernels do not return them.

        Returns:
            `(batch, rows, hidden)`, and the weights `(batch, heads, rows, columns)` or None.
        """
        query = self._split(self.query(states))  # (batch, heads, rows, head)
        key, value = map(self._split, self.key_value(context).chunk(2, dim=-1))  # (batch, heads, columns, head)
        weights = None
        if output_attentions or self.config._attn_implementation == "eager":
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (batch, heads, rows, columns)
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            weights = scores.softmax(dim=-1)
            mixed = weights @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2)), weights

    def _split(self, states):
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FusionStream(nn.Module):
    """One direction of a fusion layer: attend to the other sequence, then a feed-forward block, both residual."""

    def __init__(self, config):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.context_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = CrossAttention(config)
        self.mlp = nn.Sequential(
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
            nn.Linear(config.hidden_size, config.intermediate_size),
            nn.GELU(),
            nn.Linear(config.intermediate_size, config.hidden_size),
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, states, context, mask=None, output_attentions=False):
        mixed, weights = self.attention(self.norm(states), self.context_norm(context), mask, output_attentions)
        states = states + self.dropout(mixed)
        return states + self.dropout(self.mlp(states)), weights


class Alignment(nn.Module):
    """
    Gives each word what the image shows of it and how well it shows it, before the fusion, and says how well it shows
    all that the question names. Which patches a word is about is learned by telling which image of a batch a question
    belongs to, from the cosines of words and patches. This is FILIP's loss (Yao et al., ICLR 2022, section 3.1) in one
    direction, with a smooth maximum over the patches, so that all of them learn, and with learned weights for the
    words, most of which name nothing. What a word lets expect is learned by telling, of each pair of a question and an
    image, whether they belong together, as in SigLIP's loss (Zhai et al., ICCV 2023), with as much weight for all pairs
    that do as for all that do not.
    """

    SHARPNESS = 10.0  # of a word's choice of patches, per unit of cosine
    SCALE = 20.0  # of the words' maxima in the loss; learned on minitrain2014, it ended at 19 to 20
    PAIRS = 0.3  # weight of the loss of pairs against the other

    def __init__(self, config):
        super().__init__()
        self.word = nn.Linear(config.hidden_size, config.hidden_size)
        self.patch = nn.Linear(config.hidden_size, config.hidden_size)
        self.importance = nn.Linear(config.hidden_size, 1)
        self.expected = nn.Linear(config.hidden_size, 1)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.surplus_output = nn.Linear(1, config.hidden_size, bias=False)

    def forward(self, question, mask, images, image_index):
        """
        Args:
            question: `(batch, question, hidden)`; mask: `(batch, question)`, 0 on padding.
            images: `(images, patches, hidden)`; image_index: `(batch,)`, which one each question is about.

        Returns:
            `(batch, question, hidden)`, what to add to each token; `(batch, question, patches)`, the weights of the
            patches that it is taken from; `(batch, 1)`, how much more of the words the image shows than other images
            do, as far as the words tell; `(batch, hidden)`, what the image shows, to be compared with the directions
            of other words; in training the loss, `()`, the mean over the batch, else None.
        """
        words, importance = self._words(question, mask)
        patches = F.normalize(self.patch(images), dim=-1)
        similarity = words @ patches[image_index].transpose(-1, -2)  # (batch, question, patches)
        found = self._found(similarity).unsqueeze(-1)  # (batch, question, 1)
        expected = self.expected(question)  # (batch, question, 1)
        surplus = self.SCALE * (found - expected)
        match = importance.unsqueeze(1) @ surplus  # (batch, 1, 1)
        weights = (self.SHARPNESS * similarity).softmax(dim=-1)
        loss = None
        if self.training:
            everywhere = self._found(torch.einsum("qwh,iph->qiwp", words, patches))  # (batch, images, question)
            # What is expected is the same for all images of a question, so telling them apart does not depend on it.
            surplus_everywhere = everywhere - expected.transpose(1, 2)
            matches = self.SCALE * torch.einsum("qiw,qw->qi", surplus_everywhere, importance)
            together = F.one_hot(image_index, images.shape[0]).bool()
            loss = F.cross_entropy(matches, image_index) + self.PAIRS * self._pair_loss(matches, together)
        seen = self.output(weights @ images[image_index]) + self.surplus_output(surplus)
        return seen, weights, match.squeeze(1), patches.mean(dim=1)[image_index], loss

    def direction(self, question, mask):
        """
        Where texts of one thing point, among patches.

        Args:
            question: `(texts, tokens, hidden)`; mask: `(texts, tokens)`, 0 on tokens without a meaning.

        Returns:
            `(texts, hidden)`, of length 1.
        """
        words, importance = self._words(question, mask)
        return F.normalize((importance.unsqueeze(1) @ words).squeeze(1), dim=-1)

    def _words(self, question, mask):
        """Directions `(batch, question, hidden)` of the tokens, and their shares `(batch, question)` in a question."""
        importance = F.softplus(self.importance(question)).squeeze(-1) * mask
        importance = importance / importance.sum(dim=1, keepdim=True).clamp_min(1e-6)
        return F.normalize(self.word(question), dim=-1), importance

    def _pair_loss(self, matches, together):
        """Mean over the pairs `(batch, images)` that are `together`, and over those that are not, half of each."""
        apart = (~together).sum().clamp_min(1)  # of one image there are none
        share = torch.where(together, 1 / together.sum(), 1 / apart)
        return F.binary_cross_entropy_with_logits(matches.float(), together.float(), share, reduction="sum") / 2

    def _found(self, similarity):
        """A smooth maximum over the patches, which come last: the logarithm of the mean of their exponentials."""
        return (self.SHARPNESS * similarity).exp().mean(dim=-1).log() / self.SHARPNESS


class ShownAnswers(nn.Module):
    """
    Which answers the image shows, whatever the question: cosines of an answer's words with what the alignment sees in
    the image, less what they are for other images. The words are looked up, not trained (`look_for_answers` of
    vqafusion.answer_head), so that an answer that was rarely given profits from the questions that its words are in.
    Who trains a saved model further looks them up again afterwards, as `VqaTrainer` does.
    """

    SCALE = 2.0  # of the cosines in the logits; chosen on VQA v2's minidev2014

    def __init__(self, config):
        super().__init__()
        self.register_buffer("words", torch.zeros(config.num_labels, config.hidden_size))
        self.register_buffer("usual", torch.zeros(config.hidden_size))

    def forward(self, shown, logits):
        """
        Args:
            shown: `(batch, hidden)` from [`Alignment`].
            logits: `(batch, answers)` without this.

        Returns:
            `(batch, answers)`, the logits with it: by how much more each answer is shown than those that are believed
            anyway, so that no question gets more sure of all its answers. As they were in training, since what is
            learned with it relies on it more than it is worth for new images; there only the usual image is kept.
        """
        if self.training:
            now = shown.detach().mean(dim=0).to(self.usual.dtype)
            self.usual.lerp_(torch.where(now.isfinite(), now, self.usual), 0.1)  # or one bad image would stay
            return logits
        evidence = self.SCALE * (shown - self.usual) @ self.words.T  # (batch, answers)
        belief = logits.sigmoid()
        believed = (belief * evidence).sum(dim=-1, keepdim=True) / belief.sum(dim=-1, keepdim=True).clamp_min(1e-6)
        return logits + evidence - believed


class FusionLayer(GradientCheckpointingLayer):
    """Question tokens attend to image patches, and image patches to question tokens, at the same time."""

    def __init__(self, config):
        super().__init__()
        self.question_to_image = FusionStream(config)
        self.image_to_question = FusionStream(config)

    def forward(self, question, image, question_mask, output_attentions=False):
        """
        Args:
            question: `(batch, question, hidden)`; image: `(batch, patches, hidden)`.
            question_mask: `(batch, 1, 1, question)` boolean, False on padding.

        Returns:
            Both sequences, and the weights of both directions (or None).
        """
        new_question, to_image = self.question_to_image(question, image, None, output_attentions)
        new_image, to_question = self.image_to_question(image, question, question_mask, output_attentions)
        return new_question, new_image, to_image, to_question
