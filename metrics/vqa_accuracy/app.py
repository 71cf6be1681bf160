"""The Space's page: score one answer. `evaluate`'s own widget needs gradio 3, which nothing current installs."""

import evaluate
import gradio

metric = evaluate.load("user/vqa_accuracy")


def score(answer, human_answers):
    people = [line.strip() for line in human_answers.splitlines() if line.strip()]
    if not answer.strip() or not people:
        raise gradio.Error("Give an answer and the human answers, one on each line.")
    return metric.compute(predictions=[answer], references=[people])["overall"]


page = gradio.Interface(
    score,
    inputs=[gradio.Textbox(label="Answer"), gradio.Textbox(label="Human answers, one on each line", lines=10)],
    outputs=gradio.Number(label="Official VQA accuracy, %"),
    title="VQA accuracy",
    description="The official accuracy of one answer to a visual question. For many: evaluate.load in Python.",
    examples=[["Two dogs.", "\n".join(["2 dogs"] * 3 + ["dogs"] * 7)]],
    flagging_mode="never",
)

if __name__ == "__main__":
    page.launch()
