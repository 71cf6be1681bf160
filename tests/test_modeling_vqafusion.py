"""The model's contract: shapes, gradients, padding, attention, loss, saving, and the code that travels with it."""

import json
import subprocess
import sys

import pytest
import torch
from commands import HUB_FILES, ROOT
from toy_data import draw
from toy_model import COLORS, RESNET, batch, tiny_config
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    DistilBertModel,
    EfficientNetConfig,
    ResNetConfig,
    Trainer,
    TrainingArguments,
)

from vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.arguments import ModelArguments


def test_shapes(model):
    output = model(**batch(), labels=torch.rand(3, 6), output_attentions=True)
    assert output.loss.shape == () and output.logits.shape == (3, 6)
    assert output.question_states.shape == (3, 7, 32) and output.image_states.shape == (3, 17, 32)
    assert [a.shape for a in output.question_to_image_attentions] == [(3, 4, 7, 17)] * 3
    assert [a.shape for a in output.image_to_question_attentions] == [(3, 4, 17, 7)] * 3
    assert model.attention_map(output).shape == (3, 4, 4)
    weights = output.question_to_image_attentions[-1][:, :, 0, 1:].mean(dim=1)  # of CLS, to all patches but CLS
    torch.testing.assert_close(model.attention_map(output).flatten(1), weights / weights.sum(dim=-1, keepdim=True))


def test_attentions_are_those_that_were_used(model):
    fused, explicit = model(**batch()), model(**batch(), output_attentions=True)
    assert torch.allclose(fused.logits, explicit.logits, atol=1e-6)
    assert fused.question_to_image_attentions is None
    with pytest.raises(ValueError, match="output_attentions"):
        model.attention_map(fused)
    model.config._output_attentions = True
    assert model.attention_map(model(**batch())).equal(model.attention_map(explicit))


@pytest.mark.parametrize("alignment_weight", [0, 1])
def test_padding_changes_nothing(alignment_weight):
    model = VqaFusionForVisualQuestionAnswering(tiny_config(alignment_weight=alignment_weight)).eval()
    alone = batch(1)
    padded = {name: value.clone() for name, value in alone.items()}
    padded["input_ids"] = torch.nn.functional.pad(alone["input_ids"], (0, 5), value=9)
    padded["attention_mask"] = torch.nn.functional.pad(alone["attention_mask"], (0, 5))
    expected, output = model(**alone), model(**padded, output_attentions=True)
    assert torch.allclose(expected.logits, output.logits, atol=1e-5)
    for to_image, to_question in zip(output.question_to_image_attentions, output.image_to_question_attentions):
        assert torch.allclose(to_image[:, :, :7].sum(-1), torch.ones(1, 4, 7)) and (to_image[:, :, 7:] == 0).all()
        assert torch.allclose(to_question.sum(-1), torch.ones(1, 4, 17)) and (to_question[..., 7:] == 0).all()


def test_frozen_encoder_stays_frozen_and_gradients_reach_the_rest(model):
    model.train()
    vision = model.vqafusion.vision_model
    assert not any(module.training for module in vision.modules()) and model.vqafusion.text_model.training
    model(**batch(), labels=torch.rand(3, 6)).loss.backward()
    assert all(parameter.grad is None for parameter in vision.parameters())
    for name, parameter in model.named_parameters():
        if ".vision_model." not in name:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0 or _has_no_gradient(name), name


def _has_no_gradient(name):
    """A key's bias adds the same to every score of a row, so softmax takes it away: its gradient is rounding."""
    return name.endswith("k_lin.bias")


def test_unfrozen_vision_learns_and_frozen_text_does_not():
    model = VqaFusionForVisualQuestionAnswering(tiny_config(freeze_vision=False, freeze_text=True)).train()
    model(**batch(), labels=torch.rand(3, 6)).loss.backward()
    assert model.vqafusion.vision_model.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.vqafusion.text_model.parameters())


def test_first_text_layers_can_be_frozen():
    model = VqaFusionForVisualQuestionAnswering(tiny_config(frozen_text_layers=1)).train()
    model(**batch(), labels=torch.rand(3, 6)).loss.backward()
    text = model.vqafusion.text_model
    first, second = text.transformer.layer
    assert not first.training and not text.embeddings.training and second.training
    assert all(p.grad is None for part in (first, text.embeddings) for p in part.parameters())
    assert second.ffn.lin1.weight.grad.abs().sum() > 0


