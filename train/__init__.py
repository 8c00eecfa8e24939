"""Training: the `fit` command, its stages, parallelism, checkpoints and monitors."""

from vlm._layout import check_datasets_package

check_datasets_package()
