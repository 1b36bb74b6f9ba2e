"""The processes that evaluate together under `accelerate launch` or `torchrun`: who does which share, and gathering."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of one launch."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "tuple[Processes, torch.device]":
        """Meet the other processes of the launch, if there are any. Also gives this process's own device."""
        from accelerate import PartialState

        state = PartialState()
        assert state.device is not None
        return cls(state.process_index, state.num_processes), state.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's items: every `count`-th from its rank on."""
        return list(items[self.rank :: self.count])

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def gather(self, mine: np.ndarray, total: int) -> np.ndarray:
        """The rows of `share`s of `total` items, put together in the items' order, on every process."""
        if self.count == 1:
            return mine
        import torch.distributed as dist

        parts: list[np.ndarray] = [mine] * self.count
        dist.all_gather_object(parts, mine)
        whole = np.empty((total, *mine.shape[1:]), mine.dtype)
        for rank, part in enumerate(parts):
            whole[rank :: self.count] = part
        return whole

    def sum(self, number: int) -> int:
        """The sum of every process's number, on every process."""
        return int(self.gather(np.array([number]), self.count).sum())
