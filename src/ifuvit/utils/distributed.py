"""The processes that work together under `accelerate launch` or `torchrun`: who does which share, and gathering."""

import atexit
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of one launch."""

    rank: int = 0
    count: int = 1

    @classmethod
    def init(cls) -> "tuple[Processes, torch.device]":
        """Initialize the process group of the launch, if there are several processes. Also gives this process's own
        device."""
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.accelerator.is_available())
        assert state.device is not None
        destroy_process_group_at_exit()
        return cls(state.process_index, state.num_processes), state.device

    @classmethod
    def current(cls) -> "Processes":
        """Those of the process group that is initialized; this one alone if none is."""
        import torch.distributed as dist

        several = dist.is_available() and dist.is_initialized()
        return cls(dist.get_rank(), dist.get_world_size()) if several else cls()

    @classmethod
    def from_environment(cls) -> "Processes":
        """Those of RANK and WORLD_SIZE, as torchrun, accelerate launch and schedulers set them, without a process group:
        for work that is divided through the disk.

        Raises:
            InputError: they are not numbers, or do not go together.
        """
        values = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        try:
            rank, count = map(int, values)
        except ValueError:
            rank, count = -1, 0
        if not 0 <= rank < count:
            raise InputError(f"RANK={values[0]} and WORLD_SIZE={values[1]} in the environment do not go together")
        return cls(rank, count)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's items: every `count`-th from its rank on."""
        return list(items[self.rank :: self.count])

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def all_gather(self, work: Callable[[], T]) -> list[T]:
        """What `work` returns in each process, by rank, in all of them.

        Raises:
            InputError: of any process, in all of them: the others would wait for it forever.
        """
        if self.count == 1:
            return [work()]
        import torch.distributed as dist

        try:
            mine: T | InputError = work()
        except InputError as error:
            mine = error
        results: list = [None] * self.count
        dist.all_gather_object(results, mine)
        for result in results:
            if isinstance(result, InputError):
                raise result
        return results


def destroy_process_group_at_exit() -> None:
    """Destroy the process group before the interpreter ends. Otherwise a thread of the group that still runs aborts it now
    and then: SIGABRT instead of the exit status, "terminate called without an active exception"."""
    atexit.unregister(_destroy_process_group)
    atexit.register(_destroy_process_group)


def _destroy_process_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@overload
def merge_shares(parts: Sequence[np.ndarray]) -> np.ndarray: ...
@overload
def merge_shares(parts: Sequence[list[T]]) -> list[T]: ...
def merge_shares(parts: Sequence) -> Any:
    """The results of the processes' `share`s, by rank, in the order of the items: rows or a list."""
    first, length = parts[0], sum(map(len, parts))
    whole = np.empty((length, *first.shape[1:]), first.dtype) if isinstance(first, np.ndarray) else [None] * length
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole
