"""Train a VQAFusion model.

python train.py recipes/easy_vqa.yaml --output_dir runs/easy_vqa
python train.py --dataset vqa_v2 --data_dir DIR --train_split train2014 --eval_split val2014 --output_dir runs/vqa_v2
"""

import os
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, gather_object
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPImageProcessorPil, set_seed
from transformers.image_utils import SizeDict
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import get_last_checkpoint

from vqafusion.analysis.plots import save_learning_curve
from vqafusion.answer_head import answer_tokens, start_at_embeddings, start_at_frequencies
from vqafusion.arguments import DataArguments, ModelArguments, encoder_config, json_argument
from vqafusion.command_line import (
    keep_freed_memory,
    one_line_errors,
    parse,
    peak_memory,
    writable_folder,
    write_json,
)
from vqafusion.configuration_vqafusion import VqaFusionConfig
from vqafusion.data_prep import check_answered, load_split, split_size, spread
from vqafusion.data_prep.answer_shift import answer_shifts
from vqafusion.data_prep.answers import answer_frequencies, build_vocabulary, ceiling, read_vocabulary, vocabulary_best
from vqafusion.data_prep.encode import VqaCollator, encode, forget_last_use, max_encoded_length, train_tokenizer
from vqafusion.data_prep.image_features import cache_image_states, pixel_values, this_process
from vqafusion.data_prep.sampling import check_shares
from vqafusion.data_prep.streaming import QuestionStream, check_streaming, on_disk, open_stream
from vqafusion.distillation import teacher_probabilities
from vqafusion.guards import SAVING, Stopped, only_run_in
from vqafusion.metrics.vqa_accuracy.vqa_accuracy import TOP_K, vqa_accuracy
from vqafusion.modeling_vqafusion import VqaFusionForVisualQuestionAnswering
from vqafusion.processing_vqafusion import VqaFusionProcessor, max_question_length
from vqafusion.resuming import TEACHERS, RunData, check_checkpoint, check_goes_on, check_teacher, checkpoint
from vqafusion.sharing.retries import HubError, patiently
from vqafusion.trainer import VqaTrainer, VqaTrainingArguments, check_reporting, check_schedule, top_labels

DEFAULT_SPLITS = {"easy_vqa": ("train", "validation"), "vqa_v2": ("train2014", "val2014")}


