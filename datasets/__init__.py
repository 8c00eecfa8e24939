"""Data: shards in, streams of packed batches out. Sources, mixtures, packing, the tokenizer, converters and chart generator.

A widely used package has the same name. Commands are run from the repository root, where this one is found first;
`vlm._layout.check_datasets_package` says so in one line where it is not.
"""
