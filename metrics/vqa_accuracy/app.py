"""The Space's page: the metric's card, and its widget."""

import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load("user/vqa_accuracy"))