def build(data, model_arguments, train_set):
    """The processor and the model, new, over the answers of the training split."""
    if data.answer_list:
        answers = read_vocabulary(data.answer_list)
    else:
        answers = build_vocabulary(train_set["answers"][:], data.num_answers)
    id2label = dict(enumerate(answers))
    vision_config, text_config = (encoder_config(model_arguments, name) for name in ("vision_config", "text_config"))
    if (vision_config is None) != (text_config is None):
        raise ValueError("give both --vision_config and --text_config, or neither")
    if vision_config is None:
        for name, encoder in (("vision", model_arguments.vision_model), ("text", model_arguments.text_model)):
            reachable(name, encoder)
        image_processor = AutoImageProcessor.from_pretrained(model_arguments.vision_model)
        model = VqaFusionForVisualQuestionAnswering.from_vision_text_pretrained(
            model_arguments.vision_model,
            model_arguments.text_model,
            id2label=id2label,
            **model_arguments.fusion(image_processor),
        )
        tokenizer = AutoTokenizer.from_pretrained(model_arguments.text_model)
        check_tokenizer(tokenizer, train_set["question"][:100], model_arguments.text_model)
        known = answer_tokens(model.config, tokenizer)
        start_at_embeddings(model.eval(), known["input_ids"], known["attention_mask"])
    else:
        tokenizer = train_tokenizer(train_set["question"][:])
        text_config.update({"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id})
        size = getattr(vision_config, "image_size", 224)
        side = {"height": size, "width": size}
        image_processor = CLIPImageProcessorPil(size=side, do_center_crop=False)
        config = VqaFusionConfig(
            vision_config=vision_config,
            text_config=text_config,
            id2label=id2label,
            **model_arguments.fusion(image_processor),
        )
        try:
            model = VqaFusionForVisualQuestionAnswering(config)
        except (TypeError, KeyError, RuntimeError, ZeroDivisionError) as error:  # as a size of -1 makes torch raise
            raise ValueError(f"of --vision_config and --text_config no encoders can be made: {error}") from None
    if model_arguments.image_size is not None:
        set_image_size(image_processor, model_arguments.image_size)
    if not model.config.blind:
        check_vision_encoder(model.eval(), image_processor)
    tokenizer.model_max_length = max_question_length(model.config, tokenizer)  # some name none
    return VqaFusionProcessor(image_processor, tokenizer), model


def reachable(kind, name):
    """Raise `OSError` unless the encoder is a folder, in the cache, or on the Hub: transformers blames other things."""
    if Path(name).is_dir():
        return
    try:
        patiently(name, hf_hub_download, name, "config.json")
    except (HubError, HFValidationError) as error:
        raise OSError(f"--{kind}_model: there is no folder {name} here, and from the Hub: {error}") from None


def check_tokenizer(tokenizer, questions, name):
    """Raise `ValueError` if it knows no word of the questions: without its files there may still be an empty one."""
    words = {token for ids in tokenizer(questions, add_special_tokens=False)["input_ids"] for token in ids}
    if words <= {tokenizer.unk_token_id}:
        raise ValueError(f"--text_model: the tokenizer of {name} knows no word of the questions; are its files there?")


def set_image_size(image_processor, side):
    """Let it make `side` x `side` pixels of every image; `ValueError` if it cannot."""
    if not 1 <= side <= 4096:
        raise ValueError(f"--image_size must be between 1 and 4096, not {side}")
    square = SizeDict(height=side, width=side)
    by_shorter_side = "shortest_edge" in (image_processor.size or {})
    image_processor.size = SizeDict(shortest_edge=side) if by_shorter_side else square
    if getattr(image_processor, "crop_size", None):
        image_processor.crop_size = square
    if pixel_values([Image.linear_gradient("L")], image_processor).shape[-2:] != (side, side):
        raise ValueError(f"--image_size: this encoder's image processor makes no images of {side} x {side} pixels")


def check_vision_encoder(model, image_processor):
    """Raise `ValueError` for an encoder that takes more than pixels, or gives other states each time it is asked."""
    kind, pixels = model.config.vision_config.model_type, pixel_values([Image.linear_gradient("L")], image_processor)
    try:
        with torch.inference_mode():
            once, again = (model.vqafusion.encode_image(pixels) for _ in range(2))
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"an encoder of the kind {kind!r} cannot encode a picture here: {error}") from None
    if not torch.allclose(once, again, atol=1e-3):
        raise ValueError(f"an encoder of the kind {kind!r} sees other parts of the same picture each time, by chance")


def collators(data, processor, model, train_set, eval_set):
    """What makes batches of the training and of the evaluation split: augmented or not, from pixels or states."""
    plain = VqaCollator(processor, model.config.num_labels, blind=model.config.blind)
    if model.config.blind:
        return plain, plain
    if data.image_states_dir is None:
        return replace(plain, flip=data.flip, max_shift=data.max_shift), plain
    cache = (model.vqafusion, processor.image_processor, data.image_states_dir)
    return tuple(replace(plain, image_states=cache_image_states(rows, *cache)) for rows in (train_set, eval_set))


def hub_destination(args):
    """
    Where the model goes when it is trained, and with which token; both None without --push_to_hub. Asked of the Hub
    now, not after hours of training. `Trainer` does not hear of it: it would push pickles, and keep the token.
    """
    if not args.push_to_hub:
        return None, None
    if not args.hub_model_id:
        raise ValueError("--push_to_hub needs --hub_model_id user/name")
    from vqafusion.sharing.push import check_access

    token = args.hub_token
    check_access(args.hub_model_id, token)
    args.push_to_hub, args.hub_token = False, None
    return args.hub_model_id, token


def record(data, model_arguments, args):
    """The arguments that made a model, without what belongs to the machine: folders, and paths to encoders."""
    given = {**vars(data), **vars(model_arguments)}
    defaults = VqaTrainingArguments(output_dir=args.output_dir).to_dict()
    given |= {name: value for name, value in args.to_dict().items() if value != defaults.get(name)}
    paths = ("answer_list", "vision_model", "text_model")
    given |= {name: Path(given[name]).name for name in paths if given[name] and Path(given[name]).exists()}
    if given["vision_config"]:
        given["vision_model"] = given["text_model"] = None
    machine = ("data_dir", "image_states_dir", "resume_from_checkpoint", "run_name", "use_cpu")
    return {name: value for name, value in given.items() if name not in machine and not name.startswith("hub_")}


def kept_scores(trainer):
    """The scores of the weights that are kept, as eval.py writes them; None if they were not evaluated."""
    state, chosen = trainer.state, trainer.args.load_best_model_at_end
    step = state.best_global_step if chosen else state.global_step
    for entry in state.log_history:
        if entry["step"] == step and "eval_overall" in entry:
            by_type = {kind: entry[f"eval_{kind}"] for kind in sorted(set(trainer.eval_dataset["answer_type"][:]))}
            return {"overall": entry["eval_overall"], "per_answer_type": by_type, "top_5": entry["eval_top_5"]}
    return None


def save(trainer, processor, output_dir, arguments, evaluated):
    """
    Put the model into its folder, whole or not at all, with what made it (`arguments`: of data and model) and its
    scores, beside what `evaluated` says of the split.
    """
    staged = output_dir / SAVING
    trainer.save_model(staged)
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    forget_last_use(processor.tokenizer)
    processor.save_pretrained(staged)
    save_learning_curve(trainer.state.log_history, staged / "learning_curve.png")
    write_json(staged / "training.json", record(*arguments, trainer.args))  # not sooner: it resets accelerate's state
    if scores := kept_scores(trainer):
        write_json(staged / "metrics.json", evaluated | scores)
    for file in staged.glob("*.safetensors"):
        shutil.copymode(staged / "config.json", file)  # safetensors would let nobody else read them
    for file in staged.iterdir():
        os.replace(file, output_dir / file.name)
    staged.rmdir()


def load_sets(data, check_images):
    """The training and the evaluation split, and the stream that the first one is, with --streaming."""
    train_split, eval_split = DEFAULT_SPLITS.get(data.dataset, (None, None))
    data.train_split, data.eval_split = data.train_split or train_split, data.eval_split or eval_split
    stream = None
    if data.streaming:
        stream = open_stream(data.data_dir, data.train_split)
        train_set = on_disk(stream, images=False)
        eval_set = on_disk(open_stream(data.data_dir, data.eval_split))
    else:
        train_set, eval_set = (
            load_split(data.dataset, split, data.data_dir, data.skip_missing_images, check_images)
            for split in (data.train_split, data.eval_split)
        )
    for rows, split in ((train_set, data.train_split), (eval_set, data.eval_split)):
        check_answered(rows, split)
    return train_set, eval_set, stream


@one_line_errors
def main(argv=None):
    data, model_arguments, args = parse(argv, __doc__, DataArguments, ModelArguments, VqaTrainingArguments)
    keep_freed_memory()
    if data.image_states_dir and (data.flip or data.max_shift):
        raise ValueError("--flip and --max_shift change pixels, so they cannot go with --image_states_dir")
    for name, least in (("max_train_samples", 1), ("max_eval_samples", 1), ("max_shift", 0)):
        if getattr(data, name) is not None and getattr(data, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(data, name)}")
    for name in ("answer_type_sampling", "lr_scheduler_kwargs"):
        setattr(args, name, json_argument(args, name))
    check_schedule(args)
    check_shares(args.answer_type_sampling)
    if data.streaming:
        check_streaming(data, args)
    check_reporting(args.report_to)
    repo, token = hub_destination(args)
    output_dir = writable_folder(args.output_dir)
    if data.image_states_dir:
        writable_folder(data.image_states_dir)
    with only_run_in(output_dir, args.process_index == 0):
        (resume,) = broadcast_object_list([checkpoint(args.resume_from_checkpoint, output_dir)])
        if resume:
            check_checkpoint(resume)
        teachers = [train_teacher(data, model_arguments, args, output_dir, n) for n in range(args.num_teachers)]
        trained = train(data, model_arguments, args, output_dir, resume, teachers)
    if repo and trained.is_world_process_zero():
        from vqafusion.sharing.push import push_model  # here, since only few runs need it

        print(push_model(output_dir, repo, token=token, private=args.hub_private_repo, revision=args.hub_revision))


def tell_sets(data, config, train_set, eval_set):
    """Print what the encoded splits are like; what metrics.json will say of the one for evaluation."""
    for name, rows in (("training", train_set), ("evaluation", eval_set)):
        allowed = ceiling(vocabulary_best(rows, config.id2label))
        print(f"{len(rows)} {name} questions; {config.num_labels} answers allow {allowed:.2f} % accuracy")
    evaluated_on = set(eval_set["image_id"][:])
    if shared := len(evaluated_on & set(train_set["image_id"][:])):
        print(f"{shared} of {len(evaluated_on)} evaluation images are training images, too: scores may be flattering")
    return {
        "run": "blind" if config.blind else "model", "dataset": data.dataset, "split": data.eval_split,
        "questions": len(eval_set), "vocabulary_ceiling": allowed, "chosen_on_this_split": True,
    }  # fmt: skip


def train_teacher(data, model_arguments, args, output_dir, number):
    """Train one of the models that the next one learns from, unless it is there, from where it was; its folder."""
    folder = writable_folder(output_dir / TEACHERS / str(number))
    own = copy(args)
    own.output_dir, own.num_teachers, own.seed = str(folder), 0, args.seed * args.num_teachers + number
    if args.teacher_epochs is not None:
        own.num_train_epochs, own.max_steps = args.teacher_epochs, -1
    if (folder / "trainer_state.json").exists():  # what training writes last
        check_teacher(folder, record(data, model_arguments, own))
    else:
        with only_run_in(folder, args.process_index == 0):
            begun = get_last_checkpoint(folder)
            if begun:
                check_checkpoint(begun)
            # What learns from models that look for their answers gains nothing by that (docs/tried.md).
            stop_at_signal = train(data, model_arguments, own, folder, begun, look_for_answers=False).stop_at_signal
        this_process().wait_for_everyone()  # the first one has written the model, which all will load
        if received := max(gather_object([stop_at_signal.received])):  # after the last step, where nothing looks for it
            raise SystemExit(128 + received)
    return folder


def train(data, model_arguments, args, output_dir, resume, teachers=(), look_for_answers=True):
    """From the arguments to the trained model's folder; the [`VqaTrainer`] is returned."""
    set_seed(args.seed)
    train_set, eval_set, stream = load_sets(data, check_images=not model_arguments.blind)
    scores = ["overall", f"top_{TOP_K}", "loss", *sorted(set(eval_set["answer_type"][:]))]
    if args.metric_for_best_model and args.metric_for_best_model.removeprefix("eval_") not in scores:
        raise ValueError(f"--metric_for_best_model {args.metric_for_best_model}: known are {', '.join(scores)}")
    in_split = split_size(eval_set)
    train_set, eval_set = spread(train_set, data.max_train_samples), spread(eval_set, data.max_eval_samples)
    processor, model = build(data, model_arguments, train_set)
    run_data = RunData(args, model_arguments, train_set, eval_set)
    for folder in [*teachers, *([resume] if resume else [])]:
        check_goes_on(folder, model_arguments, model.config)
        run_data.check(folder)

    encoding = (processor.tokenizer, model.config.label2id, max_encoded_length(model.config, processor.tokenizer))
    train_set, eval_set = (encode(rows, *encoding, data.preprocessing_num_workers) for rows in (train_set, eval_set))
    shifts = None
    if args.reference_provenance:
        shifts, of_question = answer_shifts(train_set, args.reference_provenance, model.config.num_labels)
        train_set = train_set.add_column("answer_shift", of_question)
    evaluated = tell_sets(data, model.config, train_set, eval_set)
    if len(eval_set) < in_split:
        evaluated["questions_in_split"] = in_split
    start_at_frequencies(model, answer_frequencies(train_set, model.config.num_labels))
    train_collator, eval_collator = collators(data, processor, model, train_set, eval_set)
    taught = None
    if teachers:
        unchanged = train_collator if data.image_states_dir else eval_collator  # no augmentation
        taught = output_dir / TEACHERS / f"probabilities-of-{len(teachers)}.npy"
        teacher_probabilities(teachers, train_set, unchanged, taught, args.per_device_eval_batch_size, args.bf16)
        train_set = train_set.add_column("position", list(range(len(train_set))))
    train_collator = replace(train_collator, answer_shifts=shifts, teacher_probabilities=taught)

    def accuracy(prediction):
        answers = [[model.config.id2label[int(i)] for i in ranked] for ranked in prediction.predictions]
        scores = vqa_accuracy(answers, eval_set["answers"][:], eval_set["answer_type"][:])
        return {"overall": scores["overall"], **scores["per_answer_type"], "top_5": scores["top_5"]}

    begun = TrainerState.load_from_json(Path(resume) / "trainer_state.json").global_step if resume else 0
    if stream is not None:
        train_set = QuestionStream(stream, *encoding, args.seed, args.process_index, args.world_size)
        if resume:
            train_set.skip = begun * args.per_device_train_batch_size * args.gradient_accumulation_steps
            args.ignore_data_skip = True  # `Trainer` would open every picture on the way
    trainer = VqaTrainer(
        model=model,
        args=args,
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=eval_collator,
        compute_metrics=accuracy,
        preprocess_logits_for_metrics=top_labels,
        callbacks=[run_data],
    )
    trainer.train_collator = train_collator
    if look_for_answers and model.shown_answers is not None:
        trainer.answer_tokens = answer_tokens(model.config, processor.tokenizer)
    try:
        result = trainer.train(resume_from_checkpoint=resume)
    except Stopped as stopped:
        if trainer.is_world_process_zero():
            print(stopped)
        raise SystemExit(128 + stopped.received) from None  # as a shell counts signals
    trainer.look_for_answers()  # by the weights that are kept, which were not evaluated in every case
    save(trainer, processor, output_dir, (data, model_arguments), evaluated)
    if result.global_step > begun:
        result.metrics["peak_memory_gib"] = peak_memory()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
    elif trainer.is_world_process_zero():
        print(f"nothing was left to train: {resume} is at step {begun} of {trainer.state.max_steps}")
    trainer.save_state()
    best = f"best {args.metric_for_best_model} on the evaluation split: {trainer.state.best_metric}; "
    print(f"{best if args.load_best_model_at_end else ''}model: {output_dir}")
    return trainer


if __name__ == "__main__":
    main()
