"""The official VQA v2 accuracy, as an `evaluate` metric. Answer normalisation has its one home here.

Follows GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py (March 2021), its oddities included:
published scores were made with them.
"""

import re
from collections import Counter, defaultdict
from functools import lru_cache

import datasets
import evaluate

_DESCRIPTION = """\
Accuracy of open-ended answers against several human answers each, as the VQA challenge computes it: an answer
counts min(1, n / 3), where n of the other annotators gave it, averaged over leaving out each annotator in turn.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of answers, or of ranked lists of answers, best first.
    references: list of lists, the human answers of each question (ten in VQA v2).
    answer_types: list of str, optional, such as "yes/no", "number", "other".
    question_types: list of str, optional, such as "what color is the".
    per_question: also return the score of every question.

Returns:
    overall: accuracy of the first answers, in percent.
    per_answer_type, per_question_type: the same for each type given, a dictionary.
    top_5: accuracy of the best among each prediction's first five answers, in percent.
    scores: with per_question, the accuracy of each first answer, in percent.

Raises:
    ValueError: lists of unequal length, no predictions, a prediction or a reference without any answer.

Examples:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/vqa_accuracy")
    >>> answers = ["cat"] * 3 + ["dog"] * 7
    >>> metric.compute(predictions=["cat"], references=[answers])["overall"]
    90.0
    >>> ranked = metric.compute(predictions=[["cow", "The dog."]], references=[answers])
    >>> ranked["overall"], ranked["top_5"]
    (0.0, 100.0)
"""

_CITATION = """\
@inproceedings{antol2015vqa,
  title = {{VQA}: Visual Question Answering},
  author = {Antol, Stanislaw and Agrawal, Aishwarya and Lu, Jiasen and Mitchell, Margaret and Batra, Dhruv and
            Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {International Conference on Computer Vision (ICCV)},
  year = {2015}
}
"""

TOP_K = 5

_MARKS = list(';/[]"{}()=+\\_-><@`,?!')
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# The official pattern is `(?!<=\d)(\.)(?!\d)`: a typo for a look-behind, which never excludes anything. Only a
# digit after the period keeps it.
_PERIOD = re.compile(r"\.(?!\d)")
_NUMBERS = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_ARTICLES = {"a", "an", "the"}

# The official table maps each of these with one apostrophe missing ("dont", "yall'll") to the whole form.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_CONTRACTIONS = {
    form[:at] + form[at + 1 :]: form for form in _CONTRACTED for at, mark in enumerate(form) if mark == "'"
}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # the wrong way round in the official table


@lru_cache(maxsize=1 << 18)  # people repeat themselves: most answers of a data set have been seen before
def clean(answer):
    """The first step, taken even where answers are compared raw: newline and tab to a space, ends stripped."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 18)
def normalize_answer(answer):
    """
    The official text processing: punctuation, then digits, articles and contractions.

    Args:
        answer (`str`): any text.

    Returns:
        `str`: lower-case words with single spaces; may be empty.
    """
    raw = clean(answer)
    text = raw
    # Officially any mark anywhere is deleted rather than spaced if the text has digit, comma, digit anywhere.
    delete_all = _DIGIT_COMMA_DIGIT.search(raw) is not None
    for mark in _MARKS:
        if mark in raw:
            delete = delete_all or mark + " " in raw or " " + mark in raw
            text = text.replace(mark, "" if delete else " ")
    # Officially `re.UNICODE`, 32, stands where `count` belongs: only the first 32 periods go.
    text = _PERIOD.sub("", text, count=32)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def answer_text(answer):
    """As [`normalize_answer`]; an answer of which nothing would be left, such as "A" or "+", in lower case."""
    return normalize_answer(answer) or clean(answer).lower()


def soft_scores(answers):
    """
    Official score of every distinct answer among the human ones.

    Args:
        answers (`list[str]`): the human answers of one question.

    Returns:
        `dict[str, float]`: answer, as it is compared (normalised unless all are identical), to score in [0, 1].
    """
    compared, _ = _compared(answers)
    return {answer: _score(count, len(compared)) for answer, count in Counter(compared).items()}


def question_score(prediction, answers):
    """Official score, in [0, 1], of one answer (`str`) against the human answers (`list[str]`)."""
    return _question_scores([prediction], answers)[0]


def _question_scores(predictions, answers):
    compared, form = _compared(answers)
    return [_score(compared.count(form(prediction)), len(compared)) for prediction in predictions]


def _compared(answers):
    """The answers as they are compared, and the function that gave them this form."""
    cleaned = list(map(clean, answers))
    if len(set(cleaned)) == 1:
        return cleaned, clean  # officially they are normalised only if they are not all identical
    return list(map(normalize_answer, cleaned)), normalize_answer


@lru_cache
def _score(matches, total):
    """Mean over leaving out each annotator: those who agree leave matches - 1 others, the rest leave matches."""
    agree, rest = min(1, max(0, matches - 1) / 3), min(1, matches / 3)
    return (matches * agree + (total - matches) * rest) / total


def _percent(scores):
    return round(100 * sum(scores) / len(scores), 2)


def vqa_accuracy(predictions, references, answer_types=None, question_types=None, per_question=False):
    """The metric as a plain function; see the description at the top for arguments, result and errors."""
    _check(predictions, references, answer_types=answer_types, question_types=question_types)
    scores, best = [], []
    for prediction, answers in zip(predictions, references):
        # No list is kept per question: with hundreds of thousands the garbage collector would go through them often.
        found = _question_scores([prediction] if isinstance(prediction, str) else prediction[:TOP_K], answers)
        scores.append(found[0])
        best.append(max(found))
    result = {
        "overall": _percent(scores),
        "per_answer_type": _per_group(scores, answer_types),
        "per_question_type": _per_group(scores, question_types),
        f"top_{TOP_K}": _percent(best),
    }
    if per_question:
        result["scores"] = [round(100 * score, 2) for score in scores]
    return result


def _check(predictions, references, **groups):
    if not len(predictions):
        raise ValueError("predictions is empty")
    for name, values in {"references": references, **groups}.items():
        if values is not None and len(values) != len(predictions):
            raise ValueError(f"{len(predictions)} predictions but {len(values)} {name}")
    for name, values in {"predictions": predictions, "references": references}.items():
        if isinstance(values, str):
            raise ValueError(f"{name} must be a list, not one text")
        for position, value in enumerate(values):
            if isinstance(value, str) and name == "references":
                raise ValueError(f"references[{position}] must be the list of the human answers, not one of them")
            if not isinstance(value, str) and not len(value):
                raise ValueError(f"{name}[{position}] holds no answer")


def _per_group(scores, groups):
    by_group = defaultdict(list)
    for group, score in zip(groups or [], scores):
        by_group[group].append(score)
    return {group: _percent(by_group[group]) for group in sorted(by_group)}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class VqaAccuracy(evaluate.Metric):
    """Official VQA accuracy."""

    def _info(self):
        answers = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": datasets.Value("string"), "references": answers}),
                datasets.Features({"predictions": answers, "references": answers}),
            ],
            reference_urls=["https://visualqa.org/evaluation.html", "https://github.com/GT-Vision-Lab/VQA"],
        )

    def _compute(self, predictions, references, answer_types=None, question_types=None, per_question=False):
        return vqa_accuracy(predictions, references, answer_types, question_types, per_question)
