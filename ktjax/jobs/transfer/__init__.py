"""Transfers: one student, one or more teachers."""

from ktjax.jobs.transfer.job import run

__all__ = ["run"]
