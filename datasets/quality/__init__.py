"""Shards → cleaner shards: `python -m datasets.quality SRC DST`, with a reason for every sample that is dropped.

In order, cheapest first: length and language (`rules`), the word list together with the trained classifier (`wordlist`,
`classifier`), overlap with an evaluation set (`overlap`), exact and near duplicates (`pictures`, `near`, `seen`). The first
that a sample breaks is its reason. A pass streams: it holds one sample, and of what it kept at most 2 kB a document and 0.5 kB
a picture.
"""