def test_what_is_frozen_can_be_changed_and_adapters_in_it_are_trained(saved):
    model = VqaFusionForVisualQuestionAnswering.from_pretrained(saved)
    vision = model.vqafusion.vision_model
    for frozen in (False, True):
        model.config.freeze_vision = frozen
        model.vqafusion.freeze()
        model.train()
        assert vision.training != frozen and all(weight.requires_grad != frozen for weight in vision.parameters())
    vision.adapter = adapter = torch.nn.Linear(32, 32)
    vision.embeddings.register_forward_hook(lambda module, given, states: states + adapter(states))
    model.train()(**batch(), labels=torch.rand(3, 6)).loss.backward()
    assert adapter.weight.grad.abs().sum() > 0 and vision.embeddings.class_embedding.grad is None


@pytest.mark.parametrize("size, tokens", [(None, 17), (2, 5)])
def test_image_states_stand_for_pixels(size, tokens):
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(image_pool_size=size)).eval()
    inputs = batch()
    expected = model(**inputs).logits
    states = model.vqafusion.encode_image(inputs.pop("pixel_values"))
    assert states.shape == (3, tokens, 32)
    assert torch.equal(expected, model(**inputs, image_states=states).logits)


def test_an_image_is_encoded_once_for_all_its_questions(model):
    inputs = batch(4, images=2)
    index = torch.tensor([0, 1, 1, 0])
    encoded = []
    model.vqafusion.vision_model.register_forward_hook(lambda *call: encoded.append(len(call[1][0])))
    shared = model(**inputs, image_index=index).logits
    assert encoded == [2]
    apart = model(**{**inputs, "pixel_values": inputs["pixel_values"][index]}).logits
    assert torch.allclose(shared, apart, atol=1e-5)
    one = model(**{**inputs, "pixel_values": inputs["pixel_values"][:1]}).logits
    assert torch.allclose(one[[0, 3]], shared[[0, 3]], atol=1e-5)


def test_a_blind_model_does_not_see():
    model = VqaFusionForVisualQuestionAnswering(tiny_config(blind=True)).eval()
    inputs = batch()
    first = model(**inputs).logits
    del inputs["pixel_values"]
    assert torch.equal(first, model(**inputs).logits)
    inputs["input_ids"][0, 3] += 1
    assert not torch.allclose(first[0], model(**inputs).logits[0])


@pytest.mark.parametrize("changes", [{"pixel_values": None}, {"image_states": torch.zeros(3, 17, 32)}])
def test_pixels_or_states_not_both(model, changes):
    with pytest.raises(ValueError, match="either pixel_values or image_states"):
        model(**{**batch(), **changes})


def test_counts_must_match(model):
    with pytest.raises(ValueError, match="image_index"):
        model(**batch(3, images=2))


def test_pictures_that_are_not_square_are_refused(model):
    with pytest.raises(ValueError, match="square"):
        model.vqafusion.encode_image(torch.zeros(1, 3, 32, 64))


def test_grid_encoders_and_pooling():
    grid = ResNetConfig(**RESNET)
    for size, patches in ((None, 64), (4, 16)):
        model = VqaFusionForVisualQuestionAnswering(tiny_config(vision_config=grid, image_pool_size=size)).eval()
        output = model(**batch(size=64), output_attentions=True)
        assert output.image_states.shape[1] == patches
        assert model.attention_map(output).shape[1:] == (patches**0.5, patches**0.5)


def test_an_encoder_without_fused_attention_goes_with_one_that_has_it():
    efficient = EfficientNetConfig(image_size=32, width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=32)
    implementation = ModelArguments().attn_implementation
    model = VqaFusionForVisualQuestionAnswering(
        tiny_config(vision_config=efficient, attn_implementation=implementation)
    )
    used = [part.config._attn_implementation for part in (model.vqafusion.vision_model, model.vqafusion.text_model)]
    assert used == ["eager", "sdpa"]


def test_losses_and_probabilities_are_computed_in_float32(model):
    logits, labels = torch.full((64, 1000), 9.0), torch.zeros(64, 1000)
    assert model.answer_loss(logits.half(), labels).item() == pytest.approx(1000 * 9.0001, rel=1e-3)
    assert model.probabilities(logits.bfloat16()).unique().item() == pytest.approx(0.99988, abs=1e-5)


def test_colors_reach_the_answer_and_can_be_stored():
    torch.manual_seed(0)
    model = VqaFusionForVisualQuestionAnswering(tiny_config(**COLORS)).eval()
    inputs = batch()
    expected = model(**inputs).logits
    states = model.vqafusion.encode_image(inputs.pop("pixel_values"))
    assert torch.equal(expected, model(**inputs, image_states=states).logits)
    states[..., 32:] = states[..., 32:].roll(1, dims=-1)
    assert not torch.allclose(expected, model(**inputs, image_states=states).logits)


