"""Start several processes that talk over gloo, run one scenario on each, and give back what each returned.

``run(("scenario", …), n)`` starts a fresh interpreter, which forks n ranks of itself: torch is loaded once, and no
thread of the test process is forked.
"""

from __future__ import annotations

import datetime
import importlib
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

HERE = Path(__file__)
KILLED = 7  # the exit status of a rank that a scenario kills


def run(scenarios: tuple[str, ...], n: int, seconds: float = 120) -> dict[str, list[Any]]:
    """The result of each rank of each scenario, None of one that was killed; the scenarios run side by side.

    An error that a rank does not handle fails here.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "error", str(HERE), folder, str(n), *scenarios]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return {name: [_load(Path(folder, f"{name}-{rank}")) for rank in range(n)] for name in scenarios}


def _load(file: Path) -> Any:
    return torch.load(file, weights_only=False) if file.exists() else None


def _rank(rank: int, scenario: str, n: int, folder: str) -> None:
    store = dist.FileStore(str(Path(folder, scenario)), n)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n, timeout=datetime.timedelta(seconds=60))
    dist.barrier()  # so that timeouts do not measure how long the ranks took to start
    try:
        result = getattr(importlib.import_module("ranks.scenarios"), scenario)(rank, n)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    torch.save(result, Path(folder, f"{scenario}-{rank}"))
    os._exit(0)  # without a farewell to ranks that may be gone


def main(folder: str, n: int, scenarios: list[str]) -> int:
    torch.set_num_threads(1)
    for module in ("ranks.scenarios", "torch._dynamo"):  # once for all ranks; DistributedDataParallel needs the second
        importlib.import_module(module)
    ranks = torch.multiprocessing.get_context("fork")
    processes = [ranks.Process(target=_rank, args=(r, name, n, folder)) for name in scenarios for r in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(0 if process.exitcode == KILLED else abs(process.exitcode or 0) for process in processes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
