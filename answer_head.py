"""What the answer head is told before it learns, and after: how frequent answers are, and what their words mean."""

import torch
from torch import nn
from torch.nn import functional as F

from .data_prep.answers import answer_type
from .data_prep.encode import max_encoded_length


def answer_tokens(config, tokenizer):
    """The answers of a [`VqaFusionConfig`] as a tokenizer gives them, no longer than the text encoder takes."""
    return tokenizer(
        [config.id2label[label] for label in range(config.num_labels)],
        padding=True, truncation=True, max_length=max_encoded_length(config, tokenizer),
        return_special_tokens_mask=True, return_token_type_ids=False, return_tensors="pt",
    )  # fmt: skip


@torch.no_grad()
def start_at_frequencies(model, frequencies):
    """
    Set the head's bias so that a new model gives every answer its frequency, as Lin et al. (RetinaNet, ICCV 2017,
    section 3.3) do for rare classes; else it spends its first epoch on learning that most answers are rare.

    Args:
        model: a [`VqaFusionForVisualQuestionAnswering`].
        frequencies: `(answers,)`, the mean soft target of each answer in the training split.
    """
    frequencies = frequencies.clamp(1e-5, 1 - 1e-5)
    bias = frequencies.logit() if model.config.answer_loss == "bce" else frequencies.log()
    model.classifier[-1].bias.copy_(bias)


@torch.no_grad()
def start_at_embeddings(model, input_ids, attention_mask, norm=0.8):
    """
    Set the head's weights to what the text encoder makes of each answer, so that answers of similar meaning begin
    with similar scores, and rare ones profit from frequent ones.

    Args:
        model: a [`VqaFusionForVisualQuestionAnswering`] in eval mode, with a pretrained text encoder.
        input_ids, attention_mask: `(answers, tokens)`, from [`answer_tokens`].
        norm (`float`): length of each answer's weights; chosen on VQA v2's minidev2014.
    """
    states = model.vqafusion.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    mask = attention_mask.unsqueeze(-1)
    embeddings = (states * mask).sum(1) / mask.sum(1)  # (answers, text width)
    embeddings = F.normalize(embeddings - embeddings.mean(0), dim=-1)
    weight = model.classifier[-1].weight  # (answers, 2 * hidden)
    # A turn keeps angles, as far as the width of the head allows.
    turn = nn.init.orthogonal_(weight.new_empty(embeddings.shape[1], weight.shape[1]))
    weight.copy_(norm * F.normalize(embeddings @ turn, dim=-1))


@torch.no_grad()
def look_for_answers(model, input_ids, attention_mask, special_tokens_mask):
    """
    Look up where the answers' words point among an image's patches, by what the alignment has learned from the words
    of questions. Yes, no and numbers are left out, which name nothing that could be seen.

    Args:
        model: a [`VqaFusionForVisualQuestionAnswering`] with `config.alignment_weight`.
        input_ids, attention_mask, special_tokens_mask: `(answers, tokens)`, from [`answer_tokens`].
    """
    training, fused = model.training, model.vqafusion
    model.eval()
    mask = attention_mask * (1 - special_tokens_mask)
    states = fused.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    words = fused.alignment.direction(fused.question_projection(states), mask)
    named = [answer_type(model.config.id2label[label]) == "other" for label in range(model.config.num_labels)]
    model.shown_answers.words.copy_(words * words.new_tensor(named).unsqueeze(-1))
    model.train(training)
