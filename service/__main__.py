"""``python -m service``: see `service.cli`.

BLAS and OpenMP read these two variables once, when numpy is loaded: with more than one thread each, the pools of
decoding, features and mixtures would fight the encoder's threads for the same cores.
"""

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from service.cli import main

if __name__ == "__main__":
    sys.exit(main())
