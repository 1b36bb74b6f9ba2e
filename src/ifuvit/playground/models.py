"""The models of a page, in a process of their own: torch is imported there while gradio is imported here, on another processor,
and sampling never holds up the page."""

import contextlib
import gc
import signal
import threading
import traceback
from collections.abc import Generator, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from ifuvit.playground.messages import Progress, Request
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from ifuvit.pipeline import Pipeline


class Models:
    """Pipelines by name, loaded when they are first asked for, in this process."""

    def __init__(self, device: str) -> None:
        self._device, self._loaded = device, {}

    def __getitem__(self, name: str) -> "Pipeline":
        if name not in self._loaded:
            with no_garbage():
                from ifuvit.pipeline import Pipeline
                from ifuvit.utils.devices import find_device

                self._loaded[name] = Pipeline.from_pretrained(name, device=find_device(self._device))
        return self._loaded[name]

    def ask(self, names: Sequence[str], request: Request | None = None) -> Generator[tuple[int, Progress], None, None]:
        """Load models, and generate with one after the other. An iterator that is closed stops the sampling.

        Returns:
            the place of a name among `names`, and what its model does; nothing without a request.

        Raises:
            InputError: a model or a device that cannot be used, or settings that a model does not take.
        """
        pipelines = [self[name] for name in names]
        from ifuvit.playground.generation import generate  # only now: it imports torch

        if request is None:
            return
        for pipeline in pipelines:
            pipeline.objective.resolve_solver(request.settings.solver)
        for place, pipeline in enumerate(pipelines):
            with contextlib.closing(generate(pipeline, request)) as progress:
                for one in progress:
                    yield place, one


class ModelProcess:
    """`Models` in another process, which ends with the block, and with this process."""

    def __init__(self, device: str) -> None:
        context = get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_answer, args=(there, device), daemon=True)
        self._process.start()
        there.close()
        self._lock = threading.Lock()

    def __enter__(self) -> "ModelProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def ask(self, names: Sequence[str], request: Request | None = None) -> Generator[tuple[int, Progress], None, None]:
        """`Models.ask`. One asks at a time, others wait.

        Raises:
            InputError: as there, or the process is gone.
        """
        with self._lock:
            self._tell((names, request))
            answer = self._hear()
            try:
                while isinstance(answer, tuple):
                    yield answer
                    answer = self._hear()
            finally:
                if isinstance(answer, tuple):  # nobody waits for the rest
                    self._tell(None)
                    while isinstance(self._hear(), tuple):
                        pass
            if isinstance(answer, BaseException):
                raise answer

    def _tell(self, message: Any) -> None:
        with _gone():
            self._pipe.send(message)

    def _hear(self) -> Any:
        with _gone():
            return self._pipe.recv()


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError):
        raise InputError(
            "the process of the models has ended, killed perhaps, for it took too much memory; start the playground again"
        ) from None


def _answer(pipe: Connection, device: str) -> None:
    """What the process does: for every request tuples of `Models.ask`, at the end the error or None. A message that comes
    meanwhile, always None, stops it."""
    from ifuvit.utils.devices import keep_freed_memory

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes here too; the process of the page ends this one
    keep_freed_memory()
    models = Models(device)
    with contextlib.suppress(EOFError, OSError):  # the process of the page is gone
        while True:
            asked = pipe.recv()
            if asked is None:
                continue  # a stop, seen below or come too late
            failure = None
            try:
                with contextlib.closing(models.ask(*asked)) as answers:
                    for answer in answers:
                        pipe.send(answer)
                        if pipe.poll():
                            break
            except Exception as error:  # it is raised where the user sees it
                error.add_note(f"In the process of the models: {traceback.format_exc()}")
                failure = error
            pipe.send(failure)


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Nothing is collected in the block, nor what is left of it later. Imports make hundreds of thousands of objects that stay;
    looking through them again and again takes a fifth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
