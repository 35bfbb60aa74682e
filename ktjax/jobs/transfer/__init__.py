"""Transfers: one student, one or more teachers."""

from ktjax.jobs.transfer.job import check, execute, run

__all__ = ["check", "execute", "run"]
