"""Run as a script by a test: trains the crop stage in processes that are killed with SIGKILL at random moments, and started again.

Arguments: FOLDER NUM_PROCESSES NUM_KILLS STEPS SEED. Processes are forks of this one, which has imported everything and computed nothing:
a start takes a tenth of a second. The environment says to each what torchrun would. Prints the step that each kill had reached.
"""

import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from pipelines.config import load_params
from pipelines.training.stage import train_stage


def fork(rank: int, num: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    if num > 1:
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num, "LOCAL_WORLD_SIZE": num, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in world.items()}, MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test")
    code = 1
    try:
        train_stage("crop", load_params().train)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def start(num: int) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [fork(rank, num, port) for rank in range(num)]


def reached() -> int:
    return max((int(path.name[5:]) for path in Path().glob("checkpoints/crop-*/step-*") if path.suffix == ""), default=0)


def ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    os.chdir(sys.argv[1])
    num, num_kills, steps, seed = map(int, sys.argv[2:])
    rng = random.Random(seed)
    targets = sorted(rng.sample(range(1, steps - 2), num_kills))
    for target in targets:
        pids = start(num)
        deadline = time.monotonic() + 120
        while reached() < target and not any(map(ended, pids)):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))  # anywhere within a step, or within the writing of a checkpoint
        assert not any(map(ended, pids)), "ended by itself"
        for pid in rng.sample(pids, num):  # all of them, in any order
            os.kill(pid, signal.SIGKILL)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [signal.SIGKILL] * num
        assert not Path("models/crop/model.safetensors").exists()
        print(reached(), flush=True)
    codes = [os.waitpid(pid, 0)[1] for pid in start(num)]
    assert codes == [0] * num, codes


if __name__ == "__main__":
    main()
