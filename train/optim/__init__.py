"""Optimizers: which parameter learns by which rule and rate, AdamW, Muon, schedules."""
