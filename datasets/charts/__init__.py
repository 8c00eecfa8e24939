"""Generator of charts with tables, questions and checkable rationales: the project's default data."""
