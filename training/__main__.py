"""`python -m training`."""

import os
import sys

from training.cli import main

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up talk would break the bar

if __name__ == "__main__":
    sys.exit(main())
