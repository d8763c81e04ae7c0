"""The baselines that stand in every table: the challenge's two of 2021, and a floor that costs nothing.

A baseline lives in its work folder. `run` trains it there, `folder` owns what a finished one consists of, `contender`
opens it to score. What it is stands in `autoencoder`, `mobilenetv2` and `floor`; the facts of the first two are those
of the challenge's public code (y-kawagu/dcase2021_task2_baseline_ae and dcase2021_task2_baseline_mobile_net_v2).
"""

from training.baselines.contender import open_baseline

__all__ = ["open_baseline"]
