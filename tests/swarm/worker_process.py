"""A worker process of the tests: `python worker_process.py FOLDER FIRST LAST`; prints its port."""

import sys

import torch

from weft.swarm import listen, load_stage, serve

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, first, last = sys.argv[1:]
    stage = load_stage(folder, int(first), int(last))
    with listen() as listener:
        print(listener.getsockname()[1], flush=True)
        serve(stage.answer, listener)
