"""The page: what is on it, and what happens when something is pressed. It keeps nothing but which run it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from ..pipeline.stages import DEFAULT_SET
from ..shapes_world.palette import COLORS, PATTERNS
from ..shapes_world.vocabulary import CLASSES, prompt
from ..shapes_world.words import unknown_words
from . import choices, show
from .jobs import Queue
from .library import Library
from .view import View

#: Seconds between two looks at a run.
PACE = 1.0
FONTS = ["system-ui", "sans-serif"]
LOOKS: dict[str, Any] = {
    "theme": gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=["ui-monospace", "monospace"]),
    "css": (Path(__file__).with_name("page.css")).read_text(encoding="utf-8"),
}
#: The address names the run that is shown, so that a reload shows it again.
REMEMBER = "(name) => history.replaceState({}, '', '/?run=' + encodeURIComponent(name))"
#: A prompt that is being typed is not overwritten.
KEEP_TYPED = "(title, text) => text || title"
SURE = "(name) => confirm(`Delete ${name} and all its files?`) ? name : ''"


def build_page(library: Library, queue: Queue, config_set: str = DEFAULT_SET) -> gr.Blocks:
    """The whole page."""
    view = View(library, queue)
    with gr.Blocks(title="Uni-Instruct 3D studio", analytics_enabled=False, fill_width=True) as page:
        current = gr.Textbox(visible="hidden", elem_id="current")  # a State would not reach the address
        gr.HTML(f"<h1 class='s-title'>Uni-Instruct 3D <span class='s-dim'>{len(queue.slots)} at a time</span></h1>")
        with gr.Tabs():
            with gr.Tab("Make"), gr.Row():
                with gr.Column(scale=2, min_width=340):
                    text, make = _form(view, current, config_set)
                    waiting = gr.HTML()
                with gr.Column(scale=3, min_width=420):
                    panel = _panel(view, current)
            with gr.Tab("Gallery") as gallery:
                wanted = gr.Textbox(label="Only those whose prompt or name has", elem_id="filter")
                cards = gr.HTML(elem_id="gallery")
            with gr.Tab("Compare") as compare:
                _compare(view, compare)
        gallery.select(view.cards, wanted, cards)
        wanted.change(view.cards, wanted, cards, show_progress="hidden")
        timer, seen = gr.Timer(PACE), gr.State({})
        tick = {"fn": view.look, "inputs": [current, seen], "outputs": [*panel, waiting, seen]}
        tick["show_progress"] = "hidden"
        timer.tick(**tick)
        title = gr.Textbox(visible="hidden")
        loaded = page.load(view.first, None, [current, title])
        loaded.then(None, [title, text], text, js=KEEP_TYPED)
        loaded.then(**tick)
        make.then(None, current, None, js=REMEMBER).then(**tick)
    page.queue(default_concurrency_limit=None)
    return page


def _form(view: View, current: gr.Textbox, config_set: str):
    """What to make; returns the prompt's field and the event that follows the button."""
    text = gr.Textbox(
        label="What to make", lines=2, placeholder="a red mug", elem_id="prompt", autofocus=True, max_lines=6
    )
    warning = gr.HTML(elem_id="warning")
    if config_set.startswith("shapes"):
        with gr.Row(elem_id="words"):  # what the built-in teacher knows; they fill the prompt
            words = [
                gr.Dropdown(list(PATTERNS), value=PATTERNS[0], label="pattern", min_width=110),
                gr.Dropdown(list(COLORS), value=None, label="colour", min_width=110),
                gr.Dropdown(list(CLASSES), value=None, label="object", min_width=110),
            ]
        for word in words:
            word.input(_compose, words, text, show_progress="hidden")
        text.change(_warn, text, warning, show_progress="hidden")
    method = _choice(choices.method_lines(), choices.DEFAULT_METHOD, "Method")
    divergence = _choice(choices.divergence_lines(), choices.DEFAULT_DIVERGENCE, "Divergence")
    quality = _choice(choices.quality_lines(), "normal", "Quality", gr.Radio)
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, info="Same seed, same object.", elem_id="seed", min_width=120)
        count = gr.Number(1, label="Variations", precision=0, info="So many seeds.", elem_id="count", min_width=120)
    button = gr.Button("Make it", variant="primary", elem_id="make")
    said = gr.HTML(elem_id="said")
    method.change(_about_divergence, method, divergence, show_progress="hidden")

    def pressed(name, *given):
        return view.make(name, config_set, *given)

    inputs = [current, text, method, divergence, quality, seed, count]
    return text, gr.on([button.click, text.submit], pressed, inputs, [current, said], show_progress="hidden")


def _choice(lines: dict[str, str], value: str, label: str, kind: type = gr.Dropdown) -> gr.Component:
    """A choice with one line about what is chosen."""
    made = kind(list(lines), value=value, label=label, info=lines[value], elem_id=label.lower())
    made.change(lambda name: gr.update(info=lines.get(name, "")), made, made, show_progress="hidden")
    return made


def _panel(view: View, current: gr.Textbox) -> list[gr.Component]:
    """What is known about the run that is shown."""
    head = gr.HTML(elem_id="head")
    with gr.Row(elem_id="buttons"):
        stop = gr.Button("Stop", elem_id="stop", interactive=False)
        go_on = gr.Button("Continue", elem_id="continue", interactive=False)
        score = gr.Button("Score", elem_id="score", interactive=False)
        delete = gr.Button("Delete", elem_id="delete", interactive=False)
    answer = gr.HTML(elem_id="answer")
    progress, preview, results, curves = (
        gr.HTML(elem_id=name) for name in ("progress", "preview", "results", "curves")
    )
    stop.click(view.stop, current, answer, show_progress="hidden")
    go_on.click(view.go_on, current, answer, show_progress="hidden")
    score.click(view.score, current, answer, show_progress="hidden")
    sure = gr.Textbox(visible="hidden")
    delete.click(lambda name: name, current, sure, js=SURE).then(view.delete, sure, answer, show_progress="hidden")
    return [head, stop, go_on, score, delete, progress, preview, results, curves]


def _compare(view: View, tab: gr.Tab) -> None:
    with gr.Row():
        chosen = [gr.Dropdown([], value=None, label=f"Run {side}", elem_id=f"compare-{side}") for side in ("A", "B")]
    with gr.Row():
        sides = [gr.HTML(elem_id=f"side-{side}") for side in ("A", "B")]
    tab.select(lambda: [gr.update(choices=view.names())] * 2, None, chosen, show_progress="hidden")
    for dropdown, side in zip(chosen, sides):
        dropdown.change(view.side, dropdown, side, show_progress="hidden")


def _compose(pattern: str, color: str | None, thing: str | None) -> Any:
    if not thing:
        return gr.skip()
    return prompt(thing, color, pattern) if color else f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _warn(text: str) -> str:
    unknown = unknown_words(text[:2000])
    if not unknown:
        return ""
    near = [f"{word} (near: {', '.join(found)})" if found else word for word, found in list(unknown.items())[:8]]
    more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
    words = "; ".join(near) + more
    return show.message(f"The built-in teacher has not learned: {words}. It draws something of its own.")


def _about_divergence(method: str) -> Any:
    if choices.takes_divergence(method):
        return gr.update(interactive=True)
    return gr.update(interactive=False, value=choices.DEFAULT_DIVERGENCE)
