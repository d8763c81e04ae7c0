"""The study: what the paper leaves open, compared at equal training budget on any recordings.

`plan` says what is compared, `clips` which clips, `modifications` what stands in for faults, `runner` trains and keeps
embeddings, `members` scores with one network, `report` sums members up to systems and makes the table.
"""
