"""Transfers: one student, one or more teachers."""

from ktjax.jobs.transfer.job import check, check_labels, execute, identity, load_data, run

__all__ = ["check", "check_labels", "execute", "identity", "load_data", "run"]
