"""The page, with gradio. No torch here."""

import contextlib
import os
import random
import socket
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifuvit.diffusion.settings import DEFAULT_SETTINGS, SOLVERS
from ifuvit.playground.config import PlaygroundConfig
from ifuvit.playground.images import enlarged, overlay
from ifuvit.playground.messages import ALL_BLOCKS, Progress, Request, WordMaps
from ifuvit.playground.models import ModelProcess, Models, no_garbage
from ifuvit.shipped import DEFAULT_MODEL, find
from ifuvit.shipped import names as shipped_names
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    import fastapi
    import gradio

_NONE = "none"
_MOST_SEEDS = 2**32
_STYLE = """
.gradio-container { max-width: 80rem !important; margin: 0 auto !important; }
.pixelated img { image-rendering: pixelated; }
"""


def serve(config: PlaygroundConfig, *, say: Callable[[str], None]) -> None:
    """Serve the page until interrupted.

    Args:
        say: called with what the user should know; first with the address, where a browser may ask from then on.

    Raises:
        InputError: gradio is not installed, a model that there is not or that cannot be loaded, a device that there is not, or
            a port that is taken.
    """
    if find_spec("gradio") is None:
        raise InputError("the playground requires gradio, which is not installed: pip install 'ifuvit[playground]'")
    names = config.model or (DEFAULT_MODEL, *(name for name in shipped_names() if name != DEFAULT_MODEL))
    for name in names:
        find(name)
    with (
        _listen(config) as listening,
        tempfile.TemporaryDirectory(prefix="ifuvit-playground-") as directory,
        ThreadPoolExecutor(1) as waiting,
        ModelProcess(config.device) as models,
    ):
        loading = waiting.submit(lambda: list(models.ask(names[:1])))
        host = f"[{config.host}]" if ":" in config.host else config.host
        url = f"http://{host}:{config.port}/"
        say(f"the playground is at {url}; Ctrl-C ends it")
        if config.host not in ("127.0.0.1", "localhost", "::1"):
            say("others can reach this server, and generate images with it")
        if config.open:
            webbrowser.open(url)  # it waits until the server accepts
        # Read when gradio is imported. It would ask a server for its newest version, and tell it that it runs.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": directory}
        with no_garbage():
            import uvicorn

            app = make_app(make_page(config, names, models, Path(directory)))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))

        def stop_if_failed(loading: Future[Any]) -> None:
            if loading.exception():
                server.should_exit = True

        loading.add_done_callback(stop_if_failed)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
        if loading.done():
            loading.result()


def _listen(config: PlaygroundConfig) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        return socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(
            f"--host {config.host} --port {config.port}: cannot listen there ({why}); give another --port"
        ) from None


def make_app(page: "gradio.Blocks") -> "fastapi.FastAPI":
    """The page as an application. gradio's own `launch` would ask its own server whether it answers, through a proxy if the
    environment has one, and offer to share the page with the world."""
    import fastapi
    import gradio

    return gradio.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        page,
        path="/",
        ssr_mode=False,
        footer_links=[],
        show_error=True,
        theme=_theme(),
        css=_STYLE,
    )


@dataclass
class Shown:
    """What a visitor has before them: of both sides the images and the attention, and the history."""

    images: list[list[Any]] = field(default_factory=lambda: [[], []])
    attention: list[WordMaps | str] = field(default_factory=lambda: ["", ""])
    chosen: int = 0
    """The image whose attention is shown."""
    history: list[Any] = field(default_factory=list)


