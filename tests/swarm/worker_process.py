"""Where worker processes of the tests come from: one process imports everything, and forks at every line.

`python worker_process.py` reads lines "NUMBER FIRST LAST FOLDER" and answers "pid NUMBER PID" and, when that
worker listens, "port NUMBER PORT". The workers are processes of their own, which may be killed and stopped.
"""

import os
import signal
import sys
import threading
import time

import torch

from weft.swarm import listen, load_stage, serve


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # whole lines, also of several writers


def end_with(parent):
    """No worker is left behind by a test that was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def work(number, folder, first, last):
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    stage = load_stage(folder, first, last)
    with listen() as listener:
        say("port", number, listener.getsockname()[1])
        serve(stage.answer, listener)


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    for line in sys.stdin:
        number, first, last, folder = line.rstrip("\n").split(" ", 3)
        pid = os.fork()
        if pid == 0:
            work(number, folder, int(first), int(last))
            os._exit(0)
        say("pid", number, pid)
