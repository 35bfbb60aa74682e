"""Studies: transfers between all pairs of students and teachers."""

from ktjax.jobs.study.job import check, execute, run

__all__ = ["check", "execute", "run"]