def make_page(
    config: PlaygroundConfig, names: tuple[str, ...], models: Models | ModelProcess, directory: Path
) -> "gradio.Blocks":
    """The page.

    Args:
        names: of the models to choose from, the first ones chosen.
        models: what generates.
        directory: for archives of histories; gradio must be allowed to read it.
    """
    import gradio

    from ifuvit.playground.history import MAX_IMAGES, entries, write_archive

    with gradio.Blocks(title="ifuvit playground", analytics_enabled=False) as page:
        shown = gradio.State(Shown(), time_to_live=3600)
        gradio.Markdown("# ifuvit playground")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                prompt = gradio.Textbox("three sheep on grass", label="Prompt", lines=2)
                negative = gradio.Textbox("", label="Negative prompt", placeholder="none: the null caption")
                with gradio.Row():
                    go = gradio.Button("Generate", variant="primary")
                    stop = gradio.Button("Stop")
                with gradio.Row():
                    seed = gradio.Number(0, label="Seed", precision=0, minimum=0, maximum=_MOST_SEEDS - 1)
                    other_seed = gradio.Button("Another seed")
                images = gradio.Slider(1, config.max_images, 1, step=1, label="Images")
                steps = gradio.Slider(1, config.max_steps, config.steps, step=1, label="Steps")
                scale = gradio.Slider(0, 15, DEFAULT_SETTINGS.guidance_scale, step=0.5, label="Guidance scale w")
                with gradio.Accordion("More settings", open=False):
                    low = gradio.Slider(0, 1, 0, step=0.05, label="Guide from noise level")
                    high = gradio.Slider(0, 1, 1, step=0.05, label="to noise level (1 is pure noise)")
                    solver = gradio.Dropdown(list(SOLVERS), value="auto", label="Solver")
                left = gradio.Dropdown(list(names), value=names[0], label="Model")
                right = gradio.Dropdown(
                    [_NONE, *names],
                    value=names[1] if len(config.model) > 1 else _NONE,
                    label="Second model, from the same noise",
                )
            with gradio.Column(scale=3):
                status = gradio.Markdown("The first image takes a few seconds.")
                with gradio.Row():
                    galleries = [
                        gradio.Gallery(
                            label=name,
                            format="png",
                            columns=2,
                            object_fit="contain",
                            elem_classes="pixelated",
                            interactive=False,
                            visible=visible,
                        )
                        for name, visible in ((names[0], True), (_NONE, len(config.model) > 1))
                    ]
                word = gradio.Radio([], label="Where is a word looked at? Click one")
                block = gradio.Dropdown([ALL_BLOCKS], value=ALL_BLOCKS, label="Block")
                with gradio.Row():
                    maps = [
                        gradio.Image(
                            label="Attention",
                            format="png",
                            interactive=False,
                            visible=False,
                            height=400,
                            buttons=["download"],
                        )
                        for _ in range(2)
                    ]
                with gradio.Accordion("History", open=False):
                    past = gradio.Gallery(
                        label=f"The last {MAX_IMAGES} images",
                        format="png",
                        columns=6,
                        fit_columns=False,
                        elem_classes="pixelated",
                        interactive=False,
                    )
                    download = gradio.DownloadButton("Download images and settings", interactive=False)

        # gradio finds the visitor's session by the annotation of a plain parameter.
        def run(
            before: Shown,
            prompt: str,
            negative: str,
            seed: float | None,
            count: float,
            steps: float,
            scale: float,
            low: float,
            high: float,
            solver: str,
            left: str,
            right: str,
            session: gradio.Request,
        ) -> "Iterator[dict[Any, Any]]":
            try:
                request = make_request(prompt, negative, seed, count, steps, scale, low, high, solver)
                request.check(max_steps=config.max_steps, max_images=config.max_images)
                chosen = [name for name in (left, right) if name != _NONE]
                if unknown := set(chosen) - set(names):
                    raise InputError(f"model {sorted(unknown)[0]!r}: not one of this page's")
                now = Shown(history=list(before.history))
                yield {status: "starting ...", galleries[1]: gradio.Gallery(visible=len(chosen) > 1)} | {
                    one: gradio.Image(visible=False) for one in maps
                }
                for side, progress in models.ask(chosen, request):
                    name = chosen[side]
                    yield {
                        galleries[side]: gradio.Gallery(
                            [enlarged(image) for image in progress.images], label=name, visible=True
                        ),
                        status: told(name, progress, request),
                    }
                    if progress.finished:
                        now.images[side], now.attention[side] = progress.images, progress.attention
                        now.history = [*entries(name, request, progress.images), *now.history][:MAX_IMAGES]
                archive = write_archive(now.history, directory / f"{session.session_hash}.zip")
            except InputError as error:
                raise gradio.Error(str(error), title="Not possible", print_exception=False) from None
            found = [one for one in now.attention if not isinstance(one, str)]
            words = [(one.text, number) for number, one in enumerate(found[0].tokens.words)] if found else []
            content = [n for n, one in enumerate(found[0].tokens.words) if one.category == "content"] if found else []
            first = (content or [None])[0]
            blocks = list(dict.fromkeys(name for one in found for name in one.maps)) or [ALL_BLOCKS]
            yield {
                shown: now,
                word: gradio.Radio(words, value=first),
                block: gradio.Dropdown(blocks, value=ALL_BLOCKS),
                past: [(enlarged(entry.image), entry.label) for entry in now.history],
                download: gradio.DownloadButton(value=str(archive), interactive=True),
                **attention(now, first, ALL_BLOCKS),
            }

        def told(name: str, progress: Progress, request: Request) -> str:
            what = "done" if progress.finished else "at work"
            why = progress.attention if isinstance(progress.attention, str) else ""
            of = f"evaluation {progress.step} of the network, {request.settings.steps} solver steps"
            return f"{name}: {what}, {of}, {progress.seconds:.1f} s" + (f"; no attention: {why}" if why else "")

        def attention(now: Shown, number: int | None, block: str) -> dict[Any, Any]:
            """The maps of a word in a block over the chosen image of both sides."""
            updates = {}
            for one, pictures, found in zip(maps, now.images, now.attention, strict=True):
                if isinstance(found, str) or block not in found.maps or number is None or now.chosen >= len(pictures):
                    updates[one] = gradio.Image(visible=False)
                    continue
                values = found.maps[block]
                of_word = values[now.chosen, number]
                label = f"{found.tokens.words[number].text}: mean {100 * of_word.mean():.2g} %, at most {100 * of_word.max():.2g} %"
                updates[one] = gradio.Image(overlay(pictures[now.chosen], of_word), label=label, visible=True)
            return updates

        def choose(now: Shown, number: int | None, block: str, event: gradio.SelectData) -> dict[Any, Any]:
            now.chosen = int(event.index)
            return {shown: now, **attention(now, number, block)}

        inputs = [shown, prompt, negative, seed, images, steps, scale, low, high, solver, left, right]
        outputs = [*galleries, status, shown, word, block, past, download, *maps]
        running = gradio.on(
            [go.click, prompt.submit], run, inputs, outputs, concurrency_limit=1, show_progress="hidden"
        )
        stop.click(None, cancels=[running])
        other_seed.click(lambda: random.randrange(_MOST_SEEDS), None, seed)
        gradio.on([word.input, block.input], attention, [shown, word, block], maps, show_progress="hidden")
        for gallery in galleries:
            gallery.select(choose, [shown, word, block], [shown, *maps], show_progress="hidden")
    page.queue(max_size=config.max_waiting)
    return page


def make_request(
    prompt: str,
    negative: str,
    seed: float | None,
    images: float,
    steps: float,
    guidance_scale: float,
    low: float,
    high: float,
    solver: str,
) -> Request:
    """The request of the page's fields.

    Raises:
        InputError: a field that is empty or outside its range.
    """
    if seed is None:
        raise InputError(f"the seed is empty; give a number from 0 to {_MOST_SEEDS - 1}")
    settings = DEFAULT_SETTINGS.changed(
        steps=int(steps), guidance_scale=float(guidance_scale), guidance_interval=(low, high), solver=solver
    )
    return Request(
        prompt=" ".join(prompt.split()),
        negative_prompt=" ".join(negative.split()),
        seed=int(seed),
        images=int(images),
        settings=settings,
    )


def _theme() -> Any:
    """gradio's plainest, with fonts of the system: others come from a server."""
    import gradio

    return gradio.themes.Base(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