def test_losses():
    logits, labels = torch.randn(2, 6), torch.tensor([[0.9, 0.3, 0, 0, 0, 0], [0.0] * 6])
    bce = VqaFusionForVisualQuestionAnswering(tiny_config())
    each = -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log())
    assert torch.allclose(bce.answer_loss(logits, labels), each.sum() / 2, atol=1e-5)
    assert torch.allclose(bce.probabilities(logits), logits.sigmoid())
    ce = VqaFusionForVisualQuestionAnswering(tiny_config(answer_loss="ce"))
    log_probabilities = logits[0].log_softmax(-1)
    expected = -(0.75 * log_probabilities[0] + 0.25 * log_probabilities[1]) / 2
    assert torch.allclose(ce.answer_loss(logits, labels), expected, atol=1e-5)
    hard = torch.nn.functional.cross_entropy(logits, torch.tensor([3, 1]))
    assert torch.allclose(ce.answer_loss(logits, torch.tensor([3, 1])), hard, atol=1e-5)
    for model in (bce, ce):
        partly = model.answer_loss(logits, torch.tensor([3, -100], dtype=torch.int32))
        assert torch.allclose(partly, model.answer_loss(logits[:1], torch.tensor([3])))
        assert model.answer_loss(logits, torch.tensor([-100, -100])) == 0
        with pytest.raises(ValueError, match=r"labels must be \(2, 6\) or one per question, not \(2, 1\)"):
            model.answer_loss(logits, torch.ones(2, 1))


def test_gradient_checkpointing_gives_the_same_gradients(model):
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.config.text_config.attention_dropout = 0.0
        for layer in model.vqafusion.text_model.transformer.layer:
            layer.attention.dropout_p = 0.0
        model(**batch(), labels=torch.ones(3, 6)).loss.backward()
        gradients.append(model.vqafusion.fusion_layers[0].question_to_image.attention.query.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-5)


def test_pretrained_towers_keep_their_weights(tmp_path, model):
    text = {
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision))
    clip.save_pretrained(tmp_path / "clip")
    DistilBertModel(model.config.text_config).save_pretrained(tmp_path / "text")
    joined = VqaFusionForVisualQuestionAnswering.from_vision_text_pretrained(
        tmp_path / "clip", tmp_path / "text", text_kwargs={"dropout": 0.3}, hidden_size=32, num_labels=6,
        vision_kwargs={"dtype": torch.float16, "attention_dropout": 0.1},
    )  # fmt: skip
    assert joined.dtype == joined.vqafusion.vision_model.dtype == torch.float32
    assert joined.config.vision_config.attention_dropout == 0.1
    assert joined.vqafusion.text_model.embeddings.dropout.p == joined.config.text_config.dropout == 0.3
    pixels = torch.randn(1, 3, 32, 32)
    expected = clip.eval().vision_model(pixels).last_hidden_state
    assert torch.allclose(joined.vqafusion.encode_image(pixels), expected, atol=1e-6)
    reloaded = AutoModel.from_pretrained(tmp_path / "text").embeddings.word_embeddings.weight
    assert torch.equal(joined.vqafusion.text_model.embeddings.word_embeddings.weight, reloaded)
    assert not any(parameter.requires_grad for parameter in joined.vqafusion.vision_model.parameters())


def test_what_a_saved_model_answers_stays_what_it_was():
    model = VqaFusionForVisualQuestionAnswering(tiny_config(alignment_weight=1, **COLORS)).eval()
    with torch.no_grad():
        for number, weights in enumerate(p for n, p in model.named_parameters() if p.dim() > 1 or "class" in n):
            weights.copy_(0.2 * torch.sin(number + torch.arange(weights.numel()) ** 2 % 89).view_as(weights))
    pixels = torch.sin(0.01 * torch.arange(3.0 * 32 * 32)).view(1, 3, 32, 32)
    logits = model(torch.arange(5, 11)[None], pixel_values=pixels).logits
    torch.testing.assert_close(
        logits[0], torch.tensor([-0.0110, 0.0804, 0.0126, 0.0344, 0.7062, -0.7293]), atol=1e-3, rtol=1e-3
    )


def test_dtype_and_determinism(model, saved):
    assert torch.equal(model(**batch()).logits, model(**batch()).logits)
    half = VqaFusionForVisualQuestionAnswering.from_pretrained(saved, dtype=torch.float16)
    assert half.dtype == torch.float16 and half(**batch()).logits.dtype == torch.float16
    again = VqaFusionForVisualQuestionAnswering.from_pretrained(saved)
    assert torch.equal(again(**batch()).logits, model(**batch()).logits)
    assert not any(parameter.requires_grad for parameter in again.vqafusion.vision_model.parameters())


def test_words_may_be_added(model, tmp_path):
    words = model.get_input_embeddings().num_embeddings
    expected = model(**batch()).logits
    model.resize_token_embeddings(words + 10)
    model.save_pretrained(tmp_path)
    again = VqaFusionForVisualQuestionAnswering.from_pretrained(tmp_path).eval()
    assert again.get_input_embeddings().num_embeddings == again.config.text_config.vocab_size == words + 10
    assert torch.allclose(again(**batch()).logits, expected)


