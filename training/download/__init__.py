"""The data sets of the challenge, from their records on Zenodo to a tree that `training.recordings` reads.

`catalogue` knows which records a year has, `records` what they say; `transfer` fetches their files with the `patience`
that a network needs; `zips` judges archives, `labels` reads what is no recording, `unpacking` puts folders into their
`places`; `year` plans it all and carries it out.
"""
