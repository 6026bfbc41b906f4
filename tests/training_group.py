"""Run by torchrun in a test: trains every case in one group of processes. Arguments: `FOLDER STAGE` for each case."""

import os
import sys
from itertools import pairwise

from pipelines.config import load_params
from pipelines.training.stage import train_stage

if __name__ == "__main__":
    for folder, stage in list(pairwise(sys.argv[1:]))[::2]:
        os.chdir(folder)
        train_stage(stage, load_params().train)
