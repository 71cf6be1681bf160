"""VQAFusion: a vision and a text encoder, joined by cross-attention in both directions, and an answer head."""

from dataclasses import dataclass
from math import isqrt

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_vqafusion import VqaFusionConfig, hidden_width
from .layers_vqafusion import Alignment, Dropout, FusionLayer, Projection, ShownAnswers, average_grid, color_histograms


@dataclass
class VqaFusionOutput(ModelOutput):
    """
    Output of both models; [`VqaFusionModel`] leaves out loss and logits.

    Args:
        loss (`()`, if `labels` are given): mean over the batch.
        logits (`(batch, answers)`): one score per answer, before sigmoid ("bce") or softmax ("ce").
        pooler_output (`(batch, 2 * hidden)`): question and image, pooled and joined; what the head reads.
        question_states (`(batch, question, hidden)`): fused states of the question tokens.
        image_states (`(batch, patches, hidden)`): fused states of the image patches.
        question_to_image_attentions (tuple, one `(batch, heads, question, patches)` per layer):
            where each question token looks; rows of padding tokens are 0. With `output_attentions=True`.
        image_to_question_attentions (tuple, one `(batch, heads, patches, question)` per layer):
            which words each patch looks at; columns of padding tokens are 0. With `output_attentions=True`.
        alignment (`(batch, question, patches)`, where `config.alignment_weight` is set and the model is not blind, as
            the next three): how much each question token takes of each patch before the fusion; rows of padding tokens
            are 0. With `output_attentions=True`.
        match (`(batch, 1)`): how much more of what the question names the image shows than other images do.
        shown (`(batch, hidden)`): mean over the patches of what words are compared with there.
        alignment_loss (`()`, in training): times that weight; part of `loss`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    question_states: torch.FloatTensor | None = None
    image_states: torch.FloatTensor | None = None
    question_to_image_attentions: tuple[torch.FloatTensor, ...] | None = None
    image_to_question_attentions: tuple[torch.FloatTensor, ...] | None = None
    alignment: torch.FloatTensor | None = None
    match: torch.FloatTensor | None = None
    shown: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None


class VqaFusionPreTrainedModel(PreTrainedModel):
    config_class = VqaFusionConfig
    base_model_prefix = "vqafusion"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["FusionLayer"]

    def _init_weights(self, module):
        """As in transformers, which knows only its own buffers; earlier versions did not save these."""
        super()._init_weights(module)
        if isinstance(module, ShownAnswers):
            nn.init.zeros_(module.words)  # not `zero_`: transformers sees to it that this spares what was loaded
            nn.init.zeros_(module.usual)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in transformers, which lets gradients into all that it loads; what is to be frozen is frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).base_model.freeze()  # two, with output_loading_info
        return loaded

    def save_pretrained(self, save_directory, **kwargs):
        """
        As in transformers, and with what makes the folder work by itself: the code files, and in the configuration
        the classes behind the Auto classes and the pipeline.
        """
        # transformers takes along what it finds imported in this text, here and where a Hub user loads the model.
        from .pipeline_vqafusion import VqaFusionPipeline  # noqa: F401

        self.config.name_hub_classes()
        super().save_pretrained(save_directory, **kwargs)


class VqaFusionModel(VqaFusionPreTrainedModel):
    """The two encoders and the fusion layers; `AutoModel` loads this one."""

    def __init__(self, config):
        super().__init__(config)
        self.vision_model = AutoModel.from_config(config.vision_config)
        self.text_model = AutoModel.from_config(config.text_config)
        self.image_projection = Projection(hidden_width(config.vision_config), config, config.power_normalization)
        colors = config.color_levels and not config.blind
        self.color_projection = Projection(config.color_levels**3, config, power=0.5) if colors else None
        self.question_projection = Projection(hidden_width(config.text_config), config)
        self.alignment = Alignment(config) if config.alignment_weight and not config.blind else None
        self.fusion_layers = nn.ModuleList(FusionLayer(config) for _ in range(config.num_fusion_layers))
        self.question_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.image_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()
        self.freeze()

    def freeze(self):
        """
        Let no gradient into what `config.freeze_vision`, `freeze_text` and `frozen_text_layers` name, and let it into
        the rest of both encoders. Done when a model is built; to be called when one of the three was changed. Weights
        that are put into a frozen encoder later, such as adapters, are trained.
        """
        for weight in [*self.vision_model.parameters(), *self.text_model.parameters()]:
            weight.requires_grad_(weight.is_floating_point())
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode=True):
        """As in torch, but what is frozen stays in eval mode: no dropout, no moving batch statistics."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self):
        config, text = self.config, self.text_model
        if config.freeze_vision:
            yield self.vision_model
        if config.freeze_text:
            yield text
        elif config.frozen_text_layers:
            yield getattr(text, "embeddings", text.get_input_embeddings())
            yield from next(m for m in text.modules() if isinstance(m, nn.ModuleList))[: config.frozen_text_layers]

    def get_input_embeddings(self):
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.text_model.set_input_embeddings(value)

    def encode_image(self, pixel_values):
        """
        Run the vision encoder. Its states depend on nothing else, so they can be stored and given back as
        `image_states`.

        Args:
            pixel_values: `(images, 3, height, width)`.

        Returns:
            `(images, patches, vision width)`; a grid `(images, width, rows, columns)` is laid out row by row. With
            `config.color_levels`, its cube more numbers in each patch, from [`color_histograms`]. With
            `config.image_pool_size`, [`average_grid`] makes fewer of them.

        Raises:
            ValueError: an image or a grid that is not square, states of another width than the encoder's
                configuration says, or a grid that [`average_grid`] refuses.
        """
        config = self.config
        if pixel_values.shape[-2] != pixel_values.shape[-1]:  # the grid's sides could not be told from its patches
            raise ValueError(f"images must be square for the vision encoder, not {tuple(pixel_values.shape[-2:])}")
        trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.vision_model.parameters())
        with torch.set_grad_enabled(trained):
            states = self.vision_model(pixel_values.to(self.dtype)).last_hidden_state
        if states.dim() == 4:
            if states.shape[2] != states.shape[3]:
                raise ValueError(f"the vision encoder must give a square grid, not {tuple(states.shape[2:])}")
            states = states.flatten(2).transpose(1, 2)
        width = hidden_width(config.vision_config)
        if states.shape[-1] != width:
            raise ValueError(f"the vision encoder's states have {states.shape[-1]} numbers each, not {width}")
        if config.color_levels:
            colors = color_histograms(pixel_values, states.shape[1], config)
            states = torch.cat([states, colors.to(states.dtype)], dim=-1)
        return states if config.image_pool_size is None else average_grid(states, config.image_pool_size)

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        pixel_values=None,
        image_states=None,
        image_index=None,
        output_attentions=None,
    ):
        """
        Args:
            input_ids: `(batch, question)`.
            attention_mask: `(batch, question)`, 0 on padding, which comes last; no padding if absent.
            pixel_values: `(images, 3, height, width)`, or
            image_states: `(images, patches, vision width)` from [`~VqaFusionModel.encode_image`].
            image_index: `(batch,)`, which image each question is about. An image is then encoded once for all
                its questions. Without it, question i is about image i (or all are about the only image).
            output_attentions: return the attention weights of every fusion layer.

        Returns:
            [`VqaFusionOutput`]

        Raises:
            ValueError: neither or both of `pixel_values` and `image_states`, or counts that do not match.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions

        question = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        question = self.question_projection(question)  # (batch, question, hidden)
        images, image_index = self._images(input_ids.shape[0], pixel_values, image_states, image_index)
        image = images[image_index]  # (batch, patches, hidden)
        alignment = match = shown = alignment_loss = None
        if self.alignment is not None:
            seen, alignment, match, shown, loss = self.alignment(question, attention_mask, images, image_index)
            question = question + seen
            alignment = alignment * attention_mask.unsqueeze(-1) if output_attentions else None
            alignment_loss = None if loss is None else self.config.alignment_weight * loss

        question_mask = attention_mask.bool()[:, None, None, :]  # (batch, 1, 1, question)
        to_image, to_question = [], []
        for layer in self.fusion_layers:
            question, image, looks, reads = layer(question, image, question_mask, output_attentions)
            if output_attentions:
                to_image.append(looks * question_mask.transpose(-1, -2))
                to_question.append(reads)
        question, image = self.question_norm(question), self.image_norm(image)
        return VqaFusionOutput(
            pooler_output=torch.cat([question[:, 0], image.mean(dim=1)], dim=-1),
            question_states=question,
            image_states=image,
            question_to_image_attentions=tuple(to_image) or None,
            image_to_question_attentions=tuple(to_question) or None,
            alignment=alignment,
            match=match,
            shown=shown,
            alignment_loss=alignment_loss,
        )

    def _images(self, batch, pixel_values, image_states, image_index):
        """What the fusion gets: `(images, patches, hidden)`, and `(batch,)`, the image of each question."""
        weight = self.image_norm.weight
        if self.config.blind:
            return weight.new_zeros(1, 1, self.config.hidden_size), weight.new_zeros(batch, dtype=torch.long)
        if (pixel_values is None) == (image_states is None):
            raise ValueError("give either pixel_values or image_states")
        if image_states is None:
            image_states = self.encode_image(pixel_values)
        images = image_states.shape[0]  # not len(), which would make it a constant of an exported model
        image_index = image_of_each(batch, images, image_states.device) if image_index is None else image_index.long()
        states = image_states.to(self.dtype)
        if self.color_projection is None:
            return self.image_projection(states), image_index
        states, colors = states.tensor_split([-(self.config.color_levels**3)], dim=-1)
        return self.image_projection(states) + self.color_projection(colors), image_index


class VqaFusionForVisualQuestionAnswering(VqaFusionPreTrainedModel):
    """The fused encoder with a classification head over the answers of `config.id2label`."""

    def __init__(self, config):
        super().__init__(config)
        self.vqafusion = VqaFusionModel(config)
        width = 2 * config.hidden_size
        self.classifier = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=config.layer_norm_eps), Dropout(config.dropout),
            nn.Linear(width, config.num_labels),
        )  # fmt: skip
        aligned = self.vqafusion.alignment is not None
        self.match_classifier = nn.Linear(1, config.num_labels, bias=False) if aligned else None
        self.shown_answers = ShownAnswers(config) if aligned else None
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(cls, vision, text, vision_kwargs=None, text_kwargs=None, **config_kwargs):
        """
        Join two pretrained encoders with a new fusion and head.

        Args:
            vision (`str`): name on the Hub or folder of a vision encoder; of a two-tower model such as CLIP,
                the vision tower is taken.
            text (`str`): the same for the text encoder.
            vision_kwargs, text_kwargs (`dict`): given to `AutoModel.from_pretrained`, such as `revision`; those that
                the encoder's configuration knows, such as `dropout`, change it.
            config_kwargs: given to [`VqaFusionConfig`].

        Returns:
            [`VqaFusionForVisualQuestionAnswering`] in float32.
        """
        vision_model = _load_tower(vision, "vision_config", vision_kwargs)
        text_model = _load_tower(text, "text_config", text_kwargs)
        model = cls(VqaFusionConfig(vision_config=vision_model.config, text_config=text_model.config, **config_kwargs))
        model.vqafusion.vision_model = vision_model
        model.vqafusion.text_model = text_model
        model.vqafusion.freeze()
        return model

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        pixel_values=None,
        image_states=None,
        image_index=None,
        labels=None,
        output_attentions=None,
    ):
        """
        Args:
            labels: `(batch, answers)` soft targets between 0 and 1, or `(batch,)` answer ids, -100 for none.
            The others are those of [`VqaFusionModel`].

        Returns:
            [`VqaFusionOutput`]
        """
        fused = self.vqafusion(
            input_ids, attention_mask, pixel_values, image_states, image_index, output_attentions, return_dict=True
        )
        logits = self.classifier(fused.pooler_output)  # (batch, answers)
        if self.match_classifier is not None:
            logits = self.shown_answers(fused.shown, logits + self.match_classifier(fused.match))
        loss = None if labels is None else self.answer_loss(logits, labels)
        if loss is not None and fused.alignment_loss is not None:
            loss = loss + fused.alignment_loss
        return VqaFusionOutput(loss=loss, logits=logits, **fused)

    def answer_loss(self, logits, labels):
        """Mean over the batch. BCE is summed over the answers, as in Teney et al. (CVPR 2018)."""
        logits = _at_least_float32(logits)  # the sum over the answers of a batch goes beyond float16
        if labels.dim() == 1:
            known = labels >= 0  # as everywhere in transformers, -100 adds no loss
            logits, labels = logits[known], F.one_hot(labels[known].long(), logits.shape[-1])
        if labels.shape != logits.shape:
            raise ValueError(f"labels must be {tuple(logits.shape)} or one per question, not {tuple(labels.shape)}")
        labels = labels.to(logits.dtype)
        if self.config.answer_loss == "bce":
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / max(len(logits), 1)
        # A question none of whose answers is in the vocabulary has no target and adds no loss.
        targets = labels / labels.sum(dim=-1, keepdim=True).clamp_min(1e-6)
        return -(targets * logits.log_softmax(dim=-1)).sum() / max(len(logits), 1)

    def probabilities(self, logits):
        """`(batch, answers)`: sigmoid or softmax, as it was trained, of the logits over `config.answer_temperature`."""
        logits = _at_least_float32(logits) / self.config.answer_temperature  # in bfloat16 many would be 1
        return logits.sigmoid() if self.config.answer_loss == "bce" else logits.softmax(dim=-1)

    def ranked_answers(self, logits, most):
        """
        For each question of `(batch, answers)` logits the `most` best `{"score": probability, "answer": str}`, or all
        if there are fewer: best first by the logits, since probabilities may round to 1.
        """
        if not logits.isfinite().all():
            raise ValueError("the answers' scores are not finite: damaged weights, or a dtype that is too small")
        labels = logits.float().topk(min(most, logits.shape[-1])).indices
        scores, names = self.probabilities(logits).gather(1, labels).tolist(), self.config.id2label
        return [[{"score": p, "answer": names[i]} for p, i in zip(*both)] for both in zip(scores, labels.tolist())]

    def attention_map(self, output, layer=-1):
        """
        Where the question's first token (CLS), which the head reads, looked.

        Args:
            output: a [`VqaFusionOutput`] made with `output_attentions=True`.
            layer (`int`): fusion layer, the last by default.

        Returns:
            `(batch, rows, columns)`: mean over the heads, without the image's own CLS token, scaled to sum to 1.

        Raises:
            ValueError: the output holds no attentions.
        """
        if output.question_to_image_attentions is None:
            raise ValueError("attention_map needs a forward pass with output_attentions=True")
        weights = output.question_to_image_attentions[layer][:, :, 0].mean(dim=1)  # (batch, patches)
        side = isqrt(weights.shape[-1])
        grid = weights[:, -(side**2) :]
        return (grid / grid.sum(dim=-1, keepdim=True)).unflatten(-1, (side, side))


def image_of_each(questions, images, device=None):
    """Of so many questions, `(questions,)`; `ValueError` unless there is one image for each or one for all."""
    if images not in (1, questions):
        raise ValueError(f"{questions} questions about {images} images: say which with image_index")
    return torch.arange(questions, device=device) % images


def _at_least_float32(tensor):
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _load_tower(name, tower, kwargs):
    kwargs = dict(kwargs or {})
    kwargs.pop("dtype", None)  # both encoders and the fusion have one, float32
    config = AutoConfig.from_pretrained(name, **kwargs)
    config = getattr(config, tower, config)
    config.update({key: kwargs.pop(key) for key in list(kwargs) if hasattr(config, key)})
    return AutoModel.from_pretrained(name, config=config, dtype=torch.float32, **kwargs)


VqaFusionModel.register_for_auto_class("AutoModel")
VqaFusionForVisualQuestionAnswering.register_for_auto_class("AutoModelForVisualQuestionAnswering")
