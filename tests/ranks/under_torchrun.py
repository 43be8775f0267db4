"""What a user starts with torchrun: each rank takes its place from the environment, trains, and leaves its result."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ranks import scenarios


def main(folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        rank = dist.get_rank()
        torch.save(scenarios.twenty_steps(rank, dist.get_world_size()), Path(folder, str(rank)))
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
