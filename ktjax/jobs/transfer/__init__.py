"""Transfers: one student, one or more teachers."""

from ktjax.jobs.transfer.checks import check, check_labels, identity
from ktjax.jobs.transfer.job import execute, load_data, run

__all__ = ["check", "check_labels", "execute", "identity", "load_data", "run"]