def test_a_plain_trainer_gathers_the_logits_only(model, tmp_path):
    rows = [{**{k: v[0] for k, v in batch().items()}, "labels": torch.tensor(1)}] * 4
    trainer = Trainer(model, TrainingArguments(tmp_path, report_to="none", use_cpu=True))
    assert trainer.predict(rows).predictions.shape == (4, 6)


STRANGER = """
import json, sys
try:
    import vqafusion
    sys.exit("the package must not be importable here")
except ImportError:
    pass
import torch
from transformers import AutoConfig, AutoModel, AutoModelForVisualQuestionAnswering, AutoProcessor, pipeline
folder = sys.argv[1]
code = dict(trust_remote_code=True)
config = AutoConfig.from_pretrained(folder, **code)
processor = AutoProcessor.from_pretrained(folder, **code)
model = AutoModelForVisualQuestionAnswering.from_pretrained(folder, **code)
encoder = AutoModel.from_pretrained(folder, **code)
inputs = processor(images="image.png", text=sys.argv[2])
with torch.no_grad():
    output, fused = model(**inputs), encoder(**inputs)
assert torch.allclose(output.question_states, fused.question_states, atol=1e-6)
answers = pipeline("visual-question-answering", model=folder, **code)(image="image.png", question=sys.argv[2], top_k=3)
unnamed = pipeline(model=folder, **code)(image="image.png", question=sys.argv[2], top_k=3)
assert answers == unnamed
model.save_pretrained("again")  # as one who has trained it further
processor.save_pretrained("again")
assert pipeline(model="again", **code)(image="image.png", question=sys.argv[2], top_k=3) == answers
print(json.dumps({"type": config.model_type, "logits": output.logits.tolist(), "answers": answers}))
"""


def test_a_stranger_loads_the_folder_with_every_auto_class(model, processor, saved, tmp_path):
    assert {file.name for file in saved.glob("*.py")} == set(HUB_FILES)
    assert not list(saved.glob("*.bin")) and (saved / "model.safetensors").exists()
    question = "what color is the circle?"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    draw().save(elsewhere / "image.png")
    # The editable install would make the package importable: without site's .pth files it is not.
    code = f"import sys; sys.path.append({_site_packages()!r})\n" + STRANGER
    run = subprocess.run(
        [sys.executable, "-S", "-c", code, saved, question],
        cwd=elsewhere, capture_output=True, text=True, timeout=300,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout.splitlines()[-1])
    expected = model(**processor(images=elsewhere / "image.png", text=question)).logits
    assert torch.allclose(torch.tensor(result["logits"]), expected, atol=1e-5)
    assert result["type"] == "vqafusion"
    assert result["answers"][0]["answer"] == model.config.id2label[expected.argmax().item()]
    assert [a["score"] for a in result["answers"]] == pytest.approx(expected.sigmoid()[0].topk(3).values.tolist())


def _site_packages():
    return next(path for path in sys.path if path.endswith("site-packages"))


def test_hub_files_import_nothing_but_each_other():
    for name in HUB_FILES:
        text = (ROOT / name).read_text()
        assert "import vqafusion" not in text and "from vqafusion" not in text and "from . import" not in text


def test_real_encoders_build_and_learn(shared):
    from transformers import AutoImageProcessor, AutoTokenizer

    from vqafusion import VqaFusionProcessor
    from vqafusion.data_prep import load_split
    from vqafusion.data_prep.answers import build_vocabulary
    from vqafusion.data_prep.encode import VqaCollator, encode

    torch.manual_seed(0)
    vision, text = shared / "models" / "efficientnet-lite2", shared / "models" / "minilm-distilbert"
    rows = load_split("vqa_v2", "minitrain2014", shared / "data" / "vqa_v2_mini")
    answers = build_vocabulary(rows["answers"], 1000)
    label2id = {answer: i for i, answer in enumerate(answers)}
    model = VqaFusionForVisualQuestionAnswering.from_vision_text_pretrained(
        vision, text, id2label=dict(enumerate(answers)), label2id=label2id, hidden_size=128, intermediate_size=256,
        image_pool_size=4,
    ).train()  # fmt: skip
    processor = VqaFusionProcessor(AutoImageProcessor.from_pretrained(vision), AutoTokenizer.from_pretrained(text))
    encoded = encode(rows.select(range(160)), processor.tokenizer, label2id)
    collate = VqaCollator(processor, len(answers))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for step in range(20):
        batch = collate([encoded[i] for i in range(8 * step, 8 * step + 8)])
        losses.append(model(**batch).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert len(rows) == 35_456
    assert torch.stack(losses[-5:]).mean() < 0.2 * torch.stack(losses[:2]).mean()
