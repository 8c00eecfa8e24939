"""Evaluation: tasks, metrics, prompting, records and reports."""

from vlm._layout import check_datasets_package

check_datasets_package()
